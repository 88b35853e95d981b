"""Permits: who waits for whom where several servers hold one ratio of samples to inserts."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reverb
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from replay_hosting import Hosted, hosted
from waiting import SECONDS

from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.sections import Experiment
from pipeline.messages.ports import HOST, free_port
from pipeline.replay.shards import permits as permits_module
from pipeline.replay.shards.learner_permits import Allowance
from pipeline.replay.shards.permits import PERMITS_TABLE, Permits, Sizes, sizes

BY_PRIORITY = ("replay.prioritized=true", "learner.steps_per_call=100")


# Sizes


def test_the_default_permits_of_cartpole() -> None:
    experiment = parse("", ("collect.lanes=16", "replay.samples_per_insert=32.0", "replay.min_size=1000"))
    # Items of 16 lanes and 4 steps, of which a call draws 100; 128 transitions are two of them.
    assert (experiment.windows_per_item, experiment.items_per_call) == (64, 100)
    assert sizes(experiment) == Sizes(
        inserted_items=2,
        sampled_items=50,
        samples_per_insert=32 * 2 / 50,
        min_size=8,  # 1,024 transitions
        error_buffer=2 * (4 + 3 * 2),
        max_size=72,
    )


@pytest.mark.parametrize(
    ("overrides", "inserted", "sampled"),
    [
        # 100,000 steps a second are 780 permits.
        (("collect.lanes=64", *BY_PRIORITY, "replay.samples_per_insert=1.0"), 128, 3200),
        # The inserts of one call are 100 items: no permit is for more.
        (("collect.lanes=1", *BY_PRIORITY, "replay.samples_per_insert=64.0"), 100, 3200),
        # No permit is for less than a step of a collector ...
        (("collect.lanes=256", *BY_PRIORITY, "replay.samples_per_insert=64.0"), 256, 3200),
        # ... or than an item, here of 4 lanes and 32 steps.
        (("collect.lanes=4", "replay.steps_per_item=64", "learner.batch_size=256"), 1, 50),
        (("collect.lanes=4", "replay.steps_per_item=1", "learner.batch_size=4", "learner.steps_per_call=1"), 1, 1),
    ],
)
def test_permits_stand_for_whole_items(overrides: tuple[str, ...], inserted: int, sampled: int) -> None:
    of = sizes(parse("", overrides))
    assert (of.inserted_items, of.sampled_items) == (inserted, sampled)


@st.composite
def experiments(draw: Any) -> Experiment:
    lanes, min_size = draw(st.integers(1, 64)), draw(st.integers(1, 2000))
    overrides = (
        f"collect.lanes={lanes}",
        f"learner.batch_size={draw(st.integers(1, 64))}",
        f"learner.steps_per_call={draw(st.integers(1, 16))}",
        f"replay.samples_per_insert={draw(st.floats(0.05, 64.0))}",
        f"replay.min_size={min_size}",
        f"replay.lanes_per_item={draw(st.sampled_from([0, 1, lanes]))}",
        f"replay.prioritized={str(draw(st.booleans())).lower()}",
    )
    try:
        return parse("", overrides)
    except UsageError:  # batches that are not whole items
        reject()


@given(experiments())
def test_sizes_keep_the_ratio_the_minimum_and_room(experiment: Experiment) -> None:
    of, per_item = sizes(experiment), experiment.windows_per_item
    ratio = experiment.replay.samples_per_insert
    assert of.samples_per_insert * of.sampled_items / of.inserted_items == pytest.approx(ratio, rel=1e-12)
    assert (of.min_size - 1) * of.inserted_items * per_item < experiment.replay.min_size
    assert of.min_size * of.inserted_items * per_item >= experiment.replay.min_size
    assert of.error_buffer >= max(1.0, of.samples_per_insert), "Reverb refuses less, and one side might wait for ever"
    assert of.max_size > of.min_size
    assert -(-experiment.items_per_call // of.sampled_items) <= 3


class Limiter:
    """What Reverb's limiter lets through, as its source has it."""

    def __init__(self, of: Sizes) -> None:
        self._of, self.inserts, self.samples = of, 0, 0

    @property
    def _middle(self) -> float:
        return self._of.min_size * self._of.samples_per_insert

    def may_insert(self) -> bool:
        after = (self.inserts + 1) * self._of.samples_per_insert - self.samples
        return self.inserts + 1 <= self._of.min_size or after <= self._middle + self._of.error_buffer

    def may_sample(self) -> bool:
        after = self.inserts * self._of.samples_per_insert - self.samples - 1
        return self.inserts >= self._of.min_size and after >= self._middle - self._of.error_buffer


class Collecting:
    """A collector as `Permits` makes it wait, in items."""

    def __init__(self, of: Sizes, burst: int, limiter: Limiter) -> None:
        self._of, self._burst, self._limiter = of, burst, limiter
        self.stored = self._owed = self._pending = 0

    def steps(self) -> Iterator[Callable[[], None]]:
        if self._owed >= self._of.inserted_items and self._pending < permits_module._MOST_PENDING:
            yield self._insert
        elif self._pending <= permits_module._PENDING_LEFT:
            yield self._store
        if self._pending and self._limiter.may_insert():
            yield self._be_confirmed

    def _store(self) -> None:
        self.stored += self._burst
        self._owed += self._burst

    def _insert(self) -> None:
        self._owed -= self._of.inserted_items
        self._pending += 1

    def _be_confirmed(self) -> None:
        self._pending -= 1
        self._limiter.inserts += 1


class Learning:
    """One learner of several, which take their gradient steps together and draw some calls ahead."""

    def __init__(self, of: Sizes, share: int, limiter: Limiter, learners: list["Learning"]) -> None:
        self._of, self._share, self._limiter, self._learners = of, share, limiter, learners
        self._taken = self._allowed = self.calls = 0

    def steps(self) -> Iterator[Callable[[], None]]:
        is_ahead = self.calls >= min(learner.calls for learner in self._learners) + permits_module._CALLS_AHEAD
        if self._taken < permits_module._STREAM_PERMITS and self._limiter.may_sample():
            yield self._take
        if not is_ahead and self._allowed >= self._share:
            yield self._draw
        elif not is_ahead and self._taken:
            yield self._ask

    def _take(self) -> None:
        self._limiter.samples += 1
        self._taken += 1

    def _ask(self) -> None:
        self._taken -= 1
        self._allowed += self._of.sampled_items

    def _draw(self) -> None:
        self._allowed -= self._share
        self.calls += 1


@settings(max_examples=60)
@given(experiments(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 64), st.integers(0, 2**32))
def test_neither_side_ever_waits_for_good(
    experiment: Experiment, collectors: int, workers: int, burst: int, seed: int
) -> None:
    of, per_call, chance = sizes(experiment), experiment.items_per_call, random.Random(seed)
    assume(per_call % workers == 0)
    limiter = Limiter(of)
    collecting = [Collecting(of, burst, limiter) for _ in range(collectors)]
    learning: list[Learning] = []
    learning += [Learning(of, per_call // workers, limiter, learning) for _ in range(workers)]
    stored_first = None
    for _ in range(200_000):
        if min(learner.calls for learner in learning) >= 4:
            break
        able = [step for role in (*collecting, *learning) for step in role.steps()]
        assert able, f"all wait: {limiter.inserts} permits inserted, {limiter.samples} sampled of {of}"
        chance.choice(able)()
        if limiter.samples and stored_first is None:
            stored_first = sum(collector.stored for collector in collecting)
        drawn = sum(learner.calls for learner in learning) * per_call // workers
        ratio, after_minimum = experiment.replay.samples_per_insert, limiter.inserts - of.min_size
        assert drawn <= ratio * after_minimum * of.inserted_items + of.error_buffer * of.sampled_items or not drawn
    else:
        pytest.fail("some learner has not had four calls")
    assert (stored_first or 0) * experiment.windows_per_item >= experiment.replay.min_size


# With real servers


SMALL = ("collect.lanes=4", "replay.steps_per_item=1", "learner.batch_size=8", "learner.steps_per_call=4")
LIMITED = (*SMALL, "replay.shards=2", "replay.min_size=40", "replay.samples_per_insert=2.0")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """Shard 0 of three runs, and shard 1 of a fourth: each for one test."""
    folder = tmp_path_factory.mktemp("permits")
    shards = ({"overrides": LIMITED, "folder": str(folder / str(i)), "shard": i // 3} for i in range(4))
    with hosted(*shards) as host:
        yield host


class Taking:
    """A learner's permits, taken in a thread as long as there are any."""

    def __init__(self, experiment: Experiment, address: str, items: int) -> None:
        self._allowance, self._items = Allowance(experiment, address, lambda: ""), items
        self.calls, self._ending = 0, False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while not self._ending:
            self._allowance.take(self._items)
            self.calls += 1

    def settled(self, least: float) -> int:
        """Calls, once there are so many and no more come for a while."""
        deadline, seen = time.monotonic() + SECONDS, -1
        while self.calls < least:
            assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s for {least} calls: there were {self.calls}"
            time.sleep(0.01)
        while seen != self.calls:
            seen = self.calls
            time.sleep(0.5)
        return self.calls

    def end(self, experiment: Experiment, address: str) -> None:
        """Ends the thread, by permits for what it waits for."""
        self._ending = True
        permits = Permits(experiment, address)
        while self._thread.is_alive():
            permits.spend(sizes(experiment).inserted_items * experiment.windows_per_item)
            assert permits.confirm(self._thread.is_alive) or not self._thread.is_alive()
            time.sleep(0.01)
        permits.close()


def within(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline


def spent(permits: Permits, experiment: Experiment, most: int, go_on: Callable[[], bool]) -> int:
    """Spends items one by one; how many until the collector was held back and did not go on."""
    for item in range(most):
        permits.spend(experiment.windows_per_item)
        if not permits.confirm(go_on):
            return item + 1
    return most


def holds_inserts(address: str) -> bool:
    """Whether Reverb lets no further permit in as long as nobody samples one."""
    of = reverb.Client(address).server_info(30)[PERMITS_TABLE].rate_limiter_info
    would_be = (of.insert_stats.completed + 1) * of.samples_per_insert - of.sample_stats.completed
    return bool(of.insert_stats.completed >= of.min_size_to_sample and would_be > of.max_diff)


def test_collectors_wait_for_the_learner_and_go_on(hosts: Hosted) -> None:
    experiment, address = parse("", LIMITED), hosts.addresses[0]
    of, per_call = sizes(experiment), experiment.items_per_call
    permits = Permits(experiment, address)
    stored = spent(permits, experiment, 10_000, lambda: not holds_inserts(address))
    allowed = of.min_size + of.error_buffer / of.samples_per_insert
    most = (allowed + permits_module._MOST_PENDING + 1) * of.inserted_items
    assert allowed * of.inserted_items - 1 <= stored <= most
    assert not permits.confirm(lambda: False)
    learner = Taking(experiment, address, per_call)
    assert permits.confirm(within(SECONDS)), "the learner went on"
    assert learner.settled(1) >= 1
    learner.end(experiment, address)
    permits.close()


def test_the_learner_waits_for_the_minimum_and_then_for_collectors(hosts: Hosted) -> None:
    experiment, address = parse("", LIMITED), hosts.addresses[1]
    of, per_call = sizes(experiment), experiment.items_per_call
    permits, learner = Permits(experiment, address), Taking(experiment, address, per_call)
    minimum = of.min_size * of.inserted_items * experiment.windows_per_item
    assert minimum == 48, "the first whole permits that hold replay.min_size"
    permits.spend(minimum - 1)
    assert permits.confirm(within(SECONDS))
    assert learner.settled(0) == 0
    permits.spend(1)
    assert permits.confirm(within(SECONDS))
    most = of.error_buffer * of.sampled_items / per_call
    assert 1 <= learner.settled(1) <= most
    learner.end(experiment, address)
    permits.close()


def test_the_ratio_is_kept_whatever_shares_learners_draw(hosts: Hosted) -> None:
    experiment, address = parse("", LIMITED), hosts.addresses[2]
    of, items = sizes(experiment), 2000
    learners = [Taking(experiment, address, share) for share in (3, 5)]  # of the 8 items of a call
    permits = Permits(experiment, address)
    assert spent(permits, experiment, items, within(SECONDS)) == items
    permits_left = permits_module._PENDING_LEFT
    wanted = 2.0 * (items - of.min_size * of.inserted_items)
    held = len(learners) * (permits_module._STREAM_PERMITS + 1) * of.sampled_items
    slack = of.error_buffer * of.sampled_items + held + 2.0 * permits_left * of.inserted_items
    assert slack < 0.1 * wanted

    def drawn() -> int:
        return learners[0].calls * 3 + learners[1].calls * 5

    deadline = time.monotonic() + SECONDS
    while drawn() < wanted - slack:
        assert time.monotonic() < deadline, f"{drawn()} of {wanted:.0f} items were drawn in {SECONDS:.0f} s"
        time.sleep(0.01)
    for learner in learners:
        learner.settled(1)
    assert drawn() <= wanted + slack
    for learner in learners:
        learner.end(experiment, address)
    permits.close()


def test_an_absent_shard_is_waited_for_as_long_as_one_likes() -> None:
    experiment = parse("", LIMITED)
    permits = Permits(experiment, f"{HOST}:{free_port()}")
    permits.spend(1000)
    assert not permits.confirm(within(0.5))
    permits.close()


def test_a_server_without_permits_is_no_shard_0(hosts: Hosted) -> None:
    with pytest.raises(Exception, match=PERMITS_TABLE):
        Allowance(parse("", LIMITED), hosts.addresses[3], lambda: "").take(1)
