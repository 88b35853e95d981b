"""Runs of reinforce, ppo and pqn: they learn, stop without a window lost, and go on where they stopped."""

import threading
from pathlib import Path

import pytest

import pipeline
from pipeline.experiment import config

LANES, ROLLOUT = 8, 12
ON_POLICY = (
    'environment.id=""',
    'environment.import_path="environments_to_solve:CombinationLock"',
    f"agent.rollout={ROLLOUT}",
    "agent.learning_rate=5e-3",
    'exploration.strategy="boltzmann"',
    f"collect.lanes={LANES}",
    f"learner.batch_size={LANES}",
    "learner.steps_per_call=1",
    'learner.loop="plain"',
    "replay.samples_per_insert=1",
    "evaluation.episodes=1",
    "evaluation.every_steps=500",
)
ENTROPY = "agent.entropy_bonus=0.01"
BY_EPSILON = ('exploration.strategy="epsilon_greedy"', "exploration.epsilon_decay_steps=4000")
KINDS = {
    "reinforce": ('agent.kind="reinforce"', ENTROPY),
    "reinforce without a baseline": ('agent.kind="reinforce"', ENTROPY, "agent.baseline=false"),
    "ppo": ('agent.kind="ppo"', ENTROPY, "agent.minibatches=2"),
    "pqn": ('agent.kind="pqn"', "agent.minibatches=2", *BY_EPSILON),
}
TWO_COLLECTORS = ("collect.collectors=2", f"learner.batch_size={2 * LANES}")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(lines, id=name, marks=() if name == "ppo" else pytest.mark.slow) for name, lines in KINDS.items()],
)
def test_the_optimal_return_is_reached(kind: tuple[str, ...], tmp_path: Path) -> None:
    experiment = config.parse("", (*ON_POLICY, *kind, "stop.target_return=6", "stop.environment_steps=60000"))
    summary = pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert summary.solved
    assert summary.mean_return == 6.0
    assert summary.samples_per_insert == 1.0


CASES = {
    **{f"{name}, two collectors": (*kind, *TWO_COLLECTORS) for name, kind in KINDS.items()},
    "ppo, one lane": (*KINDS["ppo"], "agent.minibatches=1", "collect.lanes=1", "learner.batch_size=1"),
}


# In processes of their own only one resumes: those of test_kinds.py have two collectors of every kind, too.
CELLS = [*((name, "inline") for name in CASES), *((f"{kind}, two collectors", "local") for kind in ("ppo", "pqn"))]
FIRST = ("ppo, two collectors", "inline")


@pytest.mark.parametrize(
    ("case", "launcher"),
    [pytest.param(*cell, id="-".join(cell), marks=() if cell == FIRST else pytest.mark.slow) for cell in CELLS],
)
def test_runs_and_resumes(case: str, launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1] / "support"))
    lines = (*ON_POLICY, *CASES[case])
    steps, found = 0, []
    before = {thread for thread in threading.enumerate() if thread.name == "samples"}  # of other tests
    for budget in (30, 70):
        experiment = config.parse("", (*lines, f"stop.gradient_steps={budget}"))
        summary = pipeline.train(experiment, tmp_path / "run", launcher=launcher, resume=bool(found))
        assert (summary.stop_reason, summary.gradient_steps, summary.lost_transitions) == ("gradient_steps", budget, 0)
        assert summary.environment_steps > steps
        assert summary.mean_return is not None
        steps = summary.environment_steps
        found.append(summary)
        samples = {thread for thread in threading.enumerate() if thread.name == "samples"}
        assert not samples - before, "one waits for a batch"
    # The windows that were handed over when a run stopped are the only ones not used: of a collector that is ahead, two
    # batches more.
    most = 73 + 4 * experiment.agent.batches_ahead
    assert 70 / most <= found[-1].samples_per_insert <= 1.0
