"""What units of work cost: each kind of work done alone by the processes that do it in a run, and their CPU counted."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from benchmarks.processes import Process
from benchmarks.scaling.measured.experiments import FREE_DRAWS, FREE_INSERTS
from benchmarks.scaling.measured.systems import System
from benchmarks.scaling.measured.windows import Setting, window
from benchmarks.scaling.model import UnitCosts

COLLECTORS = (1, 2)
SHARDS = (1, 2)
_WRITERS = 2
_CLIENTS = 32
_FETCH_SECONDS = 0.05
_REPORT_SECONDS = 0.1
_SETTLE_SECONDS = 0.3

Windows = Mapping[str, Mapping[str, float]]
"""Of one repeat, by setting."""


class Units:
    """The processes that do each kind of work, all of them started.

    Args:
      folder: for logs and run directories.
      stack: ends the processes.
      seconds: of one measurement.
    """

    def __init__(self, folder: Path, stack: ExitStack, seconds: float) -> None:
        self._seconds, self._settle_seconds = seconds, min(_SETTLE_SECONDS, seconds)
        self._free: dict[int, System] = {}
        self._drawn: dict[int, System] = {}
        self._trainers: dict[int, Process] = {}
        self._writers: dict[int, list[Process]] = {}
        for shards in SHARDS:  # all of them start at once
            self._drawn[shards] = drawn = System(f"draws-{shards}", folder, stack, FREE_DRAWS, shards, learns=False)
            told = json.dumps([drawn.lines, drawn.addresses])
            self._trainers[shards] = drawn.add("trainer", "benchmarks.scaling.measured.trainer", told)
            collectors = max(COLLECTORS) if shards == 1 else 0
            self._free[shards] = System(f"inserts-{shards}", folder, stack, FREE_INSERTS, shards, collectors)
        for trainer in self._trainers.values():
            trainer.answer()
        self._fetchers = self._drawn[1].clients("fetch", 0, _CLIENTS, _FETCH_SECONDS)
        for free in self._free.values():
            free.begin()
        self._reporters = self._free[1].clients("report", 0, _CLIENTS, _REPORT_SECONDS)
        for shards in SHARDS:
            self._writers[shards] = [self._free[shards].clients("write", number, 1, 0.0) for number in range(_WRITERS)]

    def settings(self) -> list[Setting]:
        """One for each kind of work."""
        free, drawn, trainer = self._free[1], self._drawn[1], self._trainers[1]
        fetching = [*drawn.replays, trainer]
        return [
            *(self._collecting(count) for count in COLLECTORS),
            self._with_clients("rest", free, [], free.base, self._wait),
            self._with_clients("report", free, [self._reporters], free.base, self._wait),
            *(
                self._with_clients(
                    f"write {shards}", self._free[shards], self._writers[shards], self._free[shards].base, self._wait
                )
                for shards in SHARDS
            ),
            *(self._training(f"draw {shards}", shards, "draw") for shards in SHARDS),
            self._training("learn", 1, "learn"),
            self._training("publish", 1, "publish"),
            self._with_clients("fetch", drawn, [self._fetchers], fetching, lambda: self._ask(1, "announce_at_pace")),
            self._with_clients(
                "fetch weights", drawn, [self._fetchers], fetching, lambda: self._ask(1, "publish_at_pace")
            ),
        ]

    def _collecting(self, count: int) -> Setting:
        free = self._free[1]
        servers, collectors = free.servers(), free.collectors[:count]

        def measure() -> dict[str, float]:
            return {**free.window(servers, collectors, self._seconds), "bytes per step": free.bytes_per_transition()}

        return Setting(f"collect {count}", [*free.base, *collectors], measure, self._settle_seconds)

    def _training(self, name: str, shards: int, what: str) -> Setting:
        drawn = self._drawn[shards]
        servers = drawn.servers()

        def measure() -> dict[str, float]:
            return window(servers, {"replay": drawn.replays}, lambda: self._ask(shards, what))

        return Setting(name, [*drawn.replays, self._trainers[shards]], measure, self._settle_seconds)

    def _with_clients(
        self,
        name: str,
        system: System,
        clients: Sequence[Process],
        others: Sequence[Process],
        meanwhile: Callable[[], Mapping[str, float]],
    ) -> Setting:
        servers = system.servers()
        kinds: Mapping[str, Sequence[Process]] = {
            "replay": system.replays,
            "learner": system.learners,
            "clients": clients,
        }

        def traffic() -> list[int]:
            return [sum(of) for of in zip(*(process.ask("bytes") for process in clients), strict=True)] or [0, 0]

        def measure() -> dict[str, float]:
            before, values, after = traffic(), window(servers, kinds, meanwhile), traffic()
            return {**values, "clients sent": after[0] - before[0], "clients received": after[1] - before[1]}

        return Setting(name, [*others, *clients], measure, self._settle_seconds)

    def _ask(self, shards: int, what: str) -> Mapping[str, float]:
        answer: dict[str, float] = self._trainers[shards].ask(f"{what} {self._seconds}", self._seconds)
        return {f"trainer {name}": value for name, value in answer.items()}

    def _wait(self) -> dict[str, float]:
        time.sleep(self._seconds)
        return {}


def costs_of(windows: Windows, windows_per_item: int) -> UnitCosts:
    """Unit costs of the measurements of one repeat.

    Args:
      windows: by setting.
      windows_per_item: of the replay measured.
    """
    collecting, rest, reporting = windows["collect 1"], windows["rest"], windows["report"]
    drawing, learning, publishing = windows["draw 1"], windows["learn"], windows["publish"]
    take, take_of_two = (
        windows[f"draw {shards}"]["trainer cpu"] / windows[f"draw {shards}"]["drawn"] for shards in (1, 2)
    )
    fetching, renewing = windows["fetch"], windows["fetch weights"]
    accept = publishing["cpu replay"] / publishing["announced"]
    # Announcements of weights that have not changed cost about half: the table of weights takes nothing.
    fetch = (fetching["cpu replay"] - fetching["announced"] * accept / 2) / fetching["fetched"]
    weights = renewing["cpu replay"] - renewing["announced"] * accept - renewing["fetched"] * fetch
    seconds = reporting["seconds"] / rest["seconds"]  # as many as of rest
    report_in = (reporting["cpu replay"] - rest["cpu replay"] * seconds) / reporting["reported"]
    report = (reporting["cpu learner"] - rest["cpu learner"] * seconds) / reporting["reported"]
    inserting = collecting["cpu replay"] - collecting["fetched"] * fetch - collecting["reported"] * report_in
    inserting -= collecting["announced"] * accept / 2
    fetch_bytes = fetching["clients received"] / fetching["fetched"]
    weights_bytes = (renewing["clients received"] - renewing["fetched"] * fetch_bytes) / renewing["weights"]
    return UnitCosts(
        collect=collecting["cpu collector"] / (collecting["inserted"] * windows_per_item),
        insert=inserting / collecting["inserted"],
        draw=drawing["cpu replay"] / drawing["drawn"],
        take=take,
        take_more=take_of_two - take,
        learn=learning["trainer cpu"] / learning["trainer units"],
        publish=publishing["trainer cpu"] / publishing["announced"],
        accept=accept,
        fetch=fetch,
        fetch_weights=weights / renewing["weights"],
        report=report,
        report_in=report_in,
        step_bytes=collecting["bytes per step"],
        drawn_bytes=drawing["trainer received"] / (drawing["drawn"] * windows_per_item),
        fetch_bytes=fetch_bytes,
        weights_bytes=weights_bytes,
        report_bytes=reporting["clients sent"] / reporting["reported"],
        collect_cores=collecting["cpu collector"] / collecting["seconds"],
        learn_cores=learning["trainer cpu"] / learning["trainer spent"],
    )


def median_costs(costs: Sequence[UnitCosts]) -> UnitCosts:
    """The median of each."""
    names = [field.name for field in fields(UnitCosts)]
    return UnitCosts(**{name: statistics.median(getattr(one, name) for one in costs) for name in names})
