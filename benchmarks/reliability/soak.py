"""A long run under faults: memory, descriptors and threads of every role, at a tenth of it and at its end.

Example:
  python -m benchmarks.reliability.soak --environment_steps=10_000_000 --folder=runs/soak --write

A collector, the evaluator and the learner are killed in turn, the first once the run learns and then one every
--kill_seconds, but none before the run has gone on after the last kill; what a restarted process takes is compared with
what its role took before. With --write the table goes into docs/reliability.md.
"""

import random
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
from absl import flags

from benchmarks.measure import FULL_SPEED
from benchmarks.pages import DOCS, table, write_between
from pipeline.command import run_command
from pipeline.drill.faults import Drilled, Progress, RunIsOver, kill
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.results import Summary

_STEPS = flags.DEFINE_integer("environment_steps", 10_000_000, "Of the run.", lower_bound=10_000)
_KILL_SECONDS = flags.DEFINE_float(
    "kill_seconds", 20.0, "From one kill to the next, at least; the first is soon.", lower_bound=1.0
)
_FOLDER = flags.DEFINE_string("folder", None, "Where the run is left; new.")
_WRITE = flags.DEFINE_bool("write", False, "Put the table into docs/reliability.md.")
_MIB = 2.0**20
_SETTLED_SECONDS = 8.0
"""A process is looked at once it has run for so long: imports and compilation come and go."""


class Look(NamedTuple):
    """One role's process at one moment."""

    environment_steps: int
    mebibytes: float
    descriptors: int
    threads: int


def look(run: Drilled, looks: dict[str, list[Look]]) -> None:
    """Adds what each role's process takes now."""
    status = run.status()
    if status is None:
        return
    for role in ("learner", "collector", "evaluator"):
        for process in run.processes(role):
            try:
                if time.time() - process.create_time() > _SETTLED_SECONDS:
                    size, files = process.memory_info().rss / _MIB, process.num_fds()
                    found = Look(status.environment_steps, size, files, process.num_threads())
                    looks.setdefault(role, []).append(found)
            except psutil.Error:
                continue


def lines_of(looks: dict[str, list[Look]], steps: int, kills: int, summary: Summary) -> list[str]:
    """The results as lines of Markdown: medians of the looks around a fifth of the run and of its last fifth."""
    account = summary.account
    assert account is not None
    lost = ", ".join(f"{count:,} ({name})" for name, count in sorted(account.lost.items())) or "none"
    rows = []
    for role, found in looks.items():
        early = [one for one in found if 0.2 * steps <= one.environment_steps < 0.4 * steps]
        late = [one for one in found if one.environment_steps >= 0.8 * steps]
        cells = []
        for field in ("mebibytes", "descriptors", "threads"):
            cells += [
                f"{statistics.median(getattr(one, field) for one in part):.0f}" if part else "-"
                for part in (early, late)
            ]
        rows.append((role, *cells))
    return [
        f"{summary.environment_steps:,} environment steps in {summary.train_seconds:.0f} s of training with {kills} "
        f"kills; of {account.begun:,} windows {account.stored:,} were stored; lost: {lost}; unaccounted for: "
        f"{account.unaccounted}.",
        "",
        *table("| role | MiB, second fifth | last fifth | descriptors | | threads | |", rows),
    ]


def main(_: list[str]) -> int:
    """Runs once and looks twice a second."""
    if not _FOLDER.value:
        raise UsageError("--folder is missing: where should the run leave its files?")
    run_dir = RunDirectory(Path(_FOLDER.value).resolve() / "run")
    if run_dir.path.exists():
        raise UsageError(f"{run_dir.path} exists: choose another --folder")
    run_dir.path.parent.mkdir(parents=True, exist_ok=True)
    overrides = (*FULL_SPEED, f"stop.environment_steps={_STEPS.value}", "checkpoint.every_seconds=10.0")
    flags_ = ["--config=cartpole", *(f"--set={line}" for line in overrides)]
    run, by_chance = Drilled(run_dir, flags_, [*flags_, "--resume"]), random.Random(0)
    run.start()
    assert run.supervisor is not None
    looks: dict[str, list[Look]] = {}
    kills, kill_at, progress = 0, time.monotonic(), Progress(run.status)
    while run.supervisor.poll() is None:
        time.sleep(0.5)
        look(run, looks)
        if time.monotonic() < kill_at or not progress.is_seen():
            continue
        try:
            kill(("collector", "evaluator", "learner")[kills % 3])(run, by_chance)
        except RunIsOver:  # its roles leave: what is left to do is to wait for its end
            break
        kills, kill_at, progress = kills + 1, time.monotonic() + _KILL_SECONDS.value, Progress(run.status)
    if (code := run.supervisor.wait()) != 0:
        raise UsageError(f"the run ended with exit code {code}: {run.output} says why")
    summary = msgspec.json.decode(run_dir.summary.read_bytes(), type=Summary)
    lines = lines_of(looks, _STEPS.value, kills, summary)
    print("\n".join(lines))
    if _WRITE.value:
        write_between(DOCS / "reliability.md", "soak", lines)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
