"""Whole runs that stall, diverge, or whose environment breaks: how each ends and what it says."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_runs import SHRUNK, inline, processes_of, summary, tags_of, train
from waiting import wait_until

from pipeline.learner import bad_batches
from pipeline.records import checkpoint


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    yield path
    wait_until(lambda: not processes_of(path), "all processes of the run have ended")


def test_a_stalled_run_says_who_waits_for_whom_and_exits_3(run_dir: Path) -> None:
    slow = ('environment.id=""', 'environment.import_path="environments_that_fail:SlowEnvironment"')
    result = train(run_dir, *SHRUNK, *slow, "learner.stall_seconds=3.0", "collect.lanes=4")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "the learner waits for collectors" in result.stdout
    assert summary(run_dir)["stop_reason"] == "stalled"


def test_a_diverged_run_exits_4_and_keeps_no_bad_weights(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huge = ('environment.id=""', 'environment.import_path="environments_that_fail:HugeRewardEnvironment"')
    assert inline(run_dir, *SHRUNK, *huge, 'agent.loss="mse"') == 4
    assert summary(run_dir)["stop_reason"] == "diverged"
    assert "there was no checkpoint to roll back to" in capsys.readouterr().out
    assert list((run_dir / "bad_batches").glob("*.msgpack"))
    assert not list((run_dir / "checkpoints").glob("0*"))


def test_a_run_that_goes_bad_for_a_while_rolls_back_and_recovers(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 800 transitions of a replay of 512: for a while there is nothing else to draw.
    passing = ('environment.id=""', 'environment.import_path="environments_that_fail:PassingHugeRewardEnvironment"')
    replay = ("replay.capacity=512", "replay.samples_per_insert=8", "collect.collectors=1", "collect.lanes=4")
    learner = ("learner.bad_updates=5", "learner.rollbacks=1000", "learner.rollback_learning_rate_factor=0.9")
    settings = (
        *passing,
        *replay,
        *learner,
        'agent.loss="mse"',
        "learner.batch_size=64",
        "checkpoint.every_seconds=0.2",
    )
    assert inline(run_dir, *SHRUNK, *settings) == 0
    found = summary(run_dir)
    assert found["stop_reason"] == "gradient_steps"
    assert found["gradient_steps"] == 400
    assert 5 <= found["skipped_updates"] < 400
    assert found["rollbacks"] >= 1
    assert capsys.readouterr().out.count("warning: updates were skipped") == 1
    assert {"learner/skipped_updates", "learner/rollbacks"} <= tags_of(run_dir / "tensorboard")
    newest = max((run_dir / "bad_batches").glob("*.msgpack"))
    assert bad_batches.read(newest)["reward"].max() == np.float32(1e30)


def ended(run_dir: Path, launcher: str, lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a run and what it said."""
    if launcher == "local":
        result = train(run_dir, *lines)
        return result.returncode, result.stdout + result.stderr
    code = inline(run_dir, *lines)
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize("launcher", ["local", "inline"])
def test_an_environment_that_breaks_again_and_again_is_named_and_ends_the_run(
    run_dir: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = ('environment.id=""', 'environment.import_path="environments_that_fail:NanEnvironment"')
    code, said = ended(run_dir, launcher, (*SHRUNK, *broken, "collect.lanes=4"), capsys)
    assert code == 1, said
    assert "NanEnvironment" in said
    # Each lane's every second episode breaks: of four lanes the third time is one too many.
    assert re.search(r"lane 2, step [0-9]+: .*faulty episodes: 11 of the last [0-9]+", said)
    assert "collect.faulty_episodes=0.01 allows 10 of 1,000" in said
    assert "Traceback" not in said
    assert summary(run_dir)["stop_reason"] == "failed"
    assert summary(run_dir)["dropped_episodes"] == 12, "all four broke"


@pytest.mark.parametrize("launcher", [pytest.param("local", marks=pytest.mark.slow), "inline"])
def test_faults_cost_a_run_no_more_than_their_episodes(
    run_dir: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = (
        'environment.id=""',
        'environment.import_path="environments_that_fail:Unreliable"',
        "environment.kwargs={kinds=['raises', 'nan', 'nan_reward', 'text_reward', 'shape', 'dtype'], chance=0.02}",
        "collect.faulty_episodes=1.0",
    )
    code, said = ended(run_dir, launcher, (*SHRUNK, *broken), capsys)
    assert code == 0, said
    found = summary(run_dir)
    assert found["gradient_steps"] == 400
    assert 0 < found["dropped_episodes"] < found["episodes"]
    assert "'Unreliable', lane " in found["newest_fault"]
    assert found["lost_transitions"] == 0
    assert f"{found['dropped_episodes']} episodes were dropped for faults; the newest: environment" in said


def test_a_summary_that_cannot_be_written_is_an_error_that_says_so(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inline(run_dir, *SHRUNK, "stop.gradient_steps=40") == 0
    (run_dir / "summary.json").unlink()
    for name in ("summary.json", "status.json"):  # where their new contents would be written first
        (run_dir / f"{name}.part" / "in the way").mkdir(parents=True)
    assert inline(run_dir, *SHRUNK, "stop.gradient_steps=80", resume=True) == 1
    said = "".join(capsys.readouterr())
    assert "summary.json could not be written" in said
    assert not (run_dir / "summary.json").exists()
    saved = checkpoint.newest(run_dir / "checkpoints")
    assert saved is not None
    assert saved.counters.gradient_steps == 80
