"""Frames: what collectors pack is what the learner unpacks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ArraySpec, Specs
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.sampling import decode

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def array_specs(draw: Any) -> ArraySpec:
    shape, dtype = draw(SHAPES), draw(st.sampled_from(("float32", "uint8", "int32")))
    maximum = {"float32": (), "uint8": (255,), "int32": (9,) * int(np.prod(shape))}[dtype]
    return ArraySpec(shape, dtype, maximum)


NAMES = st.text("abc/ 0é", min_size=1, max_size=4)
SPECS = st.builds(
    Specs,
    array_specs() | st.dictionaries(NAMES, array_specs(), min_size=1, max_size=3),
    st.integers(1, 4),
    st.booleans(),
)


def random_frames(layout: FrameLayout, outer: tuple[int, ...], seed: int) -> Any:
    """Frames of any bytes, apart from booleans, which are 0 or 1."""
    random = np.random.default_rng(seed)
    frames = np.frombuffer(random.bytes(int(np.prod(outer)) * layout.num_bytes), layout.dtype).reshape(outer).copy()
    for name in ("terminated", *(["mask"] if layout.specs.masked else [])):
        frames[name] = random.integers(0, 2, frames[name].shape)
    return frames


def same_bytes(tensor: Any, values: Any, dtype: Any) -> bool:
    array, expected = tensor.numpy(), np.asarray(values).astype(dtype)
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()


@settings(max_examples=40)
@given(SPECS, st.integers(0, 2**32), st.lists(st.integers(1, 3), max_size=2).map(tuple), st.integers(1, 4))
def test_decoding_gives_back_what_was_packed(specs: Specs, seed: int, batch: tuple[int, ...], window: int) -> None:
    layout = FrameLayout(specs)
    outer = (*batch, window)
    frames = random_frames(layout, outer, seed)
    packed = layout.as_bytes(frames.reshape(-1)).reshape(*outer, layout.num_bytes)

    trajectory, gradient_steps = decode(packed, layout)

    observation = trajectory.observation
    if specs.masked:
        observation, mask = observation
        assert same_bytes(mask, frames["mask"], np.bool_)
    leaves = specs.leaves()
    assert set(observation if isinstance(observation, dict) else {"": 0}) == set(leaves)
    for name, spec in leaves.items():
        leaf = observation[name] if isinstance(observation, dict) else observation
        assert same_bytes(leaf, frames[layout.leaf_field(name)], spec.dtype)
    assert same_bytes(trajectory.action, frames["action"], np.int64)
    assert same_bytes(trajectory.reward, frames["reward"], np.float32)
    assert same_bytes(trajectory.discount, 1.0 - frames["terminated"], np.float32)
    assert same_bytes(trajectory.step_type, frames["step_type"], np.int32)
    assert same_bytes(trajectory.next_step_type, frames["next_step_type"], np.int32)
    assert same_bytes(gradient_steps, frames["gradient_steps"][..., 0], np.int32)


@given(SPECS)
def test_bytes_are_a_view_of_the_frames(specs: Specs) -> None:
    layout = FrameLayout(specs)
    frames = layout.empty(3)
    packed = layout.as_bytes(frames)
    assert packed.shape == (3, layout.num_bytes)
    assert not packed.any()
    frames["action"][1] = 1
    assert packed[1].any()
    assert not packed[[0, 2]].any()


def test_step_types_are_those_of_tf_agents() -> None:
    from tf_agents.trajectories import StepType

    assert (int(StepType.FIRST), int(StepType.MID), int(StepType.LAST)) == (FIRST, MID, LAST)


BASE = Specs({"a": ArraySpec((2,), "float32"), "b": ArraySpec((), "int32", (3,))}, 3)


def test_equal_specs_have_equal_columns() -> None:
    other = Specs({"b": ArraySpec((), "int32", (3,)), "a": ArraySpec((2,), "float32")}, 3)
    assert FrameLayout(BASE).table == FrameLayout(other).table


@pytest.mark.parametrize(
    "other",
    [
        Specs({"a": ArraySpec((3,), "float32"), "b": ArraySpec((), "int32", (3,))}, 3),
        Specs({"a": ArraySpec((2,), "int32", (1, 1)), "b": ArraySpec((), "int32", (3,))}, 3),
        Specs({"c": ArraySpec((2,), "float32"), "b": ArraySpec((), "int32", (3,))}, 3),
        Specs({"a": ArraySpec((1, 2), "float32"), "b": ArraySpec((), "int32", (3,))}, 3),
        Specs({"a": ArraySpec((2,), "float32")}, 3),
        BASE._replace(masked=True),
    ],
    ids=["shape", "dtype", "name", "rank", "leaf", "mask"],
)
def test_another_layout_has_another_column(other: Specs) -> None:
    assert FrameLayout(other).table != FrameLayout(BASE).table


def test_the_number_of_masked_actions_is_part_of_the_layout() -> None:
    three, four = BASE._replace(masked=True), BASE._replace(masked=True, num_actions=4)
    assert FrameLayout(three).table != FrameLayout(four).table
