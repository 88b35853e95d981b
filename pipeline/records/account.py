"""Where every transition is: stored, on its way, or lost to something that has a name. No TensorFlow.

One transition begins at every frame that a collector hands to its writer. The counts of the two sides are independent:
collectors count what they began and what was confirmed to them, the replay counts what it inserted.
"""

from typing import Any, NamedTuple

import msgspec

from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Served
from pipeline.records.checkpoint import Counters
from pipeline.records.in_flight import most_unconfirmed

RESTARTED = "replay restarted"
"""Confirmed to a collector after the newest checkpoint, and gone with the replay's process."""
KILLED = "collector killed"
FAILED = "collector failed"
UNCONFIRMED = "unconfirmed at the end"
SILENT = "collector fell silent"
"""Of another host, where nobody says how it ended: begun by its last report, and not stored."""


class Tally(NamedTuple):
    """The replay's own counts of items, since the run began."""

    inserted: int
    sampled: int
    present: int


NOTHING = Tally(0, 0, 0)


class Seen(msgspec.Struct, frozen=True):
    """A server as it was when it last answered."""

    served: Served
    """Which process it was."""
    tally: Tally
    info: Any
    """Reverb's `TableInfo`s by the names of their tables."""
    at: float
    """Monotonic time."""


class Account(msgspec.Struct, frozen=True):
    """The ledger at one moment, in transitions."""

    begun: int
    """Handed to the collectors' writers."""
    stored: int
    """Of these, those that the replay has inserted."""
    present: int
    evicted: int
    """Inserted once and removed since; by a queue, handed to the learner."""
    in_flight: int
    """Not confirmed yet to collectors that run; some of them may be stored already."""
    in_flight_bound: int
    """Never more than so many."""
    lost: dict[str, int]
    """By what lost them."""
    unaccounted: int
    """Begun, but neither stored nor on their way nor lost; 0 once nothing is on its way. While something is, what is
    stored and not yet confirmed counts twice, and makes it negative."""
    drawn: int
    """Sampled by the learner's data path."""
    learned: int
    """Of these, those that gradient steps learned from."""
    discarded: int
    """Of these, those that a learner's process had drawn ahead when it ended."""
    prefetched: int
    """Of these, those that wait for their gradient steps."""


def in_flight_bound(experiment: Experiment) -> int:
    """Transitions of all collectors that are not confirmed at most: what each loses at most if it is killed."""
    return experiment.collectors * most_unconfirmed(experiment)


def account(experiment: Experiment, counters: Counters, tally: Tally) -> Account:
    """The ledger now, from the run's counters and the replay's own counts."""
    per_item = experiment.transitions_per_item
    empty = counters.items * per_item - counters.transitions  # windows that fill a collector's last items
    stored = tally.inserted * per_item - empty
    present = tally.present * per_item
    in_flight = sum(counts.begun - counts.transitions for counts in counters.processes.values())
    drawn = (tally.sampled + counters.drawn_before) * per_item
    return Account(
        begun=counters.begun,
        stored=stored,
        present=present,
        evicted=tally.inserted * per_item - present,
        in_flight=in_flight,
        in_flight_bound=in_flight_bound(experiment),
        lost=dict(counters.lost),
        unaccounted=counters.begun - stored - in_flight - sum(counters.lost.values()),
        drawn=drawn,
        learned=counters.learned,
        discarded=counters.discarded,
        prefetched=drawn - counters.learned - counters.discarded,
    )


def reconcile(experiment: Experiment, counters: Counters, tally: Tally) -> int:
    """Corrects what was lost by what only the end of a run can tell; returns what stays unaccounted, 0 if all is well.

    A collector that was killed, or that had no time left, may have had items stored whose confirmation never reached
    it: they were counted as lost, and are not. A replay that was killed may have saved items that it had not confirmed:
    sent once more, they are no new ones. Neither is more than what a collector may have in flight, once for each such
    event. What reached a server of another process after it last answered, and what a collector on another host began
    after its last report, has bounds of its own.
    """
    unaccounted = account(experiment, counters, tally).unaccounted
    most = counters.interruptions * (in_flight_bound(experiment) // max(1, experiment.collectors))
    most += counters.unseen_items * experiment.transitions_per_item + counters.unreported
    if not counters.processes and 0 < abs(unaccounted) <= most:
        for name in (KILLED, FAILED, SILENT, UNCONFIRMED, RESTARTED):
            change = max(unaccounted, -counters.lost.get(name, 0)) if unaccounted < 0 or name == RESTARTED else 0
            if change:
                counters.lost[name] = counters.lost.get(name, 0) + change
                unaccounted -= change
        begun_later = min(max(0, -unaccounted), counters.unreported)
        counters.begun += begun_later
        unaccounted += begun_later
    return unaccounted
