"""The ledger against a slow one that follows every single transition, through kills of collectors and replay."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Counts, Served
from pipeline.records.counters import (
    KILLED,
    RESTARTED,
    SILENT,
    UNCONFIRMED,
    Counters,
    Seen,
    Tally,
    account,
    in_flight_bound,
    reconcile,
)
from pipeline.records.ledger import Ledger

EXPERIMENT = parse(
    "", ("collect.lanes=2", "collect.collectors=2", "replay.lanes_per_item=2", "learner.batch_size=8", "seed=1")
)
PER_ITEM = EXPERIMENT.windows_per_item
CAPACITY = 5


class Replay:
    """Items by name, the oldest leaving first; restored as it was saved."""

    def __init__(self) -> None:
        self.inserted: list[str] = []
        self.saved: list[str] = []

    def insert(self, item: str) -> None:
        if item not in self.inserted:  # one that is sent again is no new one
            self.inserted.append(item)

    @property
    def tally(self) -> Tally:
        return Tally(len(self.inserted), 0, min(CAPACITY, len(self.inserted)))


class Run:
    """Collectors, replay and ledger, one event at a time."""

    def __init__(self, experiment: Experiment) -> None:
        self.replay, self.experiment = Replay(), experiment
        self.ledger = Ledger(experiment, Counters())
        self.saved = msgspec.json.encode(self.ledger.counters)
        self.begun: list[str] = []
        self.sent: dict[str, list[str]] = {"c0.0": [], "c1.0": []}  # not confirmed, by process
        self.counts = dict.fromkeys(self.sent, Counts())
        self.incarnations = [0, 0]
        self.dead: dict[str, Counts] = {}

    def add(self, process: str, **more: int) -> None:
        self.counts[process] = self.counts[process] + Counts(**more)

    def collect(self, process: str) -> None:
        item = f"{process}/{self.counts[process].begun}"
        self.begun.append(item)
        self.sent[process].append(item)
        self.add(process, environment_steps=PER_ITEM, begun=PER_ITEM)

    def insert(self, process: str, confirm: bool) -> None:
        """The replay takes the oldest item on its way; the confirmation may be on its way still."""
        for item in self.sent[process]:
            if item not in self.replay.inserted:
                self.replay.insert(item)
                break
        if confirm:
            self.confirm(process)

    def confirm(self, process: str) -> None:
        while self.sent[process] and self.sent[process][0] in self.replay.inserted:
            self.sent[process].pop(0)
            self.add(process, windows=PER_ITEM, items=1)

    def report(self, process: str) -> None:
        self.ledger.count(process, self.counts[process])

    def kill_collector(self, index: int) -> None:
        old = f"c{index}.{self.incarnations[index]}"
        self.dead[old] = self.counts.pop(old)
        self.ledger.accept_ended(old, self.dead[old], -9)
        del self.sent[old]
        self.incarnations[index] += 1
        new = f"c{index}.{self.incarnations[index]}"
        self.sent[new], self.counts[new] = [], Counts()

    def checkpoint(self) -> None:
        self.replay.saved = list(self.replay.inserted)
        self.saved = msgspec.json.encode(self.ledger.counters)

    def kill_replay(self) -> None:
        self.replay.inserted = list(self.replay.saved)
        self.ledger = Ledger(self.experiment, msgspec.json.decode(self.saved, type=Counters))
        for process, counts in self.dead.items():  # their records are still there
            self.ledger.accept_ended(process, counts, -9)
        for process, counts in self.counts.items():
            self.ledger.count(process, counts)
        self.ledger.accept_restart(len(self.replay.inserted), 0)


NAMES = ("collect", "insert", "insert", "confirm", "report", "kill", "checkpoint", "restart")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["collect", "collect", "insert", "insert", "confirm", "report", "kill", "checkpoint", "restart"]
        ),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=60,
)


def play(events: Any) -> Run:
    run = Run(EXPERIMENT)
    for event, index, flag in events:
        process = f"c{index}.{run.incarnations[index]}"
        if event == "collect":
            run.collect(process)
        elif event == "insert":
            run.insert(process, confirm=flag)
        elif event == "confirm":
            run.confirm(process)
        elif event == "report":
            run.report(process)
        elif event == "kill":
            run.kill_collector(index)
        elif event == "checkpoint":
            run.checkpoint()
        else:
            run.kill_replay()
    return run


def end(run: Run) -> None:
    """Both collectors leave in good order."""
    for process in list(run.sent):
        while run.sent[process]:
            run.insert(process, confirm=True)
        run.report(process)
        counts = run.counts[process]
        assert counts.begun == counts.windows
        run.ledger.counters.processes.pop(process)
        run.ledger.counters.left.append(process)


@settings(max_examples=300)
@given(EVENTS)
def test_every_window_is_stored_or_lost_to_something_with_a_name(events: Any) -> None:
    run = play(events)
    end(run)
    counters = run.ledger.counters
    assert reconcile(EXPERIMENT, counters, run.replay.tally) == 0
    found = account(EXPERIMENT, counters, run.replay.tally)
    gone = len(set(run.begun) - set(run.replay.inserted))
    assert found.begun == len(run.begun) * PER_ITEM
    assert found.stored == len(run.replay.inserted) * PER_ITEM
    assert sum(found.lost.values()) == gone * PER_ITEM
    assert all(count >= 0 for count in found.lost.values())
    assert (found.in_flight, found.unaccounted) == (0, 0)
    assert found.stored == found.present + found.evicted


@given(EVENTS)
def test_while_a_run_goes_on_nothing_is_unaccounted_whatever_collectors_have_not_said_yet(events: Any) -> None:
    run = play([event for event in events if event[0] not in ("kill", "restart")])
    run.ledger.count("c0.0", run.counts["c0.0"])  # the other one's report is late
    found = account(EXPERIMENT, run.ledger.counters, run.replay.tally)
    assert found.unaccounted == 0
    assert found.begun == found.stored + found.in_flight
    run.report("c1.0")
    found = account(EXPERIMENT, run.ledger.counters, run.replay.tally)
    assert found.begun == len(run.begun) * PER_ITEM
    on_their_way = set(run.begun) - set(run.replay.inserted)
    assert (found.unaccounted, found.in_flight) == (0, len(on_their_way) * PER_ITEM)


def test_a_clean_run_has_lost_nothing_and_cannot_hide_a_loss() -> None:
    run = play([("collect", 0, False), ("insert", 0, True), ("collect", 1, False), ("insert", 1, True)])
    end(run)
    run.replay.inserted.pop()  # as no fault could
    assert reconcile(EXPERIMENT, run.ledger.counters, run.replay.tally) == PER_ITEM
    assert account(EXPERIMENT, run.ledger.counters, run.replay.tally).unaccounted == PER_ITEM


def test_what_fills_up_a_collectors_last_item_is_no_transition() -> None:
    ledger = Ledger(EXPERIMENT, Counters())
    ledger.count("c0.0", Counts(begun=PER_ITEM + 1, windows=PER_ITEM + 1, items=2))
    found = account(EXPERIMENT, ledger.counters, Tally(2, 0, 2))
    assert (found.begun, found.stored, found.unaccounted) == (PER_ITEM + 1, PER_ITEM + 1, 0)


def test_a_loss_beyond_what_faults_explain_stays_unaccounted() -> None:
    counters = Counters(begun=10 * in_flight_bound(EXPERIMENT), interruptions=1)
    assert reconcile(EXPERIMENT, counters, Tally(0, 0, 0)) == 10 * in_flight_bound(EXPERIMENT)


def test_what_a_killed_collector_had_stored_without_knowing_is_not_lost() -> None:
    run = play([("collect", 0, False), ("collect", 0, False), ("insert", 0, False), ("kill", 0, False)])
    assert run.ledger.counters.lost == {KILLED: 2 * PER_ITEM}
    end(run)
    assert reconcile(EXPERIMENT, run.ledger.counters, run.replay.tally) == 0
    assert run.ledger.counters.lost == {KILLED: PER_ITEM}


def test_what_came_after_the_last_checkpoint_went_with_the_replay() -> None:
    events = [("collect", 0, False), ("insert", 0, True)]
    run = play([*events, ("checkpoint", 0, False), *events, *events, ("restart", 0, False)])
    assert run.ledger.counters.lost == {RESTARTED: 2 * PER_ITEM}
    assert run.ledger.counters.environment_steps == 3 * PER_ITEM


# Servers of the replay in processes of their own, and collectors of other hosts.


def served(identity: str, restored: int, inserted: int, sampled: int = 0) -> list[Seen]:
    return [Seen(Served(identity, restored, sampled), Tally(inserted, sampled, inserted), {}, 0.0)]


def reported(ledger: Ledger, process: str, items: int, unconfirmed: int = 0) -> None:
    transitions = items * PER_ITEM
    counts = Counts(begun=transitions + unconfirmed * PER_ITEM, windows=transitions, items=items)
    ledger.count(process, counts)


def test_a_server_that_is_restarted_has_lost_what_its_checkpoint_did_not_hold() -> None:
    ledger = Ledger(EXPERIMENT, Counters())
    for inserted in (0, 40, 100):
        ledger.see_servers(served("first", 0, inserted, 7))
    reported(ledger, "collector-0.0", 120)  # 20 of them after the server last answered
    ledger.see_servers(served("second", 60, 65, 3))
    assert ledger.counters.lost == {RESTARTED: 40 * PER_ITEM}
    assert ledger.counters.drawn_before == 4
    ledger.accept_ended("collector-0.0", Counts(begun=125 * PER_ITEM, windows=125 * PER_ITEM, items=125), 0)
    tally = Tally(65, 3, 65)
    assert account(EXPERIMENT, ledger.counters, tally).unaccounted == 20 * PER_ITEM
    assert reconcile(EXPERIMENT, ledger.counters, tally) == 0
    assert ledger.counters.lost == {RESTARTED: 60 * PER_ITEM}


def test_a_restart_does_not_explain_more_than_a_server_takes_between_two_answers() -> None:
    ledger = Ledger(EXPERIMENT, Counters())
    for inserted in (0, 10, 20):
        ledger.see_servers(served("first", 0, inserted))
    ledger.see_servers(served("second", 20, 20))
    counters, most = ledger.counters, 20 + 2 * in_flight_bound(EXPERIMENT) // PER_ITEM
    counters.begun = (20 + most + 1) * PER_ITEM
    assert reconcile(EXPERIMENT, counters, Tally(20, 0, 20)) == (most + 1) * PER_ITEM


def test_a_collector_of_another_host_that_falls_silent_has_lost_what_it_had_not_stored() -> None:
    ledger = Ledger(EXPERIMENT, Counters())
    reported(ledger, "collector-0.5", 10, unconfirmed=3)
    ledger.close_silent_collectors()
    assert ledger.counters.lost == {SILENT: 3 * PER_ITEM}
    # Two of the three had been stored, and five more that it began after its last report.
    assert reconcile(EXPERIMENT, ledger.counters, Tally(17, 0, 17)) == 0
    found = account(EXPERIMENT, ledger.counters, Tally(17, 0, 17))
    assert (found.begun, found.stored, found.lost) == (17 * PER_ITEM, 17 * PER_ITEM, {SILENT: 0})


def test_what_is_stored_after_a_collector_gave_up_is_not_lost() -> None:
    ledger = Ledger(EXPERIMENT, Counters())
    ledger.accept_ended("collector-0.0", Counts(begun=9 * PER_ITEM, windows=5 * PER_ITEM, items=5), 0)
    assert reconcile(EXPERIMENT, ledger.counters, Tally(8, 0, 8)) == 0
    assert ledger.counters.lost == {UNCONFIRMED: PER_ITEM}
