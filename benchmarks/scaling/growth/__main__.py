"""How the costs of a unit of work grow with collectors, lanes, replay, batch and network; writes docs/performance.md.

Example:
  python -m benchmarks.scaling.growth --curves=batch,weights --repeats=5

Sizes of a curve are measured in turn, each in processes of its own. A curve that is measured replaces what the file of
results has of it; --curves= measures nothing and writes the page anew.
"""

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
from benchmarks.scaling import results
from benchmarks.scaling.growth import curves, report
from benchmarks.scaling.measured.windows import in_turn
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

_CURVES = flags.DEFINE_list("curves", list(curves.BY_NAME), "Curves to measure.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.05)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each size, in turn.", lower_bound=1)
_LARGEST = flags.DEFINE_integer("largest", 10**9, "Size that is measured, at most.", lower_bound=1)
_RESULTS = flags.DEFINE_string(
    "results", "benchmarks/scaling/growth/results.jsonl", "File of results, read and added to."
)
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of performance.md and images/; empty writes neither.")


def measure(name: str, path: Path) -> bool:
    """Measures one curve; False if a process of it failed, which is printed."""
    started, on = time.monotonic(), machine()

    def keep(size: str, repeat: int, values: Mapping[str, float]) -> None:
        results.append(path, results.Measurement(name, size, repeat, dict(values), now(), on))
        shown = ", ".join(f"{figure} {value:,.5g}" for figure, value in values.items())
        print(f"{name} {repeat} {size}: {shown}", flush=True)

    with tempfile.TemporaryDirectory(prefix="growth-") as folder, ExitStack() as stack:
        try:
            points = curves.settings(name, Path(folder), stack, _SECONDS.value, _LARGEST.value)
            print(f"{name}: started in {time.monotonic() - started:.0f} s", flush=True)
            results.drop(path, name)
            in_turn(points, _REPEATS.value, keep)
        except Failed as failure:
            print(f"{name}: {failure}", file=sys.stderr, flush=True)
            return False
    return True


def main(_: list[str]) -> int:
    """Measures the curves asked for and writes the page."""
    names = [name for name in _CURVES.value if name]
    if unknown := sorted(set(names) - set(curves.BY_NAME)):
        raise UsageError(f"--curves: {', '.join(unknown)} unknown; there are {', '.join(curves.BY_NAME)}")
    if none := [name for name in names if min(curves.BY_NAME[name].sizes) > _LARGEST.value]:
        raise UsageError(f"--largest={_LARGEST.value} leaves no size of {', '.join(none)}")
    path = ROOT / _RESULTS.value
    succeeded = [measure(name, path) for name in names]
    measurements = results.read(path)
    if _DOCS.value:
        report.write(measurements, ROOT / _DOCS.value)
    print_result({name: results.medians(results.by_repeat(measurements, name)) for name in curves.BY_NAME})
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
