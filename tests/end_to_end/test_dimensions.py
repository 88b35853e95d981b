"""Runs whose actions have several dimensions: learned by every family of kinds, kept, played, exported, resumed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import ROOT, environment

import pipeline
from pipeline.environments.interfaces import action_spaces
from pipeline.experiment.config import parse
from pipeline.records.results import Summary

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dimensions")]
DIALS = ("environment.id=''", "environment.import_path='environments_of_dimensions:Dials'")
SMALL = (
    "collect.lanes=8",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "evaluation.episodes=20",
    "evaluation.every_steps=500",
    "evaluation.images=false",
)
OFF_POLICY = ("replay.min_size=64", "exploration.epsilon_decay_steps=1_000", "agent.learning_rate=5e-3")
ON_POLICY = (
    "exploration.strategy='boltzmann'", "learner.batch_size=16", "learner.steps_per_call=1",
    "replay.samples_per_insert=1", "collect.lanes=16", "agent.rollout=8", "agent.learning_rate=5e-3",
)  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {
    "dqn": (*OFF_POLICY, "replay.prioritized=true", "replay.initial_priority='td_error'", "agent.n_step=2"),
    "r2d2": (
        *OFF_POLICY, "agent.lstm_units=16", "agent.burn_in=0", "agent.sequence=4", "agent.period=4",
        "learner.batch_size=16", "replay.steps_per_item=1",
    ),
    "pqn": (*ON_POLICY, "exploration.strategy='epsilon_greedy'", "exploration.epsilon_decay_steps=4_000"),
    "ppo": ON_POLICY,
}  # fmt: skip


def dials(form: str, masks: str = "none", length: int = 8) -> tuple[str, ...]:
    return (*DIALS, f"environment.kwargs={{form='{form}', masks='{masks}', length={length}}}")


def run(folder: Path, kind: str, *lines: str, steps: int = 12_000, **more: Any) -> Summary:
    every = (*SMALL, f"agent.kind='{kind}'", *KINDS[kind], f"stop.environment_steps={steps}", "stop.target_return=7.5")
    return pipeline.train(parse("", (*every, *lines)), folder, launcher="inline", **more)


@pytest.mark.parametrize(
    ("kind", "form", "masks"),
    [
        ("dqn", "from elsewhere", "parts"),
        ("r2d2", "tuple", "flat"),
        ("pqn", "vector", "parts"),
        ("ppo", "dict", "none"),
    ],
)
def test_every_family_learns(kind: str, form: str, masks: str, tmp_path: Path) -> None:
    # At random a step pays less than two thirds of 1; the optimum is 8.
    found = run(tmp_path / "run", kind, *dials(form, masks))
    assert found.mean_return is not None
    assert found.mean_return > 7.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is kept for what can be done with one."""
    folder = tmp_path_factory.mktemp("dimensions") / "run"
    run(folder, "dqn", *dials("matrix", "flat"), "stop.target_return=100", steps=1_500)
    return folder


def command(module: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *flags], capture_output=True, text=True, env=environment(), cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_resumes(finished: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(finished, tmp_path / "run")
    again = run(copy, "dqn", *dials("matrix", "flat"), "stop.target_return=100", steps=2_000, resume=True)
    assert again.environment_steps == 2_000


def test_its_replay_is_told_by_dimension(finished: Path) -> None:
    told = command("pipeline.replay", "inspect", f"--run_dir={finished}")
    assert "actions, each dimension by itself" in told
    assert "3=3" in told  # of four dimensions the last has four choices
    assert "none" in told.partition("faults")[2]


@pytest.mark.parametrize("kind", ["tfrecord", "minari"])
def test_a_policy_is_cloned_from_its_replay(finished: Path, kind: str, tmp_path: Path) -> None:
    dataset, folder = tmp_path / "dials-v0", tmp_path / "run"
    command("pipeline.replay", "export", f"--run_dir={finished}", f"--out={dataset}", f"--format={kind}")
    lines = ("agent.kind='behaviour_cloning'", f"offline.dataset='{dataset}'", "stop.gradient_steps=100")
    found = pipeline.train(parse("", (*SMALL, *dials("matrix", "flat"), *lines)), folder, launcher="inline")
    assert found.mean_return is not None
    assert found.gradient_steps >= 100


def test_it_plays_and_is_evaluated(finished: Path, tmp_path: Path) -> None:
    video = tmp_path / "dials.mp4"
    command("pipeline.play", f"--run_dir={finished}", "--seed=5", f"--video={video}")
    assert video.stat().st_size > 1_000
    played = pipeline.evaluate(finished, episodes=5, seed=5)
    assert len(played.returns) == 5


def test_an_export_returns_actions_of_the_environments_space(finished: Path, tmp_path: Path) -> None:
    command("pipeline.export", f"--run_dir={finished}", f"--out={tmp_path / 'out'}")
    of_run, of_export = pipeline.load_policy(finished), pipeline.load_policy(tmp_path / "out")
    from environments_of_dimensions import FORMS

    mask = np.ones(11, bool)
    for shown in range(6):
        action = of_run.act(shown, mask)
        assert np.array_equal(action, of_export.act(shown, mask))
        assert FORMS["matrix"].contains(action)
    assert "each dimension by itself" in (tmp_path / "out" / "README.md").read_text()
    assert action_spaces.starts_of(FORMS["matrix"]) == (0, 1, 2, 3)


def test_roles_in_processes_of_their_own(tmp_path: Path) -> None:
    lines = [*SMALL, *dials("vector", "parts"), "agent.kind='dqn'", *KINDS["dqn"], "stop.environment_steps=2_000"]
    command(
        "pipeline.train", "--config=cartpole", f"--run_dir={tmp_path / 'run'}", *(f"--set={line}" for line in lines)
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stop_reason"] == "environment_steps"


@pytest.mark.parametrize("kind", ["q_learning", "iql"])
def test_kinds_of_one_number_are_refused_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    from pipeline.experiment.config import UsageError

    offline = ("offline.dataset='runs/other'", "stop.gradient_steps=1") if kind == "iql" else ()
    with pytest.raises(UsageError, match=r"vectors of 2: choose dqn, c51, rainbow, .* or behaviour_cloning"):
        pipeline.train(
            parse("", (f"agent.kind='{kind}'", *dials("vector"), *offline)), tmp_path / "run", launcher="inline"
        )
    assert not (tmp_path / "run").exists()
