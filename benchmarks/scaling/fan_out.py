"""What it costs a learner that many fetch its weights: with the replay in its process, in one of its own, by relays."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.scaling.processes import Process, Servers, Setting, in_turn, window
from benchmarks.scaling.systems import System

FEW, MANY = 8, 256
WAYS = ("embedded", "own process", "relays")
LINES = ("replay.samples_per_insert=32", "learner.batch_size=64")
_CLIENTS_OF_RELAY = 16
_CLIENTS_OF_PROCESS = 62
_FETCH_SECONDS = 1.0
"""As calm collectors do: of 256 that fetch 20 times a second, two cores would have nothing left for a learner."""
_SETTLE_SECONDS = 0.7


def name_of(way: str, clients: int) -> str:
    """Of a setting."""
    return f"{way}, {clients} clients"


class FanOut:
    """Starts a run for each way to hand out weights, and measures it with few and with many clients that only fetch.

    Args:
      folder: for logs and run directories.
      stack: ends the processes.
      seconds: of one measurement.
      many: clients, in place of `MANY`.
    """

    def __init__(self, folder: Path, stack: ExitStack, seconds: float, many: int = MANY) -> None:
        self._seconds, self._many = seconds, many
        systems = {
            way: System(way.replace(" ", "-"), folder, stack, LINES, 0 if way == "embedded" else 1, 1) for way in WAYS
        }
        self._settings = [setting for way, system in systems.items() for setting in self._of(way, system)]

    def measure(self, repeats: int, keep: Callable[[str, int, Mapping[str, float]], None]) -> None:
        """Measures all settings; see `in_turn`."""
        in_turn(self._settings, min(_SETTLE_SECONDS, self._seconds), repeats, keep)

    def _of(self, way: str, system: System) -> list[Setting]:
        relays: list[Process] = []
        addresses = system.addresses[:1]
        if way == "relays":
            started = [system.relay(number) for number in range(math.ceil(self._many / _CLIENTS_OF_RELAY))]
            relays, addresses = [relay for relay, _ in started], [address for _, address in started]
        system.begin()
        few = self._clients(system, addresses[:1], 0, FEW)
        more = [
            self._clients(system, addresses, first, min(_CLIENTS_OF_PROCESS, self._many - first))
            for first in range(FEW, self._many, _CLIENTS_OF_PROCESS)
        ]
        for process in (*system.base, *relays):
            process.rest()
        return [
            self._setting(name_of(way, FEW), system, relays[:1], addresses[:1], [few]),
            self._setting(name_of(way, self._many), system, relays, addresses, [few, *more]),
        ]

    def _clients(self, system: System, addresses: Sequence[str], first: int, count: int) -> Process:
        told = json.dumps(["fetch", addresses, first, count, _FETCH_SECONDS])
        clients = system.add(f"clients-{first}", "benchmarks.scaling.clients", told)
        clients.answer()
        clients.rest()
        return clients

    def _setting(
        self, name: str, system: System, relays: Sequence[Process], addresses: Sequence[str], clients: Sequence[Process]
    ) -> Setting:
        collectors = system.collectors
        kinds: Mapping[str, Sequence[Process]] = {
            "replay": system.replays,
            "learner": system.learners,
            "collector": collectors,
            "relay": relays,
            "clients": clients,
        }
        servers, handing_out = system.servers(), Servers(addresses, system.table)

        def wait() -> dict[str, float]:
            before = handing_out.counts()
            time.sleep(self._seconds)
            after = handing_out.counts()
            return {
                "handed out": float(after.fetched - before.fetched),
                "weights handed out": float(after.weights - before.weights),
            }

        active = [*system.base, *collectors, *relays, *clients]
        return Setting(name, active, lambda: window(servers, kinds, wait))
