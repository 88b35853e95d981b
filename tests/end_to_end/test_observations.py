"""Tasks that are learned with a stack of frames, or with normalised observations, and not without."""

from pathlib import Path

import pytest

import pipeline
from pipeline.experiment.config import parse

LINES = (
    'environment.id=""',
    "agent.discount=0.0",
    "agent.hidden_units=[32]",
    "collect.lanes=16",
    "learner.steps_per_call=20",
    'learner.loop="plain"',
    "replay.capacity=10000",
    "replay.samples_per_insert=16",
    "exploration.epsilon_decay_steps=5000",
    "evaluation.episodes=50",
    "evaluation.every_steps=4000",
    "stop.target_return=18.0",
)
ON_POLICY = (
    'agent.kind="ppo"',
    "agent.rollout=16",
    "agent.gae_lambda=0.0",
    'exploration.strategy="boltzmann"',
    "learner.batch_size=16",
    "learner.steps_per_call=1",
    "replay.samples_per_insert=1",
)


def solved(run_dir: Path, name: str, budget: int, *lines: str) -> bool:
    path = f'environment.import_path="environments_to_solve:{name}"'
    experiment = parse("", (*LINES, path, f"stop.environment_steps={budget}", *lines))
    return pipeline.train(experiment, run_dir, launcher="inline").solved


@pytest.mark.parametrize(
    "lines",
    [
        (),
        pytest.param(ON_POLICY, marks=pytest.mark.slow),
        pytest.param(("replay.lanes_per_item=1", "agent.n_step=3"), marks=pytest.mark.slow),
    ],
)
def test_what_was_seen_before_is_in_the_stack(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert solved(tmp_path, "Echo", 200_000, "environment.frame_stack=2", *lines)


def test_without_a_stack_it_is_not(tmp_path: Path) -> None:
    assert not solved(tmp_path, "Echo", 12_000)


@pytest.mark.slow
@pytest.mark.parametrize("observes", [True, False])
def test_what_was_done_and_earned_is_remembered(tmp_path: Path, observes: bool) -> None:
    lines = (
        'agent.kind="r2d2"',
        "agent.discount=0.9",
        "agent.lstm_units=16",
        "agent.burn_in=0",
        "agent.sequence=10",
        "agent.period=5",
        "agent.learning_rate=3e-3",
        "replay.samples_per_insert=32",
        "learner.batch_size=32",
        "stop.target_return=9.0",
        f"environment.previous_step={str(observes).lower()}",
    )
    assert solved(tmp_path, "TwoArms", 60_000 if observes else 6_000, *lines) is observes


@pytest.mark.parametrize("lines", [(), pytest.param(ON_POLICY, marks=pytest.mark.slow)])
def test_scales_that_hide_what_matters_are_evened_out(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert solved(tmp_path, "Lopsided", 200_000, "agent.normalize_observations=true", *lines)


def test_without_normalisation_they_are_not(tmp_path: Path) -> None:
    assert not solved(tmp_path, "Lopsided", 12_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "lines"),
    [
        ("inline", ('environment.id="environments_of_others:OldSpotForTests-v0"',)),
        ("inline", ('environment.import_path="environments_of_others:OldSpot"', "environment.frame_stack=2")),
        (
            "local",
            ('environment.import_path="environments_of_others:tf_agents_spot"', "environment.image_layout='CHW'"),
        ),
    ],
    ids=["gym", "gym, stacked", "TF-Agents"],
)
def test_pictures_by_other_interfaces_are_learned_from(tmp_path: Path, launcher: str, lines: tuple[str, ...]) -> None:
    small = ("agent.image_torso='minatar'", "stop.environment_steps=100_000", "learner.loop='plain'")
    experiment = parse("", (*LINES, *small, *lines))
    assert pipeline.train(experiment, tmp_path, launcher=launcher).solved
