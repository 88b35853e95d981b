"""What servers count and what processes use in some seconds, and settings measured in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import reverb

from benchmarks.processes import Process
from pipeline.messages.contents import REPORTS_TABLE, VARIABLES_TABLE, WEIGHTS_TABLE

Keep = Callable[[str, int, Mapping[str, float]], None]
"""Takes the name of a setting, the number of the repeat and what was measured."""


class Counts(NamedTuple):
    """What servers have taken and given so far, all of them together."""

    inserted: int
    """Items of experience."""
    drawn: int
    announced: int
    """Announcements taken: publications."""
    fetched: int
    """Announcements given."""
    weights: int
    """Sets of weights given."""
    reported: int
    """Reports taken."""


class Servers:
    """The servers of a replay, or relays, asked for what they count.

    Args:
      addresses: of them.
      table: of experience.
    """

    def __init__(self, addresses: Sequence[str], table: str) -> None:
        self._clients, self._table = [reverb.Client(address) for address in addresses], table

    def counts(self) -> Counts:
        """Those of all of them, added up."""
        totals = Counts(0, 0, 0, 0, 0, 0)
        for client in self._clients:
            limiters = {name: info.rate_limiter_info for name, info in client.server_info(timeout=30).items()}
            taken = {name: int(limiter.insert_stats.completed) for name, limiter in limiters.items()}
            given = {name: int(limiter.sample_stats.completed) for name, limiter in limiters.items()}
            now = Counts(
                taken.get(self._table, 0),
                given.get(self._table, 0),
                taken[VARIABLES_TABLE],
                given[VARIABLES_TABLE],
                given[WEIGHTS_TABLE],
                taken.get(REPORTS_TABLE, 0),
            )
            totals = Counts(*(total + count for total, count in zip(totals, now, strict=True)))
        return totals


def window(
    servers: Servers, processes: Mapping[str, Sequence[Process]], meanwhile: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """What happens in some seconds.

    Args:
      servers: whose counts are taken.
      processes: whose CPU is counted, by the kind that they are added up to.
      meanwhile: takes these seconds, and returns what else is to be kept.

    Returns:
      `seconds`, the `Counts` and, by kind, CPU seconds as `cpu KIND`.
    """
    used, before, started = _cpu(processes), servers.counts(), time.perf_counter()
    more = meanwhile()
    seconds, after, now = time.perf_counter() - started, servers.counts(), _cpu(processes)
    values = {name: float(last - first) for name, first, last in zip(Counts._fields, before, after, strict=True)}
    return {"seconds": seconds, **values, **{f"cpu {kind}": now[kind] - used[kind] for kind in used}, **more}


def _cpu(processes: Mapping[str, Sequence[Process]]) -> dict[str, float]:
    return {kind: sum(process.cpu() for process in of_kind) for kind, of_kind in processes.items()}


class Setting(NamedTuple):
    """One thing to measure."""

    name: str
    active: Sequence[Process]
    """All others rest meanwhile."""
    measure: Callable[[], Mapping[str, float]]
    settle_seconds: float = 0.0
    """Between the moment when the processes go on and the measurement."""


def in_turn(settings: Sequence[Setting], repeats: int, keep: Keep) -> None:
    """Measures settings in turn (A B A B ...), so that noise meets all alike.

    Args:
      settings: what to measure.
      repeats: measurements of each.
      keep: what to do with a measurement.
    """
    everybody = list({id(process): process for setting in settings for process in setting.active}.values())
    for process in everybody:
        process.rest()
    for repeat in range(repeats):
        for setting in settings:
            for process in setting.active:
                process.go_on()
            time.sleep(setting.settle_seconds)
            keep(setting.name, repeat, setting.measure())
            for process in setting.active:
                process.rest()
