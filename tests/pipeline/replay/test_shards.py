"""One draw over several real servers: every transition has its chance, and no server is needed for the others' sake."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reverb
from replay_hosting import hosted
from replay_writing import STRANGE, write_as_stranger, write_frames
from waiting import SECONDS

from agents import Specs
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.sections import Experiment
from pipeline.replay.client import TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.shards import remote_replay
from pipeline.replay.shards.permits import Permits, sizes
from pipeline.replay.shards.sharded_replay import ShardedReplay
from pipeline.replay.writer import FrameWriter

CALL = ("learner.batch_size=64", "learner.steps_per_call=25", "replay.min_size=16", "replay.steps_per_item=1")
UNIFORM = (*CALL, "collect.lanes=4", "replay.shards=3", "replay.capacity=30000")
PRIORITIZED = (*CALL, "collect.lanes=1", "replay.shards=2", "replay.prioritized=true")
GROWING = (*CALL, "collect.lanes=4", "replay.shards=2")
VISITED = (*GROWING, "learner.steps_per_call=2")
LIMITED = (*CALL, "collect.lanes=4", "replay.shards=2", "replay.samples_per_insert=4.0")
GROUPS = {
    "uniform": UNIFORM,
    "prioritized": PRIORITIZED,
    "growing": GROWING,
    "visited": VISITED,
    "empty": LIMITED,
    "one-sided": LIMITED,
}
BLOCKING = ("empty", "one-sided")


def start(group: str, folder: Path) -> list[dict[str, Any]]:
    """What to serve, for each shard of a group."""
    overrides, blocking = GROUPS[group], group in BLOCKING
    shards = parse("", overrides).replay.shards
    shared = {"overrides": overrides, "blocking": blocking}
    return [{**shared, "folder": str(folder / f"{group}-{shard}"), "shard": shard} for shard in range(shards)]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """Of the shards of each group."""
    folder = tmp_path_factory.mktemp("shards")
    servers = {group: start(group, folder) for group in GROUPS}
    with hosted(*(server for group in servers.values() for server in group)) as host:
        left = iter(host.addresses)
        yield {group: [next(left) for _ in group_servers] for group, group_servers in servers.items()}


@pytest.fixture
def connect(counting_specs: Specs) -> Iterator[Callable[..., ShardedReplay]]:
    """Shards that are left in the end."""
    connected: list[ShardedReplay] = []

    def make(experiment: Experiment, addresses: list[str]) -> ShardedReplay:
        connected.append(ShardedReplay(experiment, counting_specs, addresses))
        return connected[-1]

    yield make
    for shards in connected:
        shards.stop()


def numbered(layout: FrameLayout, lanes: int, steps: int, shard: int) -> Any:
    """Frames [steps, lanes] whose action is the lane, `gradient_steps` the step and reward the shard."""
    frames = np.stack([layout.empty(lanes) for _ in range(steps)])
    frames["action"] = np.arange(lanes)
    frames["gradient_steps"] = np.arange(steps)[:, None]
    frames["reward"] = shard
    return frames


def fill(experiment: Experiment, specs: Specs, address: str, shard: int, items: int, priorities: Any = None) -> int:
    """Writes so many items; returns the transitions stored."""
    layout, lanes = FrameLayout(specs), experiment.collect.lanes
    steps = items * experiment.windows_per_item // lanes + 1
    frames = numbered(layout, lanes, steps, shard)
    writer = write_frames(TableClient(experiment, specs, address), experiment, layout, frames, priorities)
    writer.close()
    return writer.book.confirmed_windows


def permit(experiment: Experiment, address: str, transitions: int) -> None:
    """Inserts the permits of so many transitions, of a replay that holds no ratio."""
    permits = Permits(experiment, address)
    permits.spend(transitions)
    assert permits.confirm(until(SECONDS))
    permits.close()


def until(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline


def wait_for(condition: Callable[[], Any], what: str) -> None:
    go_on = until(SECONDS)
    while not condition():
        assert go_on(), what
        time.sleep(0.02)


@pytest.mark.slow
def test_a_server_that_is_too_busy_to_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_replay, "_ANSWER_SECONDS", 1)
    (server,) = start("uniform", tmp_path)[:1]
    with hosted(server) as host, ThreadPoolExecutor(1) as asking:
        assert "variables" in remote_replay.tables_of(host.addresses[0])
        with host.held():
            asked = asking.submit(remote_replay.tables_of, host.addresses[0])
            time.sleep(1.5)  # beyond the time that one question has
            assert not asked.done()
        assert "variables" in asked.result(SECONDS)


def calls(samples: Iterator[Any], count: int) -> dict[str, Any]:
    """Of so many calls, by item: shard and key [items]; by transition: shard, step, lane, relative probability."""
    found: dict[str, list[Any]] = {name: [] for name in ("shards", "keys", "shard", "step", "lane", "relative")}
    for _, sample in zip(range(count), samples, strict=False):
        items, transitions = len(sample.keys), sample.gradient_steps.shape.num_elements()
        assert sample.shards.dtype == "int32"
        found["shards"].append(sample.shards.numpy())
        found["keys"].append(sample.keys.numpy())
        found["shard"].append(sample.shards.numpy()[np.arange(transitions) % items])
        found["step"].append(sample.gradient_steps.numpy().ravel())
        found["lane"].append(sample.trajectory.action.numpy()[:, :, 0].ravel())
        found["relative"].append(sample.relative_probability.numpy().ravel())
        assert (sample.trajectory.reward.numpy()[:, :, 0].ravel() == found["shard"][-1]).all(), "the owner is wrong"
    return {name: np.concatenate(values) for name, values in found.items()}


def fits(counts: Any, expected: Any, drawn_together: int = 1) -> bool:
    """Whether counts are what chance gives; transitions of one item multiply the statistic by their number."""
    statistic = ((counts - expected) ** 2 / expected).sum() / drawn_together
    freedom = max(1, counts.size / drawn_together - 1)
    return bool(statistic < freedom + 6 * np.sqrt(2 * freedom))


def test_every_transition_has_the_same_chance_however_unevenly_shards_fill(
    addresses: dict[str, list[str]], counting_specs: Specs, connect: Callable[..., ShardedReplay]
) -> None:
    experiment, items = parse("", UNIFORM), (50, 500, 2000)
    for shard, (address, count) in enumerate(zip(addresses["uniform"], items, strict=True)):
        permit(experiment, addresses["uniform"][0], fill(experiment, counting_specs, address, shard, count))
    shards = connect(experiment, addresses["uniform"])
    wait_for(lambda: shards.size() == sum(items), "all shards answer")
    share, samples = np.array(items) / sum(items), shards.samples()
    for _ in range(3):  # a shard that lags for a second, as on a busy machine, is left out until it gives again
        drawn = calls(samples, 20)
        of_shards = np.bincount(drawn["shards"], minlength=3)
        if fits(of_shards, share * of_shards.sum()):
            break

    assert fits(of_shards, share * of_shards.sum())
    assert not fits(of_shards, np.full(3, of_shards.sum() / 3)), "equal chances of shards would pass, too"
    single = np.concatenate(
        [
            np.bincount(
                drawn["step"][drawn["shard"] == shard] * 4 + drawn["lane"][drawn["shard"] == shard], minlength=4 * count
            )
            for shard, count in enumerate(items)
        ]
    )
    assert fits(single, np.full(single.size, single.mean()), drawn_together=4)
    assert (drawn["relative"] == 1.0).all()
    batches = (drawn["shard"].reshape(-1, 64) == 2).sum(axis=1)
    assert 30 < batches.min() < batches.max() < 64, "a batch is of all shards"
    assert shards.tally().inserted == shards.tally().present == sum(items)
    info = reverb.Client(addresses["uniform"][1]).server_info()[FrameLayout(counting_specs).table]
    assert info.max_size == 30_000 // 3 // 4


def priorities_in(address: str, table: str) -> dict[int, float]:
    """Of the items that many draws give, by key."""
    drawn = reverb.Client(address).sample(table, 400, emit_timesteps=False)
    return {item.info.key: item.info.priority for item in drawn}


def test_items_are_drawn_by_their_priorities_over_all_shards_and_owners_take_new_ones(
    addresses: dict[str, list[str]], counting_specs: Specs, connect: Callable[..., ShardedReplay]
) -> None:
    experiment, items, random = parse("", PRIORITIZED), (20, 60), np.random.default_rng(0)
    group, table, alpha = addresses["prioritized"], FrameLayout(counting_specs).table, 0.6
    given = [random.uniform(0.1, 5.0, count).astype(np.float32) / (1 + 4 * shard) for shard, count in enumerate(items)]
    for shard, (address, count) in enumerate(zip(group, items, strict=True)):
        permit(experiment, group[0], fill(experiment, counting_specs, address, shard, count, given[shard][:, None]))
    shards = connect(experiment, group)
    samples = shards.samples()

    def expected_of(priorities: list[Any], drawn: dict[str, Any]) -> tuple[Any, Any]:
        """The chance of every item, and which of them were drawn."""
        weights = np.concatenate(priorities).astype(float) ** alpha
        return weights / weights.sum(), drawn["step"] + np.array([0, items[0]])[drawn["shard"]]

    def is_told(priorities: list[Any], drawn: dict[str, Any]) -> bool:
        chance, index = expected_of(priorities, drawn)
        return np.allclose(drawn["relative"], sum(items) * chance[index], rtol=1e-3)

    def check(priorities: list[Any], drawn: dict[str, Any]) -> None:
        chance, index = expected_of(priorities, drawn)
        np.testing.assert_allclose(drawn["relative"], sum(items) * chance[index], rtol=1e-3)
        assert fits(np.bincount(index, minlength=sum(items)), len(index) * chance)

    wait_for(lambda: shards.size() == sum(items), "all shards answer")
    # Until a shard has told the sum of its priorities, the other gives all.
    wait_for(lambda: is_told(given, calls(samples, 2)), "both shards have told the sums of their priorities")
    drawn = calls(samples, 10)
    check(given, drawn)

    learned = [
        random.uniform(0.1, 5.0, count).astype(np.float32) * (1 + 4 * shard) for shard, count in enumerate(items)
    ]
    wanted = np.array([learned[shard][step] for shard, step in zip(drawn["shard"], drawn["step"], strict=True)])
    shards.update_priorities(drawn["keys"], wanted[None], drawn["shards"])
    assert shards.skipped_priorities == 0
    of_keys = [
        dict(zip(drawn["keys"][mine], wanted[mine], strict=True)) for mine in (drawn["shard"] == 0, drawn["shard"] == 1)
    ]
    for address, expected in zip(group, of_keys, strict=True):
        stored = priorities_in(address, table)
        assert len(expected) >= 20
        assert {key: stored[key] for key in stored.keys() & expected} == {
            key: pytest.approx(expected[key]) for key in stored.keys() & expected
        }
    # What was drawn before comes first: of the shard of little weight there are seldom any.
    wait_for(lambda: is_told(learned, calls(samples, 20)), "both shards have told their new sums")
    check(learned, calls(samples, 10))


def test_what_was_drawn_when_a_shard_had_one_item_is_not_drawn_again_and_again(
    addresses: dict[str, list[str]], counting_specs: Specs, connect: Callable[..., ShardedReplay]
) -> None:
    experiment, group = parse("", GROWING), addresses["growing"]
    fill(experiment, counting_specs, group[0], 0, 1)
    permit(experiment, group[0], 4000)
    shards = connect(experiment, group)
    samples = shards.samples()
    assert set(calls(samples, 1)["step"]) == {0}
    fill(experiment, counting_specs, group[0], 0, 500)
    wait_for(lambda: shards.size() == 501, "shard 0 has told of its items")
    drawn = calls(samples, 4)  # of 400 items each
    first = drawn["keys"] == drawn["keys"][drawn["shards"] == 0][0]
    assert len(set(drawn["keys"])) > 400
    assert max(np.unique(drawn["keys"], return_counts=True)[1]) < 40
    assert first.any()


class Learning:
    """Draws calls in a thread, until it is ended."""

    def __init__(self, shards: ShardedReplay, experiment: Experiment) -> None:
        self._shards, self._experiment, self.drawn = shards, experiment, 0
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def _draw(self) -> None:
        for sample in self._shards.samples():
            self.drawn += len(sample.keys)

    def settled(self, least: float) -> int:
        """Items drawn, once there are so many and no more come for a while."""
        wait_for(lambda: self.drawn >= least, f"{least} items are drawn")
        seen = -1
        while seen != self.drawn:
            seen = self.drawn
            time.sleep(0.5)
        return self.drawn

    def end(self) -> None:
        """Leaves the shards, with permits for what the thread waits for."""
        self._shards.stop()
        permits = Permits(self._experiment, self._shards.addresses[0])
        while self._thread.is_alive():
            permits.spend(sizes(self._experiment).inserted_items * self._experiment.windows_per_item)
            permits.confirm(self._thread.is_alive)
            time.sleep(0.01)
        permits.close()


def test_what_a_stranger_inserts_into_one_shard_is_passed_over_and_counted(
    addresses: dict[str, list[str]], connect: Callable[..., ShardedReplay], counting_specs: Specs
) -> None:
    experiment, table = parse("", VISITED), FrameLayout(counting_specs).table
    for shard, address in enumerate(addresses["visited"]):
        permit(experiment, addresses["visited"][0], fill(experiment, counting_specs, address, shard, items=50))
    write_as_stranger(addresses["visited"][1], table, STRANGE[0])
    shards = connect(experiment, addresses["visited"])
    samples, go_on = shards.samples(), until(SECONDS)
    while not shards.refused.count:
        next(samples)
        assert go_on()
    found = calls(samples, 5)
    assert set(found["shard"]) == {0, 1}
    assert "none of the run's roles" in shards.refused.warning


def test_the_ratio_is_kept_though_one_shard_gets_nothing(
    addresses: dict[str, list[str]], counting_specs: Specs, connect: Callable[..., ShardedReplay]
) -> None:
    experiment, group, steps = parse("", LIMITED), addresses["one-sided"], 6000
    layout, of = FrameLayout(counting_specs), sizes(experiment)
    shards = connect(experiment, group)
    learning, permits = Learning(shards, experiment), Permits(experiment, group[0])
    writer, confirmed = FrameWriter.of(experiment, layout, group[1]), 0
    frames = numbered(layout, 4, 1, 1)[0]
    for _ in range(steps):
        writer.append(frames)
        assert writer.confirm(until(SECONDS))
        permits.spend(writer.book.confirmed_windows - confirmed)
        confirmed = writer.book.confirmed_windows
        assert permits.confirm(until(SECONDS)), shards.explain_stall()
    wanted = 4 * (confirmed // experiment.windows_per_item - of.min_size * of.inserted_items)
    slack = (of.error_buffer + 12) * of.sampled_items
    assert abs(learning.settled(wanted - slack) - wanted) <= slack < 0.4 * wanted
    drawn = learning.drawn
    assert shards.waits_for_collectors()
    words = shards.explain_stall()
    assert "the learner waits for collectors, which do not insert" in words
    assert f"shard 0 at {group[0]} has nothing" in words
    tally = shards.tally()
    assert tally.inserted == tally.present >= confirmed // 4
    assert 0 <= tally.sampled - drawn <= 4 * of.sampled_items, "what is permitted and not drawn yet"
    permits.close()
    writer.close()
    learning.end()


def test_collectors_go_on_though_all_that_they_have_permits_for_is_lost(
    addresses: dict[str, list[str]], counting_specs: Specs, connect: Callable[..., ShardedReplay]
) -> None:
    experiment, group = parse("", LIMITED), addresses["empty"]
    permits = Permits(experiment, group[0])
    permits.spend(1_000_000)  # of transitions that no shard has any more
    assert not permits.confirm(until(1.0))
    shards = connect(experiment, group)
    learning = Learning(shards, experiment)
    writer = FrameWriter.of(experiment, FrameLayout(counting_specs), group[1])
    frames, go_on = numbered(FrameLayout(counting_specs), 4, 1, 1)[0], until(SECONDS)
    permits.close()
    permits = Permits(experiment, group[0])
    permits.spend(20 * sizes(experiment).inserted_items * experiment.windows_per_item)
    while not permits.confirm(until(0.5)):
        assert go_on(), shards.explain_stall()
    for _ in range(40):  # the collector may go on, and does
        writer.append(frames)
        assert writer.confirm(go_on)
    assert writer.confirm(go_on, everything=True)
    wait_for(lambda: learning.drawn, "the learner goes on, too")
    permits.close()
    writer.close()
    learning.end()


def test_a_learners_share_is_whole_items(counting_specs: Specs) -> None:
    with pytest.raises(UsageError, match=r"for each of 3 learners: change learner\.batch_size"):
        ShardedReplay(parse("", UNIFORM), counting_specs, [], workers=3)


@pytest.fixture
def run_file() -> Callable[..., Any]:
    """Runs a program of the tests' folder, which has to end by itself, and returns what it printed as JSON."""

    def run(name: str, *arguments: str) -> Any:
        program = Path(__file__).resolve().parents[2] / "support" / name
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (program.parents[2], program.parent)))}
        command = [sys.executable, str(program), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return json.loads(result.stdout)

    return run


DYING = {
    "first skipped": 0,
    "without shard 1": [0],
    "skipped without shard 1": True,
    "last known": [600, 600, 600],
    "named without shard 1": True,
    "waits without shard 1": False,
    "named without shard 0": True,
    "waits without shard 0": True,
}


def test_a_shard_that_dies_is_missed_by_nobody(run_file: Callable[..., Any], tmp_path: Path) -> None:
    assert run_file("dying_shards.py", str(tmp_path), "for good") == DYING


@pytest.mark.slow
def test_a_shard_that_comes_back_takes_part_again(run_file: Callable[..., Any], tmp_path: Path) -> None:
    assert run_file("dying_shards.py", str(tmp_path)) == {**DYING, "permits again": True}
