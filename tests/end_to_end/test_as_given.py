"""Whole runs on environments that give masks and observations in unusual ways."""

from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.experiment.config import parse

LINES = (
    'environment.id=""',
    "agent.hidden_units=[16]",
    "collect.lanes=4",
    "learner.batch_size=16",
    "learner.steps_per_call=10",
    'learner.loop="plain"',
    "replay.min_size=50",
    "replay.samples_per_insert=4",
    "evaluation.episodes=4",
    "evaluation.every_steps=500",
    "stop.environment_steps=1000",
)
CASES: dict[str, Any] = {
    "masks at steps alone": ("environments_with_masks:Choosy", {"at": "steps", "form": "added float32"}, ()),
    "a mask observed": (
        "environments_with_masks:Choosy",
        {"where": "action_mask", "shared": True},
        ('environment.mask_key="action_mask"', "environment.frame_skip=2"),
    ),
    "integers": ("environments_as_given:WideIntegers", {"dtype": "int64"}, ()),
    "masks on policy": (
        "environments_with_masks:Choosy",
        {"at": "steps"},
        (
            'agent.kind="ppo"',
            "agent.rollout=8",
            'exploration.strategy="boltzmann"',
            "learner.batch_size=4",
            "learner.steps_per_call=1",
            "replay.samples_per_insert=1",
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_made_of_what_the_environment_gives(tmp_path: Path, name: str) -> None:
    path, kwargs, lines = CASES[name]
    given = (f'environment.import_path="{path}"', *(f"environment.kwargs.{key}={_toml(kwargs[key])}" for key in kwargs))
    experiment = parse("", (*LINES, *given, *lines))
    summary = pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert summary.environment_steps >= 1000
    assert summary.gradient_steps > 0
    assert summary.evaluations > 0
    assert summary.dropped_episodes == 0


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
