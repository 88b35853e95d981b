"""Whole runs with 1, 2 and 4 collectors and shards, and what the model makes of them from unit costs."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scaling import model
from benchmarks.scaling.measured.systems import System
from benchmarks.scaling.measured.windows import Setting
from benchmarks.scaling.model import COLLECTOR, LEARNER, SHARD, Run, UnitCosts

SHAPES = ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4))
"""Collectors and shards; unit costs are fitted to the first."""
SAMPLES_PER_INSERT = 4
BATCH_SIZE = 64
LINES = (f"replay.samples_per_insert={SAMPLES_PER_INSERT}", f"learner.batch_size={BATCH_SIZE}")
_SETTLE_SECONDS = 0.7


def name_of(collectors: int, shards: int) -> str:
    """Of a setting."""
    return f"{collectors} collectors, {shards} shards"


def settings(folder: Path, stack: ExitStack, seconds: float) -> list[Setting]:
    """Starts a run for each number of shards; a setting is one of them with some of its collectors.

    Args:
      folder: for logs and run directories.
      stack: ends the processes.
      seconds: of one measurement.
    """
    systems: dict[int, System] = {}
    for shards in sorted({shards for _, shards in SHAPES}):  # all of them start at once
        most = max(collectors for collectors, of in SHAPES if of == shards)
        systems[shards] = System(f"shards-{shards}", folder, stack, LINES, shards, most)
    for system in systems.values():
        system.begin()
        for process in system.base:
            process.rest()
    return [
        _setting(systems[shards], name_of(collectors, shards), collectors, seconds) for collectors, shards in SHAPES
    ]


def _setting(system: System, name: str, collectors: int, seconds: float) -> Setting:
    active, servers = system.collectors[:collectors], system.servers()
    settle_seconds = min(_SETTLE_SECONDS, seconds)
    return Setting(name, [*system.base, *active], lambda: system.window(servers, active, seconds), settle_seconds)


@dataclass(frozen=True)
class Check:
    """One run as it was measured and as the model has it."""

    collectors: int
    shards: int
    measured: float
    """Environment steps a second."""
    predicted: float
    measured_cores: Mapping[str, float]
    """That each kind of process used, all of a kind together."""
    predicted_cores: Mapping[str, float]
    """For as many environment steps a second as were measured."""


def run_of(collectors: int, shards: int, windows_per_item: int) -> Run:
    """The shape of a run as measured here."""
    return Run(collectors, SAMPLES_PER_INSERT, BATCH_SIZE, windows_per_item, shards)


def check(
    costs: UnitCosts, windows: Mapping[str, Mapping[str, float]], windows_per_item: int, number_of_cores: int
) -> tuple[list[Check], UnitCosts]:
    """Fits unit costs to the first run and predicts all of them.

    Args:
      costs: of work done alone.
      windows: medians of what was measured, by setting.
      windows_per_item: of the runs.
      number_of_cores: that all processes shared.

    Returns:
      The checks, and the costs fitted.
    """
    checks: list[Check] = []
    for collectors, shards in SHAPES:
        seen = windows.get(name_of(collectors, shards))
        if seen is None:
            continue
        run = run_of(collectors, shards, windows_per_item)
        rate = seen["inserted"] * windows_per_item / seen["seconds"]
        kinds = {COLLECTOR: "cpu collector", SHARD: "cpu replay", LEARNER: "cpu learner"}
        used = {kind: seen[name] / seen["seconds"] for kind, name in kinds.items()}
        if not checks:
            costs = model.fitted(costs, run, rate, used)
        demands = model.cores(costs, run)
        times = {COLLECTOR: collectors, SHARD: shards, LEARNER: 1}
        needed = {kind: demands[kind].at(rate) * number for kind, number in times.items()}
        predicted = model.on_one_machine(costs, run, number_of_cores)
        checks.append(Check(collectors, shards, rate, predicted, used, needed))
    return checks, costs
