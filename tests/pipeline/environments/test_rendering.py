"""Environments that draw themselves, and what is said of those that do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environments_that_draw import HEIGHT, WIDTH

from pipeline import environments
from pipeline.environments.lanes.rendering import NotRendered, picture, pictures_a_second
from pipeline.environments.price_chart import chart
from pipeline.evaluator.action_names import action_names
from pipeline.experiment.config import UsageError, load
from pipeline.experiment.sections import EnvironmentConfig


def drawing(**kwargs: Any) -> EnvironmentConfig:
    return EnvironmentConfig(id="", import_path="environments_that_draw:Drawing", kwargs=kwargs)


DRAWN = {
    "cartpole": ((400, 600, 3), 50.0, "left"),
    "cartpole_memory": ((400, 600, 3), 50.0, "left"),
    "lunarlander": ((400, 600, 3), 50.0, "coast"),
    "frozenlake": ((256, 256, 3), 4.0, "left"),
    "pong": ((210, 160, 3), 15.0, "noop"),
    "minatar_breakout": ((10, 10, 3), 20.0, "no-op"),
    "highway_shielded": ((150, 600, 3), 2.0, "lane left"),
    "trading": ((400, 600, 3), 10.0, "sell"),
}
"""Shape, pictures a second and first action, by config."""


@pytest.mark.parametrize("config", DRAWN)
def test_every_suite_draws_and_plays_the_same_as_without(config: str) -> None:
    experiment = load(config)
    played: list[list[Any]] = []
    for render in (False, True):
        environment = environments.make(experiment.evaluation_environment, 1, render=render)
        seen, steps, random = environment.reset(5), [], np.random.default_rng(0)
        pictures = []
        for _ in range(12):
            allowed = np.arange(environment.specs.num_actions) if seen.mask is None else np.flatnonzero(seen.mask[0])
            seen = environment.step(random.choice(allowed, 1))
            steps.append((seen.reward.tolist(), {name: leaf.tolist() for name, leaf in seen.observation.items()}))
            if render:
                pictures.append(picture(environment))
            if environment.any_resetting:
                break
        played.append(steps)
        if render:
            shape, rate, first = DRAWN[config]
            assert {pixels.shape for pixels in pictures} == {shape}
            assert all(pixels.dtype == np.uint8 and pixels.max() > pixels.min() for pixels in pictures)
            assert pictures_a_second(environment) == rate
            assert action_names(environment)[0] == first
        environment.close()
    assert played[0] == played[1]


def test_a_games_screen_is_what_the_agent_sees() -> None:
    """The observation is the screen in gray, 84 by 84."""
    environment = environments.make(EnvironmentConfig(id="ALE/Breakout-v5"), 1, render=True)
    seen = environment.reset(3)
    for action in (1, 3, 3, 4, 4, 4, 3, 1):
        seen = environment.step(np.array([action]))
    screen = picture(environment).mean(axis=2)
    rows, columns = (np.arange(84) * side // 84 for side in (210, 160))
    reduced, observed = screen[rows][:, columns], seen.observation[""][0, ..., 0].astype(float)
    assert np.corrcoef(reduced.ravel(), observed.ravel())[0, 1] > 0.8
    environment.close()


@pytest.mark.parametrize("drawn", ["bytes", "floats", "clear", "gray"])
def test_any_kind_of_pixels_makes_a_picture(drawn: str) -> None:
    environment = environments.make(drawing(drawn=drawn), 1, render=True)
    environment.reset(1)
    environment.step(np.array([0]))
    pixels = picture(environment)
    assert (pixels.shape, pixels.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert pixels.min() >= 9
    assert pixels.max() <= 10


@pytest.mark.parametrize(("drawn", "said"), [("raises", "no pencil"), ("text", "render\\(\\) gave")])
def test_a_failing_drawing_is_named(drawn: str, said: str) -> None:
    environment = environments.make(drawing(drawn=drawn), 1, render=True)
    environment.reset(1)
    with pytest.raises(UsageError, match=f"'Drawing' cannot be rendered: .*{said}"):
        picture(environment)


@pytest.mark.parametrize(
    "config",
    [
        EnvironmentConfig(id="", import_path="environments_for_tests:Counting"),
        EnvironmentConfig(id="", import_path="environments_that_draw:DeafDrawing"),
        EnvironmentConfig(id="", import_path="environments_that_draw:SilentlyDeafDrawing"),
        EnvironmentConfig(id="CartPole-v1", engine="envpool"),
    ],
    ids=lambda config: config.import_path or config.engine,
)
def test_environments_that_do_not_draw_are_refused_in_one_line(config: EnvironmentConfig) -> None:
    environments.make(config, 1).close()
    with pytest.raises(NotRendered, match="cannot be rendered") as caught:
        environments.make(config, 1, render=True)
    assert "\n" not in str(caught.value)


def test_skipped_steps_are_seen_at_their_own_pace() -> None:
    environment = environments.make(EnvironmentConfig(id="CartPole-v1", frame_skip=5), 1, render=True)
    assert pictures_a_second(environment) == 10.0
    environment.close()


def test_actions_without_names_are_numbered() -> None:
    config = EnvironmentConfig(id="", import_path="environments_for_tests:Counting")
    assert action_names(environments.make(config, 1)) == ("0", "1", "2")


def test_a_price_chart_is_coloured_by_what_is_held(tmp_path: Path) -> None:
    closes, (held, owed) = np.array([10.0, 12.0, 11.0, 13.0]), ((30, 140, 70), (205, 60, 50))

    def has(pixels: Any, colour: Any) -> bool:
        return bool((pixels == np.array(colour, np.uint8)).all(axis=2).any())

    flat, both = chart(closes, [0.0, 0.0, 0.0], "flat"), chart(closes, [1.0, 0.0, -1.0], "both")
    assert (flat.shape, flat.dtype) == ((400, 600, 3), np.uint8)
    assert (has(flat, held), has(flat, owed)) == (False, False)
    assert (has(both, held), has(both, owed)) == (True, True)
    assert chart(closes[:1], [], "one close").shape == (400, 600, 3)
    assert chart(np.full(3, 5.0), [1.0, 1.0], "no change").shape == (400, 600, 3)
