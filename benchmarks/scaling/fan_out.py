"""What it costs a learner that many fetch its weights: with the replay in its process, in one of its own, by relays."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import Process
from benchmarks.scaling.measured.systems import System
from benchmarks.scaling.measured.windows import Servers, Setting, window

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


def settings(folder: Path, stack: ExitStack, seconds: float, many: int = MANY) -> list[Setting]:
    """Starts a run for each way to hand out weights; a setting is one with few or with many clients that only fetch.

    Args:
      folder: for logs and run directories.
      stack: ends the processes.
      seconds: of one measurement.
      many: clients, in place of `MANY`.
    """
    systems = {
        way: System(way.replace(" ", "-"), folder, stack, LINES, 0 if way == "embedded" else 1, 1) for way in WAYS
    }
    return [setting for way, system in systems.items() for setting in _of(way, system, seconds, many)]


def _of(way: str, system: System, seconds: float, many: int) -> list[Setting]:
    relays: list[Process] = []
    addresses = system.addresses[:1]
    if way == "relays":
        started = [system.relay(number) for number in range(math.ceil(many / _CLIENTS_OF_RELAY))]
        relays, addresses = [relay for relay, _ in started], [address for _, address in started]
    system.begin()
    few = system.clients("fetch", 0, FEW, _FETCH_SECONDS, addresses[:1])
    more = [
        system.clients("fetch", first, min(_CLIENTS_OF_PROCESS, many - first), _FETCH_SECONDS, addresses)
        for first in range(FEW, many, _CLIENTS_OF_PROCESS)
    ]
    for process in (*system.base, *relays):
        process.rest()
    return [
        _setting(name_of(way, FEW), system, relays[:1], addresses[:1], [few], seconds),
        _setting(name_of(way, many), system, relays, addresses, [few, *more], seconds),
    ]


def _setting(
    name: str,
    system: System,
    relays: Sequence[Process],
    addresses: Sequence[str],
    clients: Sequence[Process],
    seconds: float,
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
        time.sleep(seconds)
        after = handing_out.counts()
        return {
            "handed out": float(after.fetched - before.fetched),
            "weights handed out": float(after.weights - before.weights),
        }

    active = [*system.base, *collectors, *relays, *clients]
    return Setting(name, active, lambda: window(servers, kinds, wait), min(_SETTLE_SECONDS, seconds))
