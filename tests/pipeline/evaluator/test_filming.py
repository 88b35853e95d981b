"""Filmstrips of evaluated policies: what is on them, how often there is one, and that nothing else notices."""

import io
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from environments_that_draw import Drawing
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agents import Specs
from pipeline import environments
from pipeline.evaluator import filming
from pipeline.evaluator.evaluator import Evaluator
from pipeline.evaluator.filming import Filmstrips
from pipeline.evaluator.filmstrip import MOST_BYTES, PICTURES, EvenlySpaced, encoded, joined
from pipeline.messages.contents import Evaluation, Report, Variables

DRAWING = "environment.import_path='environments_that_draw:Drawing'"


def evaluation(mean_length: float = 5.0) -> Evaluation:
    return Evaluation(10, 3, 1.0, 0.0, 1.0, 1.0, mean_length, 2, 0.1, 1, False)


@pytest.fixture
def film(make_experiment: Any, publish: Any) -> Callable[..., tuple[Filmstrips, Variables]]:
    """Filmstrips of an environment that draws, and weights to draw an episode of."""

    def make(*overrides: str) -> tuple[Filmstrips, Variables]:
        experiment = make_experiment(DRAWING, *overrides)
        specs = environments.describe(experiment.environment)
        return Filmstrips(experiment, specs), publish(specs, 0, 3, 10)

    return make


# The image


@given(st.integers(0, 3_000), st.integers(1, 3_000))
def test_pictures_are_few_evenly_spaced_and_reach_from_the_first_to_the_last_step(expected: int, length: int) -> None:
    chosen, drawn = EvenlySpaced(expected), 0
    for step in range(length + 1):
        if chosen.wants(step) or step == length:
            chosen.add(step, np.zeros((1, 1, 3), np.uint8), str(step))
            drawn += 1
    pictures, captions = chosen.pictures()
    steps = list(map(int, captions))
    assert len(pictures) == len(steps) <= PICTURES
    assert (steps[0], steps[-1]) == (0, length)
    assert steps == sorted(set(steps))
    if length >= PICTURES and expected <= length:
        assert len(steps) >= PICTURES - 2
        assert max(np.diff(steps)) <= 3 * length / (PICTURES - 1) + 1
    assert drawn <= 2 * PICTURES + 1 + PICTURES * max(1, np.log2((length + 1) / max(1, expected)) + 2)


def test_an_episode_that_begins_anew_leaves_no_picture_of_the_one_before() -> None:
    chosen = EvenlySpaced(10)
    for step in (0, 1, 2, 0, 1):
        chosen.add(step, np.zeros((1, 1, 3), np.uint8), str(step))
    assert chosen.pictures()[1] == ["0", "1"]


def test_pictures_are_side_by_side_and_wide_ones_below_each_other() -> None:
    colours = [np.full(3, 40 * number, np.uint8) for number in range(1, 4)]
    for height, width in ((10, 10), (300, 400), (100, 500)):
        image = np.array(joined([np.tile(colour, (height, width, 1)) for colour in colours], ["a", "b", "c"]))
        found = [np.argwhere((image == colour).all(axis=2)) for colour in colours]
        corners = np.array([places.min(axis=0) for places in found])
        heights = [int(places[:, 0].max() - places[:, 0].min()) + 1 for places in found]
        along = 0 if width > 2 * height else 1
        assert (np.diff(corners[:, along]) > 0).all()
        assert (corners[:, 1 - along] == 0).all()
        assert max(heights) <= 160


@pytest.mark.parametrize("most_bytes", [MOST_BYTES, 2_000])
def test_an_image_is_halved_until_it_fits(most_bytes: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 1600, 3), np.uint8))
    png, size = encoded(noise, most_bytes)
    decoded = Image.open(io.BytesIO(png))
    assert len(png) <= most_bytes
    assert decoded.size == size
    assert size[0] < 1600
    assert encoded(noise, 10**9)[1] == (1600, 160)


# When there is one


def test_a_filmstrip_shows_the_evaluated_policys_episode(film: Any) -> None:
    filmstrips, variables = film()
    strip = filmstrips.draw(variables, evaluation(), is_last=False)
    assert (strip.gradient_steps, strip.environment_steps) == (3, 10)
    assert len(strip.png) <= MOST_BYTES
    image = np.array(Image.open(io.BytesIO(strip.png)))
    assert image.shape[:2] == (strip.height, strip.width)
    for step in range(4):  # the episode of the evaluations' first seed has 3 steps
        assert (image == 10 * step).all(axis=2).any()
    assert not (image == 40).all(axis=2).any()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(strip), type=Report) == strip


def test_the_next_one_waits_unless_it_is_the_last(film: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(filming.time, "monotonic", lambda: now)
    filmstrips, variables = film()
    assert filmstrips.draw(variables, evaluation(), is_last=False)
    now += 9.0
    assert filmstrips.draw(variables, evaluation(), is_last=False) is None
    assert filmstrips.draw(variables, evaluation(), is_last=True)
    now += 11.0
    assert filmstrips.draw(variables, evaluation(), is_last=False)
    now += 100_000.0  # a run of a day shows no more than one in half an hour
    assert filmstrips.draw(variables, evaluation(), is_last=False)
    now += 1_800.0
    assert filmstrips.draw(variables, evaluation(), is_last=False) is None


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (("evaluation.images=false",), ""),
        (("environment.import_path='environments_for_tests:Counting'",), ""),
        (("environment.kwargs.drawn='raises'",), "no pencil"),
    ],
)
def test_without_pictures_there_is_one_warning_at_most(
    film: Any, overrides: tuple[str, ...], warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    filmstrips, variables = film(*overrides)
    with caplog.at_level(logging.WARNING):
        assert [filmstrips.draw(variables, evaluation(), is_last=True) for _ in range(3)] == [None] * 3
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.evaluator.filming"]
    assert len(said) == bool(warned)
    assert all(warned in sentence for sentence in said)


@pytest.mark.parametrize("environment_id", ["", "CartPole-v1"])
def test_evaluations_are_the_same_with_and_without(
    make_experiment: Any, publish: Any, tmp_path: Any, environment_id: str
) -> None:
    path = "" if environment_id else "environments_that_draw:Drawing"
    experiment = make_experiment(
        f"environment.id='{environment_id}'", f"environment.import_path='{path}'", "evaluation.episodes=5"
    )
    specs: Specs = environments.describe(experiment.environment)
    results = []
    for draws in (False, True):
        evaluator, filmstrips = Evaluator(experiment, specs, tmp_path / str(draws)), Filmstrips(experiment, specs)
        for version in (1, 2, 3):
            variables = publish(specs, version % 2, version, 10 * version)
            result = evaluator.evaluate(variables)
            if draws:
                assert filmstrips.draw(variables, result, is_last=True)
            results.append(msgspec.structs.replace(result, seconds=0.0, resident_bytes=0))
    assert results[:3] == results[3:]


def test_few_moments_are_drawn(film: Any) -> None:
    filmstrips, variables = film()
    before = Drawing.drawings
    for mean_length in (3.0, 1_000.0):
        filmstrips.draw(variables, evaluation(mean_length), is_last=True)
    assert Drawing.drawings - before == 4 + 2
