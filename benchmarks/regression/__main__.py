"""Measures five ratios, compares them with those recorded, and ends with 1 where one has lost more than 15 %.

Example:
  python -m benchmarks.regression

Each ratio sets a part of this library beside something simple, both measured in turn on this machine: what is recorded
on one machine says something on another, but record anew where the hardware differs: --record=10.
"""

import sys
from pathlib import Path

from absl import flags

from benchmarks import json_lines
from benchmarks.measure import machine, now, print_result
from benchmarks.regression.ratios import RATIOS, Effort
from benchmarks.regression.verdict import LARGEST_LOSS, judge
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

_BASELINES = flags.DEFINE_string(
    "baselines", str(Path(__file__).with_name("baselines.jsonl")), "File of recorded values, a line of JSON a run."
)
_RECORD = flags.DEFINE_integer(
    "record", 0, "Measure so many times and make the file of recorded values anew; 0 compares.", lower_bound=0
)
_RATIOS = flags.DEFINE_list("ratios", list(RATIOS), "Which are measured.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Of one measurement of a rate.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each side of a ratio.", lower_bound=1)
_STEPS = flags.DEFINE_integer("environment_steps", 500_000, "Of the run whose memory is looked at.", lower_bound=10_000)


def measure() -> dict[str, float]:
    """Measures the ratios that are asked for, each printed as soon as it is there."""
    effort, values = Effort(_SECONDS.value, _REPEATS.value, _STEPS.value), {}
    for name in _RATIOS.value:
        values[name] = round(RATIOS[name].measure(effort), 4)
        print(f"{name:24s} {values[name]:8.3f}  ({RATIOS[name].meaning})", flush=True)
    return values


def record(file: Path, runs: int) -> None:
    """Makes the file of recorded values anew."""
    records = []
    for _ in range(runs):
        records.append({"measured": now(), "machine": machine(), "ratios": measure()})
        json_lines.write(file, records)


def main(_: list[str]) -> int:
    """Compares, or records."""
    if unknown := [name for name in _RATIOS.value if name not in RATIOS]:
        raise UsageError(f"--ratios: there is no {', '.join(unknown)}; there are {', '.join(RATIOS)}")
    file = Path(_BASELINES.value)
    if _RECORD.value:
        record(file, _RECORD.value)
        return 0
    recorded = json_lines.read(file, dict)
    if missing := [name for name in _RATIOS.value if not any(name in run["ratios"] for run in recorded)]:
        raise UsageError(f"{file} has no values of {', '.join(missing)}: record some with --record=10")
    values = measure()
    print(f"\n{'ratio':24s} {'now':>8s} {'recorded':>8s} {'least to largest':>18s} {'change':>8s}")
    failed = []
    for name, value in values.items():
        before = [run["ratios"][name] for run in recorded if name in run["ratios"]]
        verdict = judge(value, before, RATIOS[name].larger_is_better)
        spread = f"{min(before):.3f} to {max(before):.3f}"
        word = "worse" if verdict.loss > 0 else "better"
        print(f"{name:24s} {value:8.3f} {verdict.median:8.3f} {spread:>18s} {abs(verdict.loss):6.1%} {word}")
        if verdict.failed:
            failed.append(name)
    print_result({"ratios": values, "failed": failed})
    if failed:
        print(f"lost more than {LARGEST_LOSS:.0%}: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
