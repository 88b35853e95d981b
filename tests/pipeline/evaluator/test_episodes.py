"""A policy on a screen plays what evaluations score; windows and videos show what they are given."""

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import ROOT, SUPPORT
from hypothesis import given
from hypothesis import strategies as st

from pipeline import environments
from pipeline.acting import policy_files
from pipeline.acting.policy_files import Policy
from pipeline.evaluator import displays
from pipeline.evaluator import episodes as showing
from pipeline.evaluator.displays import VideoFile, Window, WindowClosed
from pipeline.evaluator.episodes import EpisodeResult, show
from pipeline.evaluator.evaluator import GreedyRunner
from pipeline.evaluator.overlay import StepView
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory

DRAWING = "environment.import_path='environments_that_draw:Drawing'"


class Recording:
    """A screen that keeps what it was shown."""

    def __init__(self) -> None:
        self.pictures: list[Any] = []
        self.rates: set[float] = set()

    def show(self, picture: Any, rate: float) -> None:
        self.pictures.append(picture)
        self.rates.add(rate)

    def close(self) -> None:
        pass


@pytest.fixture
def policy_of(publish: Callable[..., Any]) -> Callable[..., Policy]:
    def make(specs: Any, prefers: int = 0) -> Policy:
        variables = publish(specs, prefers)
        return Policy(variables.program, variables.weights, 0, 0, 0.0)

    return make


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[StepView]:
    """What was written beside the pictures of this test."""
    found: list[StepView] = []
    overlaid = showing.overlaid

    def spy(pixels: Any, reading: StepView) -> Any:
        found.append(reading)
        return overlaid(pixels, reading)

    monkeypatch.setattr(showing, "overlaid", spy)
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        (DRAWING,),
        (DRAWING, "environment.frame_stack=3"),
        (DRAWING, "evaluation.epsilon=0.5"),
        (DRAWING, "environment.vectorization='async'"),
        ("environment.id='CartPole-v1'", "environment.import_path=''", "environment.frame_skip=2"),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_what_is_shown_is_what_an_evaluation_scores(
    make_experiment: Any, publish: Any, readings: list[StepView], overrides: tuple[str, ...]
) -> None:
    experiment = make_experiment(*overrides, 'agent.kind="dqn"')
    specs = environments.describe(experiment.environment)
    from pipeline.acting.frame_stacks import stacked

    variables = publish(stacked(specs, experiment.environment.frame_stack), 1)
    policy = Policy(variables.program, variables.weights, 0, 0, 0.0)
    scored = GreedyRunner(experiment, specs, policy, episodes=1)
    shown = GreedyRunner(experiment, specs, policy, episodes=1, render=True)
    for seed in (3, 4):
        readings.clear()
        screen, episodes = Recording(), scored.run(policy, seed)
        found = show(shown, policy, seed, experiment, screen)
        assert found == EpisodeResult(episodes.returns[0], episodes.lengths[0])
        assert [reading.step for reading in readings] == list(range(found.length + 1))
        assert readings[-1].episode_return == pytest.approx(found.episode_return)
        assert [not reading.chosen for reading in readings] == [False] * found.length + [True]
        (rate,) = screen.rates
        assert len(screen.pictures) == found.length + 1 + rate, "the last one stays for a second"
    for runner in (scored, shown):
        runner.close()


def test_masks_and_names_are_shown(make_experiment: Any, policy_of: Any, readings: list[StepView]) -> None:
    experiment = make_experiment(DRAWING)
    specs = environments.describe(experiment.environment)
    policy = policy_of(specs, prefers=2)
    runner = GreedyRunner(experiment, specs, policy, episodes=1, render=True)
    found = show(runner, policy, 2, experiment, Recording())
    for step, reading in enumerate(readings[: found.length]):
        assert reading.chosen == (step % 3,)
        assert reading.allowed is not None
        assert np.flatnonzero(reading.allowed).tolist() == [step % 3]
        assert tuple(reading.names) == ("one", "two", "three")
        assert reading.span[0] <= reading.scores[step % 3] <= reading.span[1]
    runner.close()


def test_a_policys_scores_are_probabilities(make_experiment: Any, policy_of: Any, readings: list[StepView]) -> None:
    on_policy = ("learner.steps_per_call=1", "learner.batch_size=4", "replay.samples_per_insert=1")
    experiment = make_experiment(DRAWING, 'agent.kind="ppo"', 'exploration.strategy="boltzmann"', *on_policy)
    specs = environments.describe(experiment.environment)
    policy = policy_of(specs, prefers=1)
    runner = GreedyRunner(experiment, specs, policy, episodes=1, render=True)
    show(runner, policy, 2, experiment, Recording())
    assert readings[0].title == "probabilities"
    assert all(reading.scores.sum() == pytest.approx(1.0) for reading in readings)
    runner.close()


@given(st.lists(st.tuples(st.floats(-80, 80, width=32), st.booleans()), min_size=1, max_size=8))
def test_probabilities_are_a_softmax_over_what_is_allowed(actions: list[tuple[float, bool]]) -> None:
    logits = np.array([logit for logit, _ in actions], np.float32)
    allowed = np.array([is_allowed for _, is_allowed in actions])
    allowed[0] |= not allowed.any()
    total = sum(np.exp(float(logit)) for logit, kept in zip(logits, allowed, strict=True) if kept)
    expected = [np.exp(float(logit)) / total if kept else 0.0 for logit, kept in zip(logits, allowed, strict=True)]
    assert showing.probabilities(logits, allowed) == pytest.approx(expected, abs=1e-5)


# Screens


def test_a_video_holds_what_was_shown(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())
    for shade in range(0, 250, 25):
        video.show(np.full((48, 64, 3), shade, np.uint8), 12.5)
    video.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25, 2)
        shades = [float(frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(stream)]
    assert shades == pytest.approx(list(range(0, 250, 25)), abs=3)
    assert video.pictures == 10


def test_a_video_that_nothing_was_shown_of_is_no_file(tmp_path: Path) -> None:
    VideoFile(tmp_path / "a.mp4").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "said"), [("a.avi", "end with .mp4"), ("missing/a.mp4", "cannot be written")])
def test_a_video_that_cannot_be_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VideoFile(tmp_path / name)


def test_a_video_that_the_disk_does_not_take_is_refused() -> None:
    def film() -> None:
        video = VideoFile(Path("/sys/a.mp4"))
        video.show(np.zeros((48, 64, 3), np.uint8), 10.0)
        video.close()  # the encoder keeps the first pictures for a while

    with pytest.raises(UsageError, match=r"^--video=/sys/a\.mp4 cannot be written: "):
        film()


def test_a_window_shows_pictures_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On SDL's driver without a screen, which is refused otherwise."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.raises(UsageError, match="no display"):
        Window("a policy")
    monkeypatch.setattr(displays, "_UNSEEN_DRIVERS", ())
    window = Window("a policy")
    import pygame

    window.show(np.full((48, 64, 3), 77, np.uint8), 1000.0)
    assert pygame.display.get_surface().get_size() == (64, 48)
    assert pygame.display.get_surface().get_at((5, 5))[:3] == (77, 77, 77)
    pygame.quit()  # as environments do when they are closed
    window.show(np.full((48, 64, 3), 78, np.uint8), 1000.0)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_q))
    with pytest.raises(WindowClosed):
        window.show(np.full((48, 64, 3), 79, np.uint8), 1000.0)
    window.close()


# The command


def test_environments_that_do_not_draw_are_played_and_not_filmed(
    make_experiment: Any, counting_specs: Any, policy_of: Any, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(make_experiment())
    policy_files.save(policy_of(counting_specs), run.policies / "latest")
    video = tmp_path / "a.mp4"

    def play(*flags: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "pipeline.play", f"--run_dir={run.path}", "--policy=latest", *flags],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            },
        )

    refused = play(f"--video={video}")
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'Counting' cannot be rendered" in error
    assert not video.exists()
    played = play("--episodes=2", "--seed=7")
    assert played.returncode == 0, played.stderr
    assert played.stdout.splitlines() == [
        "seed 7: return 45 in 5 environment steps",
        "seed 8: return 17 in 2 environment steps",
    ]
