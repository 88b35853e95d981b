"""What is lost when processes end without a last report or a last checkpoint, by cause. No TensorFlow.

Imported when it happens: a process was restarted, the replay is in processes of its own, or the balance of the run is
not even at its end.
"""

from collections.abc import Sequence

import msgspec

from pipeline.experiment.sections import Experiment
from pipeline.records.counters import (
    FAILED,
    KILLED,
    RESTARTED,
    SILENT,
    UNCONFIRMED,
    Counters,
    Seen,
    ServerRecord,
    Tally,
    in_flight_bound,
)

_SETTLING = 4
"""Looks at a server that was restarted in which collectors may still report what was confirmed before, and as many more
for each second between two reports."""


def add_replay_restart(experiment: Experiment, counters: Counters, restored_items: int, drawn: int) -> None:
    """Takes what a replay that was restored from a checkpoint has, before collectors reach it.

    Args:
      experiment: the run.
      counters: of the run.
      restored_items: that it had inserted when the checkpoint was written.
      drawn: windows that had been sampled by then.
    """
    if gone := max(0, counters.items - restored_items - counters.lost_items):
        _lose_items(experiment, counters, gone)
        counters.interruptions += experiment.collectors
    counters.discarded = drawn + counters.dataset_windows - counters.learned - counters.drained


def add_learner_restart(experiment: Experiment, counters: Counters, tally: Tally, new_items: int, told: int) -> None:
    """Takes what a replay in processes of its own has, which went on while there was no learner.

    Args:
      experiment: the run.
      counters: of the run.
      tally: of all servers.
      new_items: that they took since a learner last looked. Of those whose windows nobody tells of, a collector that is
        gone may have told a learner that was killed before it wrote a checkpoint.
      told: windows that collectors have told of since there is a learner again.
    """
    counters.unwatched = max(0, counters.unwatched + new_items * experiment.windows_per_item - told)
    _count_unseen_draws(experiment, counters, tally.sampled)
    drawn = (tally.sampled + counters.drawn_before) * experiment.windows_per_item
    counters.discarded = drawn + counters.dataset_windows - counters.learned - counters.drained


def update_from_servers(experiment: Experiment, counters: Counters, seen: Sequence[Seen], asked: float = 0.0) -> int:
    """Takes what the servers of a replay in processes of their own have, in the order of their shards.

    One that was restarted has lost what its checkpoint did not hold. How much it took after it last answered is known
    when the run ends, see `correct`; it is no more than collectors have had confirmed since, by any server.

    Args:
      experiment: the run.
      counters: of the run.
      seen: of each server, when it last answered.
      asked: monotonic time; a server that has not answered since may have gone with what it took meanwhile.

    Returns:
      Items that the servers have taken since they were last looked at.
    """
    new_items = 0
    for shard, (served, tally, _, at) in enumerate(map(msgspec.structs.astuple, seen)):
        if shard == len(counters.servers):
            is_old = counters.items or served.inserted  # and this learner, without a checkpoint, sees it first
            counters.servers.append(ServerRecord("" if is_old else served.identity, 0, 0))
        known = counters.servers[shard]
        is_other = known.identity != served.identity and not experiment.agent.on_policy
        confirmed, unsettled = known.confirmed, known.unsettled
        new_items += max(0, tally.inserted - min(known.inserted, served.inserted if is_other else known.inserted))
        if (known.identity, known.inserted) != (served.identity, tally.inserted):
            confirmed = known.looked  # of the look before: what was confirmed by then is in this answer
        if is_other:
            _lose_items(experiment, counters, max(0, known.inserted - served.inserted))
            counters.drawn_before += max(0, known.sampled - served.sampled)
            unsettled = _SETTLING + int(_SETTLING * experiment.collect.report_seconds)
        if is_other or at < asked:
            counters.unseen_items += counters.items - known.confirmed
            counters.interruptions += experiment.collectors
        elif unsettled and counters.items > known.looked:
            counters.unseen_items += counters.items - known.looked
            unsettled -= 1
        counters.servers[shard] = ServerRecord(
            served.identity, tally.inserted, tally.sampled, confirmed, counters.items, unsettled
        )
    if asked:
        _count_unseen_draws(experiment, counters, sum(server.sampled for server in counters.servers))
    return new_items


def correct(experiment: Experiment, counters: Counters, unaccounted: int) -> int:
    """Corrects what was lost by what only the end of a run can tell; returns what stays unaccounted, 0 if all is well.

    A collector that was killed, or that had no time left, may have had items stored whose confirmation never reached
    it: they were counted as lost, and are not. A replay that was killed may have saved items that it had not confirmed:
    sent once more, they are no new ones. Neither is more than what a collector may have in flight, once for each such
    event. What reached a server of another process after it last answered, and what a collector on another host began
    after its last report, has bounds of its own.
    """
    most = counters.interruptions * (in_flight_bound(experiment) // max(1, experiment.collectors))
    most += counters.unseen_items * experiment.windows_per_item + counters.unreported + counters.unwatched
    if not 0 < abs(unaccounted) <= most:
        return unaccounted

    def take_back(*names: str) -> None:
        nonlocal unaccounted
        for name in names:
            if change := max(unaccounted, -counters.lost.get(name, 0)):
                counters.lost[name] = counters.lost.get(name, 0) + change
                unaccounted -= change

    def begin_more(most: int) -> None:
        nonlocal unaccounted
        begun = min(-unaccounted, most)
        counters.begun += begun
        unaccounted += begun

    if unaccounted > 0:
        counters.lost[RESTARTED] = counters.lost.get(RESTARTED, 0) + unaccounted
        return 0
    take_back(KILLED, FAILED, SILENT, UNCONFIRMED)
    begin_more(counters.unwatched)  # before the losses of servers: what these have is there, whoever began it
    take_back(RESTARTED)
    begin_more(counters.unreported)
    return unaccounted


def _lose_items(experiment: Experiment, counters: Counters, items: int) -> None:
    counters.lost_items += items
    counters.lost[RESTARTED] = counters.lost.get(RESTARTED, 0) + items * experiment.windows_per_item


def _count_unseen_draws(experiment: Experiment, counters: Counters, sampled: int) -> None:
    """Counts as drawn what was learned from, and servers that are gone had given after they last answered."""
    per_item = experiment.windows_per_item
    used = counters.learned + counters.discarded + counters.drained - counters.dataset_windows
    if RESTARTED in counters.lost:
        counters.drawn_before += max(0, -(-used // per_item) - sampled - counters.drawn_before)
