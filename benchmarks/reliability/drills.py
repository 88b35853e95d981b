"""Drills of many seeds, one after the other: how many pass, and how soon a run is back after each kind of fault.

Example:
  python -m benchmarks.reliability.drills --seeds=20 --folder=runs/drills --write

A seed whose `drill.json` is in the folder already is not done again, so that an interrupted call goes on. With --write
the table goes into docs/reliability.md. The exit code is 0 only if every drill passed.
"""

import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
from absl import flags

from benchmarks.pages import DOCS, table, write_between
from pipeline.command import run_command
from pipeline.experiment.config import UsageError
from pipeline.records.results import Summary

_CONFIG = flags.DEFINE_string("config", "cartpole", "Of the drills.")
_SEEDS = flags.DEFINE_integer("seeds", 20, "Drills: of seeds 0, 1, and so on.", lower_bound=1)
_KILLS = flags.DEFINE_integer("kills", 20, "Faults of each.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", None, "Where each drill leaves its results, in a folder of its seed.")
_WRITE = flags.DEFINE_bool("write", False, "Put the table into docs/reliability.md.")


class Fault(msgspec.Struct):
    """What of one fault is shown."""

    fault: str
    seconds: float


class Drill(msgspec.Struct):
    """What of a drill's report is shown. `pipeline.drill` itself is a command, with flags of the same names."""

    seed: int
    done: list[Fault]
    problems: list[str]
    summary: Summary | None


def lines_of(drills: list[Drill]) -> list[str]:
    """The results as lines of Markdown."""
    passed = [drill for drill in drills if not drill.problems]
    by_fault: dict[str, list[float]] = {}
    for drill in drills:
        for fault in drill.done:
            by_fault.setdefault(fault.fault, []).append(fault.seconds)
    runs = [drill.summary for drill in drills if drill.summary is not None]
    accounts = [run.account for run in runs if run.account is not None]
    lost: Counter[str] = Counter()
    for account in accounts:
        lost.update(account.lost)
    begun, stored = (sum(getattr(account, name) for account in accounts) for name in ("begun", "stored"))
    return [
        f"{len(passed)} of {len(drills)} drills passed, with {sum(map(len, by_fault.values()))} faults in "
        f"{sum(run.environment_steps for run in runs):,} environment steps.",
        "",
        *table(
            "| fault | times | seconds until the run collects and learns again, median | longest |",
            [
                (name, len(seconds), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}")
                for name, seconds in sorted(by_fault.items())
            ],
        ),
        "",
        f"Of {begun:,} windows, {stored:,} were stored; lost: "
        + (", ".join(f"{count:,} ({name})" for name, count in sorted(lost.items())) or "none")
        + f"; unaccounted for: {sum(abs(account.unaccounted) for account in accounts)}.",
        "",
        *(f"Seed {drill.seed} failed: {'; '.join(drill.problems)}" for drill in drills if drill.problems),
    ]


def main(_: list[str]) -> int:
    """Drills what is not done yet, and prints or writes the table."""
    if not _FOLDER.value:
        raise UsageError("--folder is missing: where should the drills leave their results?")
    drills: list[Drill] = []
    for seed in range(_SEEDS.value):
        folder = Path(_FOLDER.value) / str(seed)
        report = folder / "drill.json"
        if not report.is_file():
            command = [sys.executable, "-m", "pipeline.drill", f"--config={_CONFIG.value}", f"--run_dir={folder}"]
            subprocess.run([*command, f"--seed={seed}", f"--kills={_KILLS.value}"], check=False)
        if not report.is_file():
            raise UsageError(f"the drill of seed {seed} left no report in {folder}: its output says why")
        drills.append(msgspec.json.decode(report.read_bytes(), type=Drill))
        print(f"{sum(not drill.problems for drill in drills)} of {len(drills)} passed", flush=True)
    lines = lines_of(drills)
    print("\n".join(lines))
    if _WRITE.value:
        write_between(DOCS / "reliability.md", "drills", lines)
    return 0 if not any(drill.problems for drill in drills) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
