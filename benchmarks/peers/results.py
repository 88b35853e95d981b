"""What the file of results has: a line a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import json_lines
from benchmarks.json_lines import append as append


@dataclass(frozen=True)
class Run:
    """One run of one program.

    Attributes:
      work: a key of `plan.WORKS`.
      peer: who ran.
      repeat: from 0; runs of the same repeat were measured one after the other.
      result: what the program printed, or {"missing": reason}.
      when: UTC time of its end, ISO 8601.
      machine: that it ran on.
    """

    work: str
    peer: str
    repeat: int
    result: dict[str, Any]
    when: str
    machine: str


def read(path: Path) -> list[Run]:
    """The runs of a file; none where there is no file."""
    return json_lines.read(path, Run)


def done(runs: list[Run]) -> set[tuple[str, str, int]]:
    """(work, peer, repeat) of the runs that have a result."""
    return {(run.work, run.peer, run.repeat) for run in runs if "missing" not in run.result}


def values(runs: list[Run], work: str, *keys: str) -> Iterator[tuple[str, int, float]]:
    """(peer, repeat, value) of every run of a work that has a number under these nested keys."""
    for run in runs:
        value: Any = run.result
        for key in keys if run.work == work else ("missing work",):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            yield run.peer, run.repeat, float(value)
