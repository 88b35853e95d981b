"""What the terminal shows of a run's warnings."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import Counters
from pipeline.console import Console
from pipeline.ledger import Ledger
from pipeline.run_directory import RunDirectory, write_json
from pipeline.sections import Experiment


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
    console._terminal.print(console._table(status("one [is] wrong")))
    assert "one [is] wrong" in capsys.readouterr().out
