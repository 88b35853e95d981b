"""Runs that have reached their end, and evaluations of other settings, which compare with none to come."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.acting.policy_files import judged_by
from pipeline.experiment.config import parse
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.messages.contents import Evaluation
from pipeline.records import checkpoint_writer
from pipeline.records.counters import BestEvaluation, Counters
from pipeline.records.ended import reached_end
from pipeline.records.ledger import Ledger

SPENT: dict[str, Any] = {"environment_steps": 5_000, "gradient_steps": 300, "train_seconds": 20.0}
LINES = ("stop.environment_steps=5000", "stop.gradient_steps=0", "stop.seconds=0")


def evaluation(mean_return: float) -> Evaluation:
    values: dict[str, Any] = dict.fromkeys(Evaluation.__struct_fields__, 1)
    return Evaluation(**{**values, "mean_return": mean_return, "is_best": True, "is_whole": True, "info": {}})


def ended_run(path: Path, reason: str = "environment_steps", mean_return: float | None = None) -> RunDirectory:
    experiment = parse("", LINES)
    counters = Counters(**SPENT, judged_by=judged_by(experiment))
    if mean_return is not None:
        counters.evaluation, counters.best = evaluation(mean_return), BestEvaluation(mean_return, 1, 1)
    run = RunDirectory(path)
    run.create(experiment)
    checkpoint_writer.write(run.checkpoints, b"", counters, {}, lambda: None, keep=1)
    write_json(run.summary, Ledger(experiment, counters).summary(reason, 0.0))
    return run


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ("stop.environment_steps=5000", "stop.environment_steps"),
        ("stop.environment_steps=4000", "stop.environment_steps"),
        ("stop.environment_steps=5001", ""),
        ("stop.gradient_steps=300", "stop.gradient_steps"),
        ("stop.seconds=20", "stop.seconds"),
        ("stop.target_return=3", "stop.target_return"),
    ],
)
def test_a_run_has_ended_by_the_stop_conditions_of_now(tmp_path: Path, change: str, ends: str) -> None:
    run = ended_run(tmp_path / "run", mean_return=3.0)
    experiment = parse("", (*LINES, change))
    words = reached_end(experiment, run, judged_by(experiment))
    assert bool(words) == bool(ends)
    assert words.endswith(f"to go on, raise {ends}" if ends else "")
    assert "5,000 environment steps" in words or not ends


@pytest.mark.parametrize("reason", ["interrupted", "stalled", "diverged", "failed"])
def test_a_run_that_was_broken_off_has_not_ended(tmp_path: Path, reason: str) -> None:
    run = ended_run(tmp_path / "run", reason)
    assert reached_end(parse("", LINES), run, "") == ""


def test_a_run_without_result_or_checkpoint_has_not_ended(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run")
    (manifest,) = run.checkpoints.glob("*/manifest.json")
    manifest.write_text("{")
    assert reached_end(parse("", LINES), run, "") == ""
    run.summary.unlink()
    assert reached_end(parse("", LINES), run, "") == ""


OTHER = ["episodes=7", "seed=3", "epsilon=0.1", "kwargs.period='held out'", "max_episode_steps=9", "enabled=false"]


@pytest.mark.parametrize("line", OTHER)
def test_a_target_reached_by_other_evaluations_is_not_reached(tmp_path: Path, line: str) -> None:
    run = ended_run(tmp_path / "run", "target_return", mean_return=3.0)
    lines = ("stop.environment_steps=0", "stop.target_return=3")
    same, other = parse("", lines), parse("", (*lines, f"evaluation.{line}"))
    assert judged_by(same) != judged_by(other)
    assert reached_end(same, run, judged_by(same))
    assert reached_end(other, run, judged_by(other)) == ""
    counters = Counters(evaluation=evaluation(3.0), best=BestEvaluation(3.0, 1, 1), judged_by=judged_by(same))
    assert not counters.judge_anew(judged_by(same))
    assert counters.best is not None
    assert counters.judge_anew(judged_by(other))
    assert (counters.best, counters.evaluation) == (None, None)
    assert not counters.judge_anew(judged_by(other)), "once"


def test_how_often_weights_are_judged_and_drawn_changes_no_return() -> None:
    assert judged_by(parse("")) == judged_by(parse("", ("evaluation.every_steps=9", "evaluation.images=false")))
