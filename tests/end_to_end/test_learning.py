"""That runs learn: they fail if learning breaks."""

import os
import threading
import time
from pathlib import Path

import pytest

import pipeline

LOCK = (
    'environment.id=""',
    'environment.import_path="environments_to_solve:CombinationLock"',
    "agent.learning_rate=1e-3",
    "collect.lanes=8",
    "replay.min_size=256",
    "replay.samples_per_insert=64",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "exploration.epsilon_decay_steps=4000",
    "evaluation.episodes=1",
    "evaluation.every_steps=500",
    "stop.target_return=6.0",
    "stop.environment_steps=30000",
)


@pytest.mark.parametrize("variant", [(), ("agent.n_step=3", "agent.dueling=true", "agent.double=false")], ids=str)
def test_the_optimal_return_is_reached(tmp_path: Path, variant: tuple[str, ...]) -> None:
    summary = pipeline.train(pipeline.load("cartpole", (*LOCK, *variant)), tmp_path / "run", launcher="inline")
    assert summary.solved
    assert summary.mean_return == 6.0
    assert summary.stop_reason == "target_return"


def test_cartpole_is_solved_in_parallel(tmp_path: Path) -> None:
    # One run in ten takes over 80,000 environment steps: twice the usual budget leaves nothing to luck.
    experiment = pipeline.load("cartpole", ("stop.environment_steps=240_000",))
    summary = pipeline.train(experiment, tmp_path / "run")
    assert summary.solved
    assert summary.mean_return is not None
    assert summary.mean_return >= 475.0
    # The learner may lag by what waits between the two: unconfirmed and queued items, the limiter's slack, what is
    # collected while the run ends. Together these were 4,900 to 9,800 environment steps, however long the run was.
    used = summary.samples_per_insert / experiment.replay.samples_per_insert * summary.environment_steps
    assert used == pytest.approx(summary.environment_steps, abs=20_000)
    assert summary.lost_transitions == 0


def test_a_run_within_a_program_leaves_no_thread_behind(tmp_path: Path) -> None:
    threads = []
    for name in ("first", "second"):
        pipeline.train(pipeline.load("cartpole", (*LOCK, "stop.gradient_steps=80")), tmp_path / name, launcher="inline")
        assert [thread.name for thread in threading.enumerate() if thread.name in ("samples", "reports")] == []
        deadline = time.monotonic() + 10.0
        count = len(os.listdir("/proc/self/task"))
        while threads and count > threads[0] + 5 and time.monotonic() < deadline:
            time.sleep(0.1)
            count = len(os.listdir("/proc/self/task"))
        threads.append(count)
    assert threads[1] <= threads[0] + 5, "a server and a dataset have about 50 threads"
