"""Frame stacks: what the learner rebuilds is what the collector saw, from frames stored once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_writing import write_frames

from agents import ArraySpec, Specs
from pipeline.acting.frame_stacks import FrameStack, stack_windows, stacked
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.sampling import decode


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ArraySpec((84, 84, 1), "uint8", (255,)), ArraySpec((84, 84, 4), "uint8", (255,))),
        (ArraySpec((10, 10, 3), "uint8", (1,)), ArraySpec((10, 10, 12), "uint8", (1,))),
        (ArraySpec((5,), "float32"), ArraySpec((20,), "float32")),
        (ArraySpec((), "float32"), ArraySpec((4,), "float32")),
        (ArraySpec((), "int32", (6,)), ArraySpec((4,), "int32", (6, 6, 6, 6))),
        (ArraySpec((2, 2), "int32", (1, 2, 3, 4)), ArraySpec((2, 8), "int32", (1, 2) * 4 + (3, 4) * 4)),
    ],
)
def test_observations_lie_side_by_side_along_the_last_axis(spec: ArraySpec, expected: ArraySpec) -> None:
    assert stacked(Specs(spec, 3), 4).observation == expected
    assert stacked(Specs({"a": spec, "b": spec}, 3, masked=True), 4) == Specs({"a": expected, "b": expected}, 3, True)


def test_a_stack_of_one_is_the_observation_itself() -> None:
    specs = Specs(ArraySpec((3,), "float32"), 2)
    assert stacked(specs, 1) is specs
    seen = {"": np.ones((2, 3), np.float32)}
    assert FrameStack(specs, 1, 2).push(seen, np.ones(2, np.bool_)) is seen


def test_a_stack_begins_anew_with_its_episode() -> None:
    stack = FrameStack(Specs(ArraySpec((), "float32"), 2), 3, 2)

    def push(*values_and_begins: tuple[float, bool]) -> list[list[float]]:
        values, begins = zip(*values_and_begins, strict=True)
        return stack.push({"": np.float32(values)}, np.bool_(begins))[""].tolist()

    assert push((1, True), (5, True)) == [[0, 0, 1], [0, 0, 5]]
    assert push((2, False), (6, False)) == [[0, 1, 2], [0, 5, 6]]
    assert push((3, False), (7, True)) == [[1, 2, 3], [0, 0, 7]]
    assert push((4, False), (8, False)) == [[2, 3, 4], [0, 7, 8]]


def step_types(ends: list[bool]) -> np.ndarray:
    """Step types of one lane: an episode begins at the start and behind each end."""
    types, begins = [], True
    for end in ends:
        types.append(FIRST if begins else LAST if end else MID)
        begins = types[-1] == LAST
    return np.uint8(types)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5),  # four images of one channel are shifted as words
    st.lists(st.booleans(), min_size=9, max_size=16),
    st.sampled_from([(), (2,), (3, 3, 1), (2, 2, 2), (2, 2, 1)]),
)
def test_rebuilt_stacks_are_those_that_acted(frames: int, ends: list[bool], shape: tuple[int, ...]) -> None:
    specs = Specs(ArraySpec(shape, "uint8", (255,)), 2)
    types = step_types(ends)
    observations = np.random.default_rng(0).integers(1, 256, (len(types), *shape), np.uint8)
    stack = FrameStack(specs, frames, 1)
    acted = [
        stack.push({"": observations[t : t + 1]}, types[t : t + 1] == FIRST)[""][0].copy() for t in range(len(types))
    ]
    leaf = tf.constant(observations[None, None])
    rebuilt = stack_windows(leaf, tf.equal(types[None, None], FIRST), frames)
    np.testing.assert_array_equal(rebuilt[0, 0], np.stack(acted[frames - 1 :]))


@pytest.mark.parametrize(("lanes_per_item", "steps_per_item", "n_step"), [(4, 1, 1), (2, 1, 3), (4, 2, 2), (1, 1, 1)])
def test_the_dataset_hands_out_the_stacks_that_acted(
    serve: Callable[..., Any],
    draw: Any,
    make_experiment: Callable[..., Any],
    lanes_per_item: int,
    steps_per_item: int,
    n_step: int,
) -> None:
    frames, lanes, steps = 3, 4, 40
    specs = Specs(ArraySpec((2, 2, 1), "uint8", (255,)), 2)
    experiment = make_experiment(
        f"environment.frame_stack={frames}",
        f"replay.lanes_per_item={lanes_per_item}",
        f"replay.steps_per_item={steps_per_item}",
        f"agent.n_step={n_step}",
    )
    layout, server = FrameLayout.of(experiment, specs), serve(experiment, specs)
    written = np.stack([layout.empty(lanes) for _ in range(steps)])
    types = np.stack([step_types([(t + lane) % 7 == 6 for t in range(steps)]) for lane in range(lanes)], axis=1)
    written["step_type"] = types
    written["gradient_steps"] = np.arange(steps)[:, None]  # names the step that a window begins in, and
    written["action"] = np.arange(lanes)  # its lane
    written["observation/"] = np.random.default_rng(0).integers(1, 256, (steps, lanes, 2, 2, 1))
    stack = FrameStack(specs, frames, lanes)
    acted = np.stack([stack.push({"": row["observation/"]}, row["step_type"] == FIRST)[""].copy() for row in written])

    writer = write_frames(server, experiment, layout, written)
    drawn = draw(server, 60)

    transitions = (steps - n_step) * lanes
    assert writer.book.confirmed_windows == transitions
    seen = set()
    for observation, start, lane in zip(
        drawn["observation"], drawn["gradient_steps"], drawn["action"][:, 0], strict=True
    ):
        np.testing.assert_array_equal(observation, acted[start : start + n_step + 1, lane])
        seen.add((int(start), int(lane)))
    assert len(seen) == transitions
    writer.close()


def test_what_is_no_observation_is_not_stacked() -> None:
    layout = FrameLayout(Specs(ArraySpec((2,), "float32"), 2, masked=True), state_units=3, stack=4)
    trajectory, versions = decode(tf.zeros((2, 5, 3 + 2, layout.num_bytes), tf.uint8), layout)
    observation, mask = trajectory.observation
    assert observation.shape == (2, 5, 2, 8)
    assert mask.shape == (2, 5, 2, 2)
    assert trajectory.policy_info.shape == (2, 5, 2, 3)
    assert trajectory.reward.shape == trajectory.action.shape == (2, 5, 2)
    assert versions.shape == (2, 5)
