"""The curves: what grows, through which sizes, and what a unit of work costs at each."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.processes import Process
from benchmarks.scaling.measured.systems import System
from benchmarks.scaling.measured.windows import Setting

_SETTLE_SECONDS = 0.7
_RATIO = ("replay.samples_per_insert=4",)
_NEAR = 1.25
"""A cost within this factor of the least counts as no dearer."""
_LINEAR = 1.1
"""A work that doubles may cost this power of two more, and still counts as linear: noise is as large."""


@dataclass(frozen=True)
class Curve:
    """A size that grows while all others stay.

    Attributes:
      name: of the size.
      sizes: in order.
      units: figures by name, and what each is, with its unit.
    """

    name: str
    sizes: Sequence[int]
    units: Mapping[str, str]


CURVES = (
    Curve(
        "collectors",
        (1, 2, 4, 8),
        {"step": "us of CPU of all roles for an environment step", "rate": "environment steps/s on all cores"},
    ),
    Curve(
        "lanes",
        (1, 4, 16, 64, 256),
        {"step": "us of CPU of the collector for an environment step", "rate": "environment steps/s"},
    ),
    Curve(
        "transitions",
        (10**4, 10**5, 10**6, 10**7),
        {
            "insert": "us of CPU for a transition inserted into a full replay",
            "draw": "us of CPU for a transition drawn",
            "checkpoint": "us for each transition of a checkpoint",
            "resume": "us for each transition of a resume",
            "resident": "bytes of memory for each transition",
        },
    ),
    Curve("batch", (32, 128, 512, 2048, 4096), {"sample": "us of CPU for a sample of a gradient step"}),
    Curve(
        "weights",
        (10**4, 10**5, 10**6, 10**7),
        {
            "gradient": "ns of CPU for each weight of a gradient step of batch 64",
            "publish": "ns of CPU for each weight of a publication",
        },
    ),
)
"""Of CartPole's run: rates and costs of a unit of work, which stay as they are where nothing grows with the size."""
BY_NAME = {curve.name: curve for curve in CURVES}


def settings(name: str, folder: Path, stack: ExitStack, seconds: float, largest: int) -> list[Setting]:
    """Starts what a curve's points need; a setting is one size.

    Args:
      name: of the curve.
      folder: for logs and run directories.
      stack: ends the processes.
      seconds: of one measurement.
      largest: size that is measured.
    """
    sizes = [size for size in BY_NAME[name].sizes if size <= largest]
    if name == "collectors":
        system = System(name, folder, stack, _RATIO, 1, max(sizes))
        system.begin()
        return [_window(system, size, system.collectors[:size], seconds, everybody=True) for size in sizes]
    if name == "lanes":
        systems = {size: System(f"lanes-{size}", folder, stack, _lanes(size), 1, 1) for size in sizes}
        for one in systems.values():
            one.begin()
            for process in one.base:
                process.rest()
        return [_window(one, size, one.collectors, seconds) for size, one in systems.items()]
    points = {size: _point(name, size, folder, stack, seconds) for size in sizes}
    for point in points.values():
        point.answer()
    return [Setting(str(size), [point], partial(_asked, point)) for size, point in points.items()]


def exponent(smaller: int, larger: int, cost: float, more: float) -> float:
    """By which power of the size the whole work grows between two sizes, of the cost of a unit at each."""
    return 1.0 + math.log(more / cost) / math.log(larger / smaller)


def knee(costs: Mapping[int, float]) -> tuple[int, int | None]:
    """Where a unit has become as cheap as it gets, and from which size on it is dearer again, if it is.

    Args:
      costs: of a unit, by size.
    """
    least = min(costs.values())
    near = [size for size, cost in costs.items() if cost <= _NEAR * least]
    dearer = [size for size in costs if size > max(near)]
    return min(near), (min(dearer) if dearer else None)


def superlinear(costs: Mapping[int, float]) -> list[tuple[int, int]]:
    """Neighbouring sizes between which the whole work grows by more than the size does."""
    sizes = sorted(costs)
    pairs = list(itertools.pairwise(sizes))
    return [(a, b) for a, b in pairs if exponent(a, b, costs[a], costs[b]) > _LINEAR]


def _lanes(size: int) -> tuple[str, ...]:
    # A learner that nobody holds back would ask for more than few lanes give, and take their core.
    return ("replay.samples_per_insert=1", f"collect.lanes={size}", "replay.steps_per_item=16")


def _window(system: System, size: int, active: Sequence[Process], seconds: float, everybody: bool = False) -> Setting:
    servers = system.servers()

    def measure() -> dict[str, float]:
        seen = system.window(servers, active, seconds)
        steps = max(1.0, seen["inserted"] * system.windows_per_item)
        kinds = ("cpu collector", "cpu replay", "cpu learner") if everybody else ("cpu collector",)
        return {"step": 1e6 * sum(seen[kind] for kind in kinds) / steps, "rate": steps / seen["seconds"]}

    return Setting(str(size), [*system.base, *active], measure, min(_SETTLE_SECONDS, seconds))


def _point(name: str, size: int, folder: Path, stack: ExitStack, seconds: float) -> Process:
    told = json.dumps([name, size, seconds])
    point = Process(f"{name}-{size}", "benchmarks.scaling.growth.point", [told], folder)
    stack.callback(point.end)
    return point


def _asked(point: Process) -> dict[str, float]:
    point.tell()
    return dict(point.answer())
