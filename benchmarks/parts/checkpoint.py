"""Checkpoints of a CartPole run with a full replay: seconds, pause, bytes, what collecting and learning lose meanwhile,
and how long the run takes from SIGTERM to its end, with a checkpoint of everything.

Example:
  python -m benchmarks.parts.checkpoint --transitions=1_000_000 --write
"""

import datetime
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from absl import flags

from benchmarks.measure import FULL_SPEED, median, print_result
from benchmarks.pages import DOCS, table, write_between
from pipeline.command import run_command
from pipeline.drill.faults import Drilled
from pipeline.experiment.config import load
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import CheckpointConfig
from pipeline.records import checkpoint
from pipeline.records.results import Status

_TRANSITIONS = flags.DEFINE_integer("transitions", 1_000_000, "In the replay.", lower_bound=1_000)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Checkpoints and ends measured.", lower_bound=1)
_EVERY = flags.DEFINE_float("every_seconds", 15.0, "Between checkpoints while they are measured.", lower_bound=1.0)
_WRITE = flags.DEFINE_bool("write", False, "Write the result into docs/reliability.md.")
_LINE = re.compile(
    r"(\S+ \S+) INFO pipeline\.learner\.checkpointing: checkpoint \S+: ([\d.]+) MiB in ([\d.]+) s, for ([\d.]+) ms"
)
_WINDOW_SECONDS = 5.0
"""After a checkpoint's start: what is lost may be made up for, or follow, a little later."""


class Run:
    """A run in processes of its own, and how far it was when; one that is there already goes on.

    Args:
      path: of its directory.
      overrides: lines of TOML.
    """

    def __init__(self, path: Path, overrides: tuple[str, ...]) -> None:
        self.directory = RunDirectory(path)
        flags_ = ["--config=cartpole", *(f"--set={line}" for line in overrides)]
        self._run = Drilled(self.directory, flags_, [*flags_, "--resume"])
        self._run.start()
        self.progress: list[tuple[float, int, int]] = []
        """Wall-clock time, environment and gradient steps."""

    def wait_for(self, condition: Callable[[Status], bool]) -> None:
        """Waits until a status fulfils a condition and takes the progress meanwhile; raises if the run ends."""
        assert self._run.supervisor is not None
        while True:
            if self._run.supervisor.poll() is not None:
                raise RuntimeError(f"the run ended: see {self.directory.logs}")
            if (status := self._run.status()) is not None:
                row = (self.directory.status.stat().st_mtime, status.environment_steps, status.gradient_steps)
                if not self.progress or row[1:] != self.progress[-1][1:]:
                    self.progress.append(row)
                if condition(status):
                    return
            time.sleep(0.1)

    def end(self) -> float:
        """Gives it notice and returns the seconds until it has ended; raises if it does not."""
        started = time.monotonic()
        if self._run.end() is None:
            raise RuntimeError(f"the run does not end: see {self.directory.logs}")
        return time.monotonic() - started

    def checkpoints(self) -> list[tuple[float, float, float, float]]:
        """Start (wall-clock), MiB, seconds and milliseconds of pause of each that the log tells of."""
        found = []
        for line in (self.directory.logs / "learner.log").read_text().splitlines():
            if match := _LINE.match(line):
                ended = datetime.datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
                size, seconds, pause = map(float, match.groups()[1:])
                found.append((ended - seconds, size, seconds, pause))
        return found

    def steps_between(self, begin: float, end: float) -> tuple[float, float]:
        """Environment and gradient steps done between two moments, interpolated."""

        def at(moment: float, column: int) -> float:
            for before, after in zip(self.progress, self.progress[1:], strict=False):
                if before[0] <= moment <= after[0]:
                    share = (moment - before[0]) / max(after[0] - before[0], 1e-9)
                    return before[column] + share * (after[column] - before[column])
            return self.progress[-1][column]

        return at(end, 1) - at(begin, 1), at(end, 2) - at(begin, 2)


def measure(folder: Path) -> dict[str, Any]:
    """Fills a replay, lets checkpoints be written, and ends the run again and again."""
    size = f"replay.capacity={_TRANSITIONS.value}"
    budget = "stop.environment_steps=1_000_000_000"
    overrides = (*FULL_SPEED, size, budget, f"checkpoint.every_seconds={_EVERY.value}")
    windows = load("cartpole", overrides).windows_per_item
    run = Run(folder / "run", overrides)
    run.wait_for(lambda status: status.replay_size >= _TRANSITIONS.value // windows * windows)
    first, began = len(run.checkpoints()) + 1, time.time()  # one may be under way
    run.wait_for(
        lambda _: (
            len(run.checkpoints()) >= first + _REPEATS.value
            and time.time() - run.checkpoints()[-1][0] > _WINDOW_SECONDS + 1.0
        )
    )
    written = [one for one in run.checkpoints()[first:] if one[0] > began][: _REPEATS.value]
    lost: list[tuple[float, float]] = []
    for start, *_ in written:
        quiet = run.steps_between(start - _WINDOW_SECONDS, start - 0.5)
        busy = run.steps_between(start, start + _WINDOW_SECONDS)
        scale = _WINDOW_SECONDS / (_WINDOW_SECONDS - 0.5)
        lost.append(tuple(_WINDOW_SECONDS * (1 - b / (q * scale)) for b, q in zip(busy, quiet, strict=True)))  # type: ignore[arg-type]
    ends = [run.end()]
    for _ in range(_REPEATS.value - 1):
        again = Run(folder / "run", (*FULL_SPEED, size, budget, "checkpoint.every_seconds=300.0"))
        again.wait_for(lambda status: status.phase == "learning")
        ends.append(again.end())
    started = time.monotonic()
    newest = checkpoint.newest(run.directory.checkpoints)
    verified = time.monotonic() - started
    assert newest is not None
    return {
        "transitions": _TRANSITIONS.value,
        "seconds": median([one[2] for one in written]),
        "pause_milliseconds": median([one[3] for one in written]),
        "mebibytes": median([one[1] for one in written]),
        "collecting_lost_seconds": median([one[0] for one in lost]),
        "learning_lost_seconds": median([one[1] for one in lost]),
        "verifying_seconds": round(verified, 3),
        "sigterm_to_end_seconds": median(ends),
        "sigterm_to_end_seconds_longest": round(max(ends), 2),
        "repeats": _REPEATS.value,
    }


def lines_of(result: dict[str, Any]) -> list[str]:
    """The result as lines of Markdown."""
    every = next(field.default for field in msgspec.structs.fields(CheckpointConfig) if field.name == "every_seconds")
    worst = max(result["collecting_lost_seconds"], result["learning_lost_seconds"], 0.0)
    rows = {
        "written, seconds": result["seconds"],
        "of these, the learner stands still, milliseconds": result["pause_milliseconds"],
        "size, MiB": result["mebibytes"],
        "collecting lost, seconds": result["collecting_lost_seconds"],
        "learning lost, seconds": result["learning_lost_seconds"],
        f"the larger of the two, at a checkpoint every {every:.0f} s, percent": round(100 * worst / every, 2),
        "verified, seconds": result["verifying_seconds"],
        "from SIGTERM to the end, seconds": result["sigterm_to_end_seconds"],
        "the longest of them": result["sigterm_to_end_seconds_longest"],
    }
    return [
        f"A CartPole run with {result['transitions']:,} windows in its replay, medians of {result['repeats']}:",
        "",
        *table("| | |", [(name, f"{value:g}") for name, value in rows.items()]),
    ]


def main(_: list[str]) -> int:
    """Measures in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        result = measure(Path(folder))
    print_result(result)
    if _WRITE.value:
        write_between(DOCS / "reliability.md", "checkpoints", lines_of(result), "# Reliability\n\n## Checkpoints\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
