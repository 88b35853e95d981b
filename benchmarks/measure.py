"""What the benchmarks share: repeats, medians, the machine, the time, the JSON line."""

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FULL_SPEED = ("collect.lanes=64", "learner.steps_per_call=64", "replay.samples_per_insert=2", "stop.target_return=1e9")
"""CartPole's shipped config at the collectors' full speed: many steps are only waited for."""


def rates(
    calls: Mapping[str, Callable[[], int]],
    seconds: float,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Units per second of several calls, measured in turn (A B A B ...), so that noise meets all alike.

    Args:
      calls: each does some work and returns how many units it did.
      seconds: of one measurement of one call.
      repeats: measurements of each.
      clock: that counts the seconds; `time.process_time` counts the CPU time of all threads.
    """
    results: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started, units = clock(), 0
            while clock() - started < seconds:
                units += call()
            results[name].append(units / (clock() - started))
    return results


def median(values: list[float]) -> float:
    """The median, rounded to what such measurements can tell."""
    return float(f"{statistics.median(values):.4g}")


def spread(values: list[float]) -> str:
    """ "median (least to largest)" for people."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def print_result(result: dict[str, Any]) -> None:
    """Prints the closing JSON line with the machine beside the result."""
    print(json.dumps({**result, "machine": machine()}))


def machine() -> str:
    """The machine, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}"


def now() -> str:
    """UTC time, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
