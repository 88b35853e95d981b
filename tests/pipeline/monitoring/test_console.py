"""What the terminal shows of a run's warnings."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.monitoring import status_table
from pipeline.monitoring.console import Console, seconds_between
from pipeline.records.counters import Counters, Tally, account
from pipeline.records.ledger import Ledger


def status(*warnings: str, **counters: Any) -> Any:
    return Ledger(Experiment(), Counters(**counters)).status("learning", 0, None, {}, warnings=warnings)


def test_a_warning_is_printed_once_and_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path)
    console = Console(run, Experiment())
    for given in (("one [is] wrong",), ("one [is] wrong", "two"), ()):
        write_json(run.status, status(*given))
        console.refresh()
        console._shown_at = 0.0
    write_json(run.status, status("two", "three"))
    console.say_end(1, "")
    printed = capsys.readouterr().out
    assert [printed.count(f"warning: {text}\n") for text in ("one [is] wrong", "two", "three")] == [1, 1, 1]
    console._terminal.print(status_table.table(Experiment(), tmp_path, status("one [is] wrong")))
    assert "one [is] wrong" in capsys.readouterr().out


def test_what_was_lost_is_shown_by_what_lost_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(RunDirectory(tmp_path), Experiment())
    ledger = Ledger(Experiment(), Counters(begun=20, windows=18, lost={"collector killed": 2, "replay restarted": 0}))
    found = account(Experiment(), ledger.counters, Tally(0, 0, 0))
    console._terminal.print(status_table.table(Experiment(), tmp_path, ledger.status("learning", 0, None, {}, found)))
    assert "2 (collector killed)" in capsys.readouterr().out
    write_json(tmp_path / "summary.json", ledger.summary("seconds", 1.0, account=found))
    console.say_end(0, "")
    assert "Transitions lost: 2 (collector killed).\n" in capsys.readouterr().out


def test_a_run_that_lost_nothing_says_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(RunDirectory(tmp_path), Experiment())
    ledger = Ledger(Experiment(), Counters())
    write_json(tmp_path / "summary.json", ledger.summary("seconds", 1.0))
    console.say_end(0, "")
    console._terminal.print(status_table.table(Experiment(), tmp_path, ledger.status("learning", 0, None, {})))
    assert "ransitions lost" not in capsys.readouterr().out


def test_what_the_supervisor_says_is_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.logs.mkdir()
    Console(run, Experiment()).note("collector-0 is restarted")
    assert (run.logs / "supervisor.log").read_text().endswith(" collector-0 is restarted\n")


def test_lines_in_a_log_get_rarer_as_the_run_gets_older(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pipeline.monitoring.console.time.monotonic", lambda: now)
    run = RunDirectory(tmp_path)
    console = Console(run, Experiment())
    lines = []
    for hour in range(1, 4):
        while now < 1000.0 + hour * 3600.0:
            warnings = ["late"] if hour == 2 else []
            write_json(run.status, status(*warnings, environment_steps=int(now)))
            console.refresh()
            now += 30.0
        printed = capsys.readouterr().out
        lines.append(printed.count("environment steps"))
        assert printed.count("warning: late") == (hour == 2)
    assert lines[0] < 150
    assert lines[0] > lines[1] > lines[2] > 5
    ages = [seconds_between(age) for age in range(0, 100_000, 100)]
    assert ages == sorted(ages)
    assert ages[-1] <= 600.0
