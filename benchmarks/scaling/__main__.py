"""Unit costs of distributed runs, the model that they make, and whole runs against it; writes docs/scaling.md.

Example:
  python -m benchmarks.scaling --parts=units,runs --repeats=5

Real processes over gRPC, all of them on this machine. A part that is measured replaces what the file of results has of
it; --parts= measures nothing and writes the page anew.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from absl import flags

from benchmarks.measure import machine, now, print_result
from benchmarks.pages import ROOT
from benchmarks.processes import Failed
from benchmarks.scaling import fan_out, fixed, report, results, runs, units
from benchmarks.scaling.measured.windows import Keep, Setting, in_turn
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

PARTS = ("units", "runs", "fan_out", "fixed")

_PARTS = flags.DEFINE_list("parts", list(PARTS), "Parts to measure.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.05)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each setting, in turn.", lower_bound=1)
_CLIENTS = flags.DEFINE_integer("clients", 256, "Clients of the part fan_out, at most.", lower_bound=9)
_STEPS = flags.DEFINE_integer("steps", 20_000, "Gradient steps of one run of the part fixed.", lower_bound=100)
_RESULTS = flags.DEFINE_string("results", "benchmarks/scaling/results.jsonl", "File of results, read and added to.")
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of scaling.md and images/; empty writes neither.")


def settings_of(part: str, folder: Path, stack: ExitStack) -> list[Setting]:
    """Starts what a part measures."""
    if part == "fixed":
        return fixed.settings(_STEPS.value)
    if part == "fan_out":
        return fan_out.settings(folder, stack, _SECONDS.value, _CLIENTS.value)
    if part == "runs":
        return runs.settings(folder, stack, _SECONDS.value)
    return units.Units(folder, stack, _SECONDS.value).settings()


def keeper(path: Path, part: str) -> Keep:
    """What takes the measurements of a part into the file."""
    on = machine()

    def keep(setting: str, repeat: int, values: Mapping[str, float]) -> None:
        results.append(path, results.Measurement(part, setting, repeat, dict(values), now(), on))
        shown = ", ".join(f"{name} {value:,.5g}" for name, value in values.items() if value)
        print(f"{part} {repeat} {setting}: {shown}", flush=True)

    return keep


def measure(part: str, path: Path) -> bool:
    """Measures one part; False if a process of it failed, which is printed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, ExitStack() as stack:
        try:
            settings = settings_of(part, Path(folder), stack)
            print(f"{part}: started in {time.monotonic() - started:.0f} s", flush=True)
            results.drop(path, part)
            in_turn(settings, _REPEATS.value, keeper(path, part))
        except Failed as failure:
            print(f"{part}: {failure}", file=sys.stderr, flush=True)
            return False
    print(f"{part}: took {time.monotonic() - started:.0f} s", flush=True)
    return True


def main(_: list[str]) -> int:
    """Measures the parts asked for and writes the page."""
    parts = [part for part in _PARTS.value if part]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UsageError(f"--parts: {', '.join(unknown)} unknown; there are {', '.join(PARTS)}")
    path = ROOT / _RESULTS.value
    succeeded = [measure(part, path) for part in parts]
    measurements = results.read(path)
    if _DOCS.value:
        report.write(measurements, ROOT / _DOCS.value, len(os.sched_getaffinity(0)))
    print_result({part: results.medians(results.by_repeat(measurements, part)) for part in PARTS})
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
