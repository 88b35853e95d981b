"""The ledger of a run whose replay is a process of its own, through deaths of all its processes in any order.

A slow ledger beside it follows every item by name.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.experiment.config import parse
from pipeline.messages.contents import Counts, Served
from pipeline.records import losses
from pipeline.records.counters import RESTARTED, Counters, Seen, Tally, account, in_flight_bound
from pipeline.records.ledger import Ledger

EXPERIMENT = parse(
    "",
    ("collect.lanes=2", "collect.collectors=2", "replay.lanes_per_item=2", "learner.batch_size=8", "replay.shards=2"),
)
PER_ITEM = EXPERIMENT.windows_per_item
SHARDS = 2
MANY = 2 * in_flight_bound(EXPERIMENT) // PER_ITEM
"""More than what collectors may have on their way explains."""


class Server:
    """Items by name. Killed, it comes back as it was when its last checkpoint was written."""

    def __init__(self, name: str) -> None:
        self.name, self.lives, self.restored = name, 0, 0
        self.sampled = self.restored_sampled = self.saved_sampled = 0
        self.items: dict[str, None] = {}
        self.saved: dict[str, None] = {}

    def restart(self) -> None:
        self.lives += 1
        self.items, self.restored = dict(self.saved), len(self.saved)
        self.sampled = self.restored_sampled = self.saved_sampled

    @property
    def seen(self) -> Seen:
        served = Served(f"{self.name}.{self.lives}", self.restored, self.restored_sampled)
        return Seen(served, Tally(len(self.items), self.sampled, len(self.items)), {}, 0.0)


class Run:
    """Two collectors, each with a server of its own, and a learner that may be away."""

    def __init__(self) -> None:
        self.servers = [Server("a"), Server("b")]
        self.ledger: Ledger | None = Ledger(EXPERIMENT, Counters())
        self.saved = msgspec.json.encode(self.ledger.counters)
        self.begun: list[str] = []
        self.starts = [0] * SHARDS
        self.sent: list[list[str]] = [[] for _ in range(SHARDS)]  # not confirmed
        self.counts = [Counts()] * SHARDS
        self.dead: dict[str, Counts] = {}
        self.answer(0)

    def process(self, index: int) -> str:
        return f"collector-{index}.{self.starts[index]}"

    def collect(self, index: int) -> None:
        item = f"{self.process(index)}/{self.counts[index].begun}"
        self.begun.append(item)
        self.sent[index].append(item)
        self.counts[index] += Counts(environment_steps=PER_ITEM, begun=PER_ITEM)

    def insert(self, index: int) -> None:
        """The oldest item on its way arrives; the word that it has is on its way."""
        items = self.servers[index].items
        if (item := next((item for item in self.sent[index] if item not in items), None)) is not None:
            items[item] = None

    def confirm(self, index: int) -> None:
        while self.sent[index] and self.sent[index][0] in self.servers[index].items:
            self.sent[index].pop(0)
            self.counts[index] += Counts(windows=PER_ITEM, items=1)

    def collect_much(self, index: int) -> None:
        for _ in range(MANY):
            self.collect(index)
            self.insert(index)
            self.confirm(index)

    def report(self, index: int) -> None:
        if self.ledger is not None:
            self.ledger.count(self.process(index), self.counts[index])

    def learn(self, index: int) -> None:
        """A server gives an item, which the learner learns from."""
        if self.ledger is not None:
            self.servers[index].sampled += 1
            self.ledger.counters.learned += PER_ITEM

    @property
    def tally(self) -> Tally:
        present = sum(len(server.items) for server in self.servers)
        return Tally(present, sum(server.sampled for server in self.servers), present)

    def answer(self, _: int) -> None:
        if self.ledger is not None:
            self.ledger.see_servers([server.seen for server in self.servers])

    def save_server(self, index: int) -> None:
        self.servers[index].saved = dict(self.servers[index].items)
        self.servers[index].saved_sampled = self.servers[index].sampled

    def kill_server(self, index: int) -> None:
        """It comes back, and its collector sends again what has not been confirmed."""
        self.servers[index].restart()

    def kill_collector(self, index: int) -> None:
        self.dead[self.process(index)] = self.counts[index]
        if self.ledger is not None:
            self.ledger.accept_ended(self.process(index), self.counts[index], -9)
        self.starts[index] += 1
        self.sent[index], self.counts[index] = [], Counts()

    def save_learner(self, _: int) -> None:
        if self.ledger is not None:
            self.saved = msgspec.json.encode(self.ledger.counters)

    def kill_learner(self, _: int) -> None:
        self.ledger = None

    def start_learner(self, _: int) -> None:
        """It has its checkpoint, and the records of collectors on this machine, which are of now."""
        if self.ledger is None:
            self.ledger = Ledger(EXPERIMENT, msgspec.json.decode(self.saved, type=Counters))
            for process, counts in self.dead.items():
                self.ledger.accept_ended(process, counts, -9)
            for index in range(SHARDS):
                self.report(index)
            self.rejoin()

    def rejoin(self) -> None:
        assert self.ledger is not None
        new_items = self.ledger.see_servers([server.seen for server in self.servers])
        self.ledger.accept_learner_restart(self.tally, new_items)

    def end(self, is_clean: bool) -> None:
        """The collectors leave: with all that they have confirmed, or without."""
        self.start_learner(0)
        self.answer(0)
        for index in range(SHARDS):
            while is_clean and self.sent[index]:
                self.insert(index)
                self.confirm(index)
            assert self.ledger is not None
            self.ledger.accept_ended(self.process(index), self.counts[index], 0)
        self.ledger.see_servers([msgspec.structs.replace(server.seen, at=1.0) for server in self.servers], asked=1.0)


EVENTS = {
    "collect": 4, "collect_much": 1, "learn": 2, "insert": 3, "confirm": 2, "report": 2, "answer": 2, "save_server": 2,
    "kill_server": 2, "kill_collector": 1, "save_learner": 1, "kill_learner": 1, "start_learner": 1,
}  # fmt: skip
HISTORIES = st.lists(
    st.tuples(st.sampled_from([name for name, weight in EVENTS.items() for _ in range(weight)]), st.integers(0, 1)),
    max_size=60,
)


def play(events: Any, is_clean: bool = True) -> Run:
    run = Run()
    for name, index in events:
        getattr(run, name)(index)
    run.end(is_clean)
    return run


WHILE_NOBODY_LOOKED = [
    ("collect", 0), ("insert", 0), ("confirm", 0), ("answer", 0), ("save_learner", 0), ("kill_learner", 0),
    ("collect_much", 0), ("save_server", 0), ("collect_much", 0), ("kill_server", 0), ("start_learner", 0),
]  # fmt: skip
"""A replay dies while there is no learner: what the learner's checkpoint knows of it is old."""
AGAIN_AND_AGAIN = [
    ("collect", 0), ("insert", 0), ("answer", 0), ("kill_server", 0), ("answer", 0), ("insert", 0), ("answer", 0),
    ("kill_server", 0), ("answer", 0),
]  # fmt: skip
"""Items that a server had and never confirmed are sent to the next, and to the one after that."""


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.booleans())
@example(WHILE_NOBODY_LOOKED, True)
@example(AGAIN_AND_AGAIN, True)
def test_every_window_is_stored_or_lost_to_something_with_a_name(events: Any, is_clean: bool) -> None:
    run = play(events, is_clean)
    assert run.ledger is not None
    counters = run.ledger.counters
    tally = run.tally
    assert losses.correct(EXPERIMENT, counters, account(EXPERIMENT, counters, tally).unaccounted) == 0
    found = account(EXPERIMENT, counters, tally)
    gone = set(run.begun).difference(*(server.items for server in run.servers))
    assert found.begun == len(run.begun) * PER_ITEM
    assert sum(found.lost.values()) == len(gone) * PER_ITEM
    assert all(count >= 0 for count in found.lost.values())
    assert (found.in_flight, found.unaccounted) == (0, 0)
    assert found.drawn == found.learned + found.prefetched + found.discarded
    assert found.prefetched >= 0, "no more was learned from than was drawn"
    assert found.discarded >= 0


@pytest.mark.parametrize("is_server_killed", [False, True])
@pytest.mark.parametrize(
    "known",
    [
        ("collect", "insert", "confirm", "report", "answer"),
        (),
        ("collect_much", "report", "answer", "kill_server", "answer"),  # a loss with a name, which it keeps
    ],
)
def test_what_a_killed_learner_alone_heard_of_a_far_collector_was_begun(
    known: tuple[str, ...], is_server_killed: bool
) -> None:
    """Also of one that no checkpoint knows, as the learner was killed before its first one."""
    run = play_first((*known, "save_learner", "collect_much", "report"))
    if is_server_killed:
        run.save_server(0)
        run.kill_server(0)
    run.ledger = Ledger(EXPERIMENT, msgspec.json.decode(run.saved, type=Counters))  # and the collector is gone, too
    run.rejoin()
    run.ledger.close_silent_collectors()
    counters = run.ledger.counters
    assert losses.correct(EXPERIMENT, counters, account(EXPERIMENT, counters, run.tally).unaccounted) == 0
    found = account(EXPERIMENT, counters, run.tally)
    gone = set(run.begun).difference(*(server.items for server in run.servers))
    assert len(gone) == MANY * ("kill_server" in known)
    assert (found.begun, found.unaccounted) == (len(run.begun) * PER_ITEM, 0)
    assert found.lost.get(RESTARTED, 0) == sum(found.lost.values()) == len(gone) * PER_ITEM


def play_first(names: Sequence[str]) -> Run:
    """Events of the first collector, its server and the learner."""
    run = Run()
    for name in names:
        getattr(run, name)(0)
    return run
