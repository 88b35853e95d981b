"""However a run ended, summary, exit code, terminal, log and the Python error give one reason."""

import io
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.launchers.conclusion import RunFailed, conclude, write_reason
from pipeline.monitoring.console import Console, read
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.results import EXIT_CODES, Summary

LEDGER = Ledger(Experiment(), Counters(environment_steps=7, gradient_steps=3))
LINES = st.text(st.characters(categories=("L", "N", "P", "Zs"), include_characters="\n"), max_size=40)


@settings(max_examples=60)
@given(
    learners=st.sampled_from([None, *EXIT_CODES]),
    message=st.sampled_from(["", "of the learner"]),
    has_status=st.booleans(),
    code=st.sampled_from([0, 1, 2, 3, 4]),
    reason=LINES,
    by=st.sampled_from(["", "SIGTERM"]),
)
def test_all_that_tell_of_an_end_agree(
    learners: str | None, message: str, has_status: bool, code: int, reason: str, by: str
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        run, out = RunDirectory(Path(folder) / "run"), io.StringIO()
        run.create(Experiment())
        patch.setattr(sys, "stdout", out)
        console = Console(run, Experiment())
        if learners is not None:
            write_json(run.summary, LEDGER.summary(learners, 1.0, message))
        if has_status:
            write_json(run.status, LEDGER.status("learning", 0, None, {}))
        ended = conclude(console, run, Experiment(), code, reason, by)
        summary = read(run.summary, Summary)
        assert summary is not None
        assert ended == EXIT_CODES[summary.stop_reason]
        assert RunFailed(summary).exit_code == ended
        if learners is not None and EXIT_CODES[learners] == 0:
            assert ended == 0, "it reached its stop condition"
            return
        last = out.getvalue().splitlines()[-1]
        kept = (run.logs / "supervisor.log").read_text().splitlines()[-1]
        assert kept.endswith(last)
        assert last.startswith(summary.stop_reason)
        assert all(word in last for word in summary.message.split())
        is_interrupted = summary.stop_reason == "interrupted"
        assert ("by SIGTERM" in last) == (by != "" and is_interrupted and summary.reason == "interrupted")
        if learners is None:
            assert ended != 0
            assert (summary.environment_steps, summary.gradient_steps) == ((7, 3) if has_status else (0, 0))
        else:
            assert last.startswith(str(RunFailed(summary)))  # an interrupted run says how to go on, too


def test_a_reason_that_the_disk_does_not_take_is_told_all_the_same(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "summary.json.part" / "in the way").mkdir(parents=True)
    summary = write_reason(run, Experiment(), "failed", "first\nsecond")
    assert summary.message.startswith("first; second; ")
    assert "could not be written" in summary.message
    assert msgspec.structs.asdict(summary)["stop_reason"] == "failed"
