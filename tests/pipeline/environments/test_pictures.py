"""Pictures in any layout: which parts are taken as some, what the network then sees, and what is said of the rest."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ArraySpec, DqnConfig, Specs
from pipeline.acting.frame_stacks import FrameStack, stacked
from pipeline.environments.lanes.pictures import remarks
from pipeline.environments.lanes.spaces import specs_of
from pipeline.experiment.config import UsageError, dump, parse

ACTIONS = spaces.Discrete(3)


def leaf_of(space: spaces.Space[Any], *settings: Any) -> ArraySpec:
    (leaf,) = specs_of(space, ACTIONS, False, *settings).leaves().values()
    return leaf


def arranged(values: Any, spec: ArraySpec) -> Any:
    """A batch as the convolutions see it."""
    picture = spec.as_picture()
    assert picture is not None
    apart = values.reshape(len(values), *picture.split)
    return apart.transpose(0, *(axis + 1 for axis in picture.order)).reshape(len(values), *picture.shape)


LAYOUTS = {
    "HWC": lambda image: image,
    "CHW": lambda image: np.moveaxis(image, -1, 1),
    "KHWC": lambda image: np.moveaxis(image.reshape(*image.shape[:3], 2, -1), 3, 1),
    "KCHW": lambda image: np.moveaxis(image.reshape(*image.shape[:3], 2, -1), (3, 4), (1, 2)),
    "HWCK": lambda image: np.moveaxis(image.reshape(*image.shape[:3], 2, -1), 3, 4),
}
"""Each from batches of [height, width, channels], which of a stack are the frames' one after the other."""


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from([*LAYOUTS, "HW"]),
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    channels=st.sampled_from([1, 3, 4]),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
    high=st.sampled_from([1, 255]),
    frames=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_every_layout_is_guessed_and_arranged(
    layout: str, height: int, width: int, channels: int, dtype: Any, high: int, frames: int, seed: int
) -> None:
    is_stack = "K" in layout
    depth = 1 if layout == "HW" else channels * 2 if is_stack else channels
    image = np.random.default_rng(seed).integers(0, high + 1, (frames, height, width, depth)).astype(dtype)
    given = image[..., 0] if layout == "HW" else LAYOUTS[layout](image)
    space = spaces.Box(0, high, given.shape[1:], dtype)
    spec = leaf_of(space)
    assert spec.picture_axes == layout
    assert leaf_of(space, [""], layout).picture_axes == layout
    assert spec.maximum == ((high,) if high == 255 or dtype is np.uint8 else ())
    assert np.array_equal(arranged(given, spec), image)
    # Stacks that environment.frame_stack makes are of the same pictures, one after the other.
    one = Specs(spec, 3)
    stack, whole = FrameStack(one, frames, 1), stacked(one, frames).leaves()[""]
    for frame in range(frames):
        pushed = stack.push({"": given[frame : frame + 1].astype(spec.dtype)}, np.array([frame == 0]))[""]
    seen = arranged(pushed, whole)
    expected = np.concatenate(list(image), axis=-1)
    if is_stack:  # of stacks the channels may come in another order
        seen, expected = (np.sort(pixels.reshape(-1, pixels.shape[-1]), axis=1) for pixels in (seen, expected))
    assert np.array_equal(seen.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "low", "high", "axes"),
    [
        ((84, 84, 4), np.uint8, 0, 255, "HWC"),
        ((4, 84, 84), np.uint8, 0, 255, "CHW"),
        ((210, 160, 3), np.uint8, 0, 255, "HWC"),
        ((3, 210, 160), np.uint8, 0, 255, "CHW"),
        ((12, 64, 96), np.uint8, 0, 255, "CHW"),
        ((64, 96, 12), np.uint8, 0, 255, "HWC"),
        ((10, 10, 7), np.bool_, 0, 1, "HWC"),
        ((111, 8, 8), np.float32, 0, 1, "CHW"),
        ((8, 8, 111), np.float32, -1, 1, "HWC"),
        ((40, 40), np.uint8, 0, 1, "HW"),
        ((40, 40), np.float32, 0, 255, "HW"),
        ((5, 5), np.uint8, 0, 255, ""),
        ((5, 5, 2), np.float32, 0, 1, ""),
        ((40, 40), np.float32, -np.inf, np.inf, ""),
        ((3, 40, 40), np.float32, -1000, 1000, ""),
        ((4, 84, 84, 3), np.uint8, 0, 255, "KHWC"),
        ((4, 3, 84, 84), np.float32, 0, 1, "KCHW"),
        ((9, 9, 9, 9), np.float32, 0, 1, ""),
        ((200,), np.uint8, 0, 255, ""),
    ],
)
def test_guesses(shape: tuple[int, ...], dtype: Any, low: float, high: float, axes: str) -> None:
    assert leaf_of(spaces.Box(low, high, shape, dtype)).picture_axes == axes


def test_the_config_decides() -> None:
    plain = spaces.Box(-np.inf, np.inf, (6, 20, 30), np.float32)
    assert leaf_of(plain).picture_axes == ""
    assert leaf_of(plain, None, "CHW").picture_axes == "CHW"
    assert leaf_of(spaces.Box(0, 255, (84, 84, 3), np.uint8), []).picture_axes == ""
    assert leaf_of(spaces.Box(0, 255, (84, 84, 3), np.uint8), None, "CHW").picture_axes == "CHW"
    both = spaces.Dict({"camera": spaces.Box(0, 255, (3, 30, 30), np.uint8), "map": spaces.Box(0, 1, (30, 30))})
    leaves = specs_of(both, ACTIONS, False, ["camera"]).leaves()
    assert (leaves["camera"].picture_axes, leaves["map"].picture_axes) == ("CHW", "")
    leaves = specs_of(both, ACTIONS, False).leaves()
    assert (leaves["camera"].picture_axes, leaves["map"].picture_axes) == ("CHW", "HW")


@pytest.mark.parametrize(
    ("keys", "layout", "words"),
    [
        (["eye"], "auto", "'eye', and the observation's parts are 'camera', 'gear', 'odd'"),
        (["gear"], "auto", "categories"),
        (["camera"], "KHWC", "does not fit 'camera'"),
        (["odd"], "auto", "image_layout"),
    ],
)
def test_what_cannot_be_a_picture_is_refused(keys: list[str], layout: str, words: str) -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (3, 30, 30), np.uint8),
            "gear": spaces.Discrete(4),
            "odd": spaces.Box(0, 1, (17, 18, 19)),
        }
    )
    with pytest.raises(UsageError, match=words):
        specs_of(space, ACTIONS, False, keys, layout)


def test_a_line_says_what_is_flattened_or_unsure() -> None:
    space = spaces.Dict(
        {
            "flat": spaces.Box(-np.inf, np.inf, (40, 40, 3), np.float32),
            "unsure": spaces.Box(0, 255, (17, 18, 19), np.uint8),
            "sure": spaces.Box(0, 255, (17, 18, 3), np.uint8),
            "table": spaces.Box(-np.inf, np.inf, (5, 7), np.float32),
            "state": spaces.Box(-1, 1, (40,), np.float32),
            "category": spaces.MultiDiscrete(np.full((20, 20), 3)),
        }
    )
    flat, unsure = remarks(specs_of(space, ACTIONS, False))
    assert "'flat' of shape (40, 40, 3) is flattened" in flat
    assert "environment.image_keys=['flat']" in flat
    assert "'unsure' of shape (17, 18, 19)" in unsure
    assert "environment.image_layout" in unsure


def test_the_fields_go_through_a_config() -> None:
    lines = ("environment.image_keys=['camera']", "environment.image_layout='CHW'")
    experiment = parse("", lines)
    assert experiment.environment.image_keys == ("camera",)
    assert parse(dump(experiment)) == experiment
    assert parse(dump(parse("", ("environment.image_keys=[]",)))).environment.image_keys == ()
    with pytest.raises(UsageError, match="CHW"):
        parse("", ("environment.image_layout='CWH'",))


@pytest.mark.parametrize(
    ("layout", "dtype", "high", "frames"),
    [("CHW", np.uint8, 255, 1), ("CHW", np.float32, 255, 2), ("HW", np.float32, 1, 2), ("KHWC", np.uint8, 255, 1)],
)
def test_a_network_sees_the_same_picture_in_every_layout(layout: str, dtype: Any, high: int, frames: int) -> None:
    from agents.networks import value_model
    from pipeline.acting import network_program

    config = DqnConfig(hidden_units=(4,), image_torso="minatar")
    channels = {"CHW": 3, "HW": 1, "KHWC": 6}[layout]
    image = (np.random.default_rng(0).random((5 * frames, 20, 17, channels)) * high).astype(dtype)
    given = image[..., 0] if layout == "HW" else LAYOUTS[layout](image)
    values = []
    for pictures, axes in ((image, "HWC"), (given, layout)):
        specs = stacked(Specs(leaf_of(spaces.Box(0, high, pictures.shape[1:], dtype), [""], axes), 3), frames)
        model = value_model(specs, config, None, 0)
        batch = np.concatenate(np.split(pictures, frames), axis=-1)
        values.append(model(batch).numpy())
    assert np.allclose(*values, atol=1e-5)
    assert np.ptp(values[0]) > 0.0
    actor = network_program.make_actor(
        config, specs, len(batch), network_program.convert(model, specs), model.get_weights()
    )
    assert np.allclose(actor.q_values({"": batch}), values[1], atol=1e-4), "a collector's network sees it so, too"


@pytest.mark.parametrize("layout", ["HWC", "CHW", "KHWC"])
def test_the_replays_picture_shows_what_the_network_sees(layout: str) -> None:
    from pipeline.comparison.replay_picture import _as_picture, _is_image

    image = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 6 if layout == "KHWC" else 3)).astype(np.uint8)
    given = LAYOUTS[layout](image)[0]
    spec = leaf_of(spaces.Box(0, 255, given.shape, np.uint8))
    assert _is_image(spec)
    shown = _as_picture(given, spec)
    assert np.array_equal(shown, image[0] if layout != "KHWC" else image[0].max(axis=-1))
