"""A share of each batch from a dataset: which windows, how often, with which weights, and what a run counts of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import small_runs
import tensorflow as tf
from small_runs import TINY

import pipeline
from pipeline import environments
from pipeline.datasets import dataset_export, offline
from pipeline.datasets.dataset_share import Rows, Share, SharedReplay, windows_of_dataset
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.sections import Experiment
from pipeline.learner.workers import team
from pipeline.messages.ports import free_port
from pipeline.records import checkpoint
from pipeline.records.counters import Counters
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import LAST, FrameLayout
from pipeline.replay.sampling import Sample, decode

pytestmark = pytest.mark.xdist_group("dataset share")  # one dataset for all
COMMON = (
    'environment.id="FrozenLake-v1"',
    *TINY,
    "evaluation.images=false",
    "evaluation.every_steps=400",
    "replay.min_size=64",
    "replay.samples_per_insert=4",
    "stop.environment_steps=600",
)
SMALL = (*COMMON, "agent.hidden_units=[8]")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "run"
    pipeline.train(parse("", SMALL), folder, launcher="inline")
    return folder


def of(dataset: Path, *lines: str, common: tuple[str, ...] = SMALL) -> Experiment:
    return parse("", (*common, f"offline.dataset={json.dumps(str(dataset))}", *lines))


def test_the_share_goes_from_one_to_the_other_in_whole_windows() -> None:
    decaying = of(Path("/x"), "offline.share=0.75", "offline.share_final=0.25", "offline.share_decay_steps=100")
    # 16 windows: 12 at first, 8 half way, 4 from step 100 on; at step 30, 0.6 of 16 is 9.6.
    assert [windows_of_dataset(decaying, at) for at in (0, 30, 50, 100, 1_000)] == [12, 10, 8, 4, 4]
    fixed = of(Path("/x"), "offline.share=0.3")
    assert [windows_of_dataset(fixed, at) for at in (0, 10_000)] == [5, 5]
    # What is drawn of the collectors' windows is most at the smallest share; gradient steps a step stay as they were.
    assert (decaying.collected.learner.batch_size, decaying.collected.replay.samples_per_insert) == (12, 3.0)


def rows(priorities: list[float], exponent: float | None, seed: int = 0) -> Rows:
    layout = FrameLayout.of(parse("", SMALL), environments.describe(parse("", SMALL).environment))
    found = Rows(layout.empty(len(priorities) + 1), np.arange(len(priorities)), 2, exponent, seed)
    found.judge(np.arange(len(priorities)), np.array(priorities, np.float32))
    return found


def test_rows_are_drawn_by_priority_and_say_by_how_much() -> None:
    # p^0.5 of 1, 4, 16 is 1, 2, 4: P = 1/7, 2/7, 4/7, and N P(i) three times as much.
    drawn, relative = rows([1.0, 4.0, 16.0], 0.5).draw(20_000)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [1 / 7, 2 / 7, 4 / 7], atol=0.015)
    np.testing.assert_allclose(relative, np.array([3 / 7, 6 / 7, 12 / 7])[drawn], rtol=1e-5)
    uniform, ones = rows([1.0, 4.0, 16.0], None).draw(20_000)
    np.testing.assert_allclose(np.bincount(uniform) / 20_000, [1 / 3] * 3, atol=0.015)
    assert (ones == 1.0).all()


def test_rows_that_nobody_has_judged_have_the_largest_priority() -> None:
    found = rows([1.0, 1.0, 1.0], 1.0)
    fresh = Rows(found._frames, found._starts, 2, 1.0, 0)
    np.testing.assert_array_equal(fresh.priorities, [1, 1, 1])
    fresh.judge(np.array([1]), np.array([0.25], np.float32))
    np.testing.assert_array_equal(fresh.priorities, [0.25, 0.25, 0.25])
    fresh.judge(np.array([0]), np.array([8.0], np.float32))
    np.testing.assert_array_equal(fresh.priorities, [8, 0.25, 8])
    again = Rows(found._frames, found._starts, 2, 1.0, 0)
    again.restore(fresh.state())
    np.testing.assert_array_equal(again.priorities, fresh.priorities)
    again.judge(np.array([2]), np.array([0.5], np.float32))
    np.testing.assert_array_equal(again.priorities, [8, 0.25, 0.5])
    fewer = Rows(found._frames, found._starts[:2], 2, 1.0, 0)
    fewer.restore(fresh.state())
    np.testing.assert_array_equal(fewer.priorities, [1, 1])


def test_several_learners_divide_the_rows_that_have_priorities(dataset: Path, tmp_path: Path) -> None:
    def shares(count: int, *lines: str) -> list[Share]:
        part = team.share(of(dataset, "offline.share=0.5", *lines), count)
        layout = FrameLayout.of(part, environments.describe(part.environment))
        at = [tmp_path / str(index) for index in range(count)]
        return [Share(part, layout, folder, False, 0, None, index, count) for index, folder in enumerate(at)]

    (alone,) = shares(1, "replay.prioritized=true")
    starts = [share.rows._starts.tolist() for share in shares(2, "replay.prioritized=true")]
    assert sorted(starts[0] + starts[1]) == alone.rows._starts.tolist()
    assert abs(len(starts[0]) - len(starts[1])) <= 1
    # By equal chances a row needs no owner.
    assert [len(share.rows) for share in shares(2, "replay.lanes_per_item=1")] == [len(alone.rows)] * 2


def test_priorities_reach_rows_and_the_items_of_each_shard(dataset: Path, tmp_path: Path) -> None:
    experiment = of(dataset, "offline.share=0.5", "replay.prioritized=true", "learner.batch_size=4")
    layout = FrameLayout.of(experiment, environments.describe(experiment.environment))
    share = Share(experiment, layout, tmp_path / "kept", False, 0, None)
    windows = decode(tf.constant(share.rows.windows(np.zeros((8, 2), np.int64))), layout)
    keys, shards = np.arange(100, 116, dtype=np.uint64), np.tile(np.array([0, 2], np.int32), 8)
    drawn = Sample(*windows, tf.ones((8, 2)), tf.constant(keys), tf.constant(shards))
    (mixed,) = share.mixed(iter([drawn]))
    np.testing.assert_array_equal(mixed.shards.numpy().reshape(8, 4), [[0, 2, -1, -1]] * 8)
    given: list[tuple[Sample, Any]] = []
    priorities = np.arange(1, 33, dtype=np.float32).reshape(8, 4)
    share.judge(mixed, priorities, lambda sample, of_items: given.append((sample, of_items)))
    ((sample, of_items),) = given
    np.testing.assert_array_equal(sample.keys.numpy(), keys)
    np.testing.assert_array_equal(sample.shards.numpy(), shards)
    np.testing.assert_array_equal(of_items.reshape(8, 2), priorities[:, :2])
    rows = mixed.keys.numpy().reshape(8, 4)[:, 2:].astype(np.int64)
    assert share.rows.priorities[rows[-1, -1]] == 32.0
    share.save()
    again = Share(experiment, layout, tmp_path / "kept", True, 0, None)
    again.restore()
    np.testing.assert_array_equal(again.rows.state(), share.rows.state())


def replay_of(experiment: Experiment, tmp_path: Path) -> SharedReplay:
    specs = environments.describe(experiment.environment)
    folder = tmp_path / "run" / "checkpoints" / "reverb"
    return SharedReplay(experiment, specs, free_port(), folder, None, False, Counters())


def transitions(trajectory: Any) -> set[tuple[int, ...]]:
    """State, action, next state of windows [K, B, 2] in which a step begins, and whether it ends there."""
    state, action, kind = (trajectory.observation.numpy(), trajectory.action.numpy(), trajectory.step_type.numpy())
    taken = kind[:, :, 0] != LAST
    columns = (state[..., 0], action[..., 0], state[..., 1], kind[..., 1] == LAST)
    return {tuple(map(int, row)) for row in zip(*(column[taken] for column in columns), strict=True)}


@pytest.mark.parametrize("form", ["run", pytest.param("files", marks=pytest.mark.slow)])
def test_the_rows_are_the_windows_of_an_offline_run(form: str, dataset: Path, tmp_path: Path) -> None:
    folder = dataset
    if form == "files":
        dataset_export.export(dataset, folder := tmp_path / "files", "tfrecord", whole_episodes=False)
    shared = replay_of(of(folder, "offline.share=0.5"), tmp_path)
    experiment = of(dataset, "stop.gradient_steps=1")
    specs = environments.describe(experiment.environment)
    experiment = offline.adopt(experiment, specs)
    stored = offline.dataset(experiment)
    server = EmbeddedReplay(experiment, specs, free_port(), tmp_path / "other", dataset=stored.replay)  # type: ignore[union-attr]
    expected: set[tuple[int, ...]] = set()
    for sample in server.dataset().take(80):
        expected |= transitions(sample.trajectory)
    frames = shared.share.rows.windows(np.arange(len(shared.share.rows)))
    trajectory, _ = decode(tf.constant(frames[np.newaxis]), shared._layout)
    found = transitions(trajectory)
    shared.stop()
    server.stop()
    assert len(found) > 20
    # What is stored of an episode ends at its last step here, and is followed by more there; rare ones may be undrawn.
    assert len({row[:3] for row in found} ^ {row[:3] for row in expected}) <= 0.1 * len(found)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((), id="uniform", marks=pytest.mark.slow),
        pytest.param(("replay.prioritized=true", "learner.steps_per_call=8"), id="by priority"),
    ],
)
def test_a_run_counts_what_it_drew_from_where(lines: tuple[str, ...], dataset: Path, tmp_path: Path) -> None:
    first, run = tmp_path / "first", tmp_path / "run"
    shutil.copytree(dataset, first, symlinks=True)
    experiment = of(
        first, "offline.share=0.25", 'learner.loop="compiled"', "agent.n_step=3", "agent.margin=0.8", *lines
    )
    summary = pipeline.train(experiment, run, launcher="inline")
    learned = summary.gradient_steps * 16
    assert (summary.account.learned, summary.dataset_windows) == (learned, learned // 4)  # type: ignore[union-attr]
    assert summary.account.unaccounted == 0  # type: ignore[union-attr]
    assert summary.samples_per_insert == pytest.approx(4.0, rel=0.1), "of both, so that the ratio stays what it was"
    shutil.rmtree(first)  # the run has kept what it learns from
    stop = msgspec.structs.replace(experiment.stop, environment_steps=900)
    again = pipeline.train(msgspec.structs.replace(experiment, stop=stop), run, launcher="inline", resume=True)
    account = again.account
    assert account is not None
    learned = again.gradient_steps * 16
    assert (account.learned, again.dataset_windows) == (learned, learned // 4)
    assert (account.unaccounted, account.drawn) == (
        0,
        learned + account.discarded + account.drained + account.prefetched,
    )
    if lines:
        stored = checkpoint.newest(run / "checkpoints")
        assert stored is not None
        kept = np.load(stored.replay / "dataset_priorities.npy")
        assert np.isfinite(kept).mean() > 0.5
        assert len(np.unique(kept[np.isfinite(kept)])) > 10


@pytest.mark.parametrize("lines", [("agent.margin=0.8",), ("replay.prioritized=true",)], ids=["margin", "by priority"])
def test_a_run_goes_on_when_its_share_has_come_to_nothing(
    lines: tuple[str, ...], dataset: Path, tmp_path: Path
) -> None:
    share = ("offline.share=0.5", "offline.share_final=0.0", "offline.share_decay_steps=16")
    summary = pipeline.train(of(dataset, *share, *lines), tmp_path / "run", launcher="inline")
    assert summary.stop_reason == "environment_steps"
    assert summary.gradient_steps > 40
    assert summary.dataset_windows == 8 * 8 + 8 * 4, "of the first two calls of eight gradient steps"
    account = summary.account
    assert account is not None
    assert (account.learned, account.unaccounted) == (16 * summary.gradient_steps, 0)


def test_each_batch_has_the_share_and_keys_of_the_rows(dataset: Path, tmp_path: Path) -> None:
    lines = ("offline.share=0.5", "offline.share_final=0.25", "offline.share_decay_steps=16", "replay.prioritized=true")
    experiment = of(dataset, *lines, "agent.margin=0.8")
    shared = replay_of(experiment, tmp_path)
    collected = parse("", (*SMALL, "learner.batch_size=12", "replay.prioritized=true"))
    specs = environments.describe(experiment.environment)
    other = tmp_path / "collected"
    pipeline.train(collected, other, launcher="inline")
    stored = checkpoint.newest(other / "checkpoints")
    assert stored is not None
    shared.stop()
    folder = tmp_path / "run" / "checkpoints" / "reverb"
    shared = SharedReplay(experiment, specs, free_port(), folder, stored.replay, False, Counters())
    samples: Any = shared.samples()
    first, _, third = (next(samples) for _ in range(3))
    assert (first.rows.shape, first.left_out) == ((8, 8), 8 * 4)
    assert (third.rows.shape, third.left_out) == ((8, 4), 0)
    np.testing.assert_array_equal(first.trajectory.policy_info.numpy(), [[0.0] * 8 + [1.0] * 8] * 8)
    keys, shards = first.keys.numpy().reshape(8, 16), first.shards.numpy().reshape(8, 16)
    np.testing.assert_array_equal(keys[:, 8:], first.rows.numpy())
    np.testing.assert_array_equal(shards, [[0] * 8 + [-1] * 8] * 8)
    shared.give_priorities(first, np.arange(128, dtype=np.float32).reshape(8, 16) + 1.0)
    judged = shared.share.rows.state()
    last = first.rows.numpy()[-1, -1]
    assert judged[last] == 128.0
    of_rows = first._replace(keys=first.keys[-1:], shards=first.shards[-1:])  # as where only rows have no priority yet
    shared.give_priorities(of_rows, np.full((1, 1), 7.0, np.float32))
    assert shared.share.rows.state()[last] == 7.0
    shared.stop()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (('agent.kind="ppo"', 'exploration.strategy="boltzmann"'), r"set\s+offline\.dataset=''"),
        (('agent.kind="iql"',), r"learns from a dataset alone: set offline\.share=1\.0"),
        (("offline.share=0.01",), r"offline\.share=0\.01 is no window of learner\.batch_size=16"),
        (("offline.share=0.99",), r"leaves no window of learner\.batch_size=16 to collectors"),
        (("offline.share_final=0.1",), r"set offline\.share_decay_steps, too"),
        (("offline.dataset=''",), r"offline\.share is the share of a dataset in each batch: set offline\.dataset"),
        (("offline.dataset=''", "offline.share=1.0", "agent.margin=0.8"), r"agent\.margin is of demonstrated actions"),
        (("replay.prioritized=true", "replay.lanes_per_item=4"), "draws single windows by priority"),
        (('environment.id="CartPole-v1"',), r"observations or actions are others .*'CartPole-v1'"),
        (("offline.dataset='/nowhere'",), "/nowhere' holds no run and no dataset"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    lines: tuple[str, ...], words: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        pipeline.train(of(dataset, "offline.share=0.5", *lines), tmp_path / "run", launcher="inline")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        ('agent.kind="r2d2"', "agent.lstm_units=4", "agent.burn_in=1", "agent.sequence=3", "agent.period=2"),
        ('agent.kind="boot_dqn"', "agent.heads=3"),
        ('agent.kind="c51"', "environment.frame_stack=3", "agent.margin=0.8"),
    ],
    ids=["r2d2", "boot_dqn", "c51 with stacks"],
)
def test_other_kinds_learn_beside_a_dataset(lines: tuple[str, ...], dataset: Path, tmp_path: Path) -> None:
    stored_state = ("agent.stored_state=false",) if "r2d2" in lines[0] else ()
    experiment = of(dataset, "offline.share=0.5", *lines, *stored_state)
    summary = pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert summary.dataset_windows == summary.gradient_steps * 8 > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "replay",
    [(), ("replay.shards=1",), ("replay.shards=2", "replay.prioritized=true", "agent.margin=0.8")],
    ids=["in the learner", "of its own", "two by priority"],
)
def test_roles_in_processes_hold_the_ratio_of_both(replay: tuple[str, ...], dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lines = (
        "offline.share=0.5",
        f"offline.dataset={json.dumps(str(dataset))}",
        "stop.environment_steps=4_000",
        *replay,
    )
    done = small_runs.train(run, *SMALL, *lines, "stop.target_return=1e9", "learner.steps_per_call=4")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "summary.json").read_text())
    ahead = summary["dataset_windows"] - summary["gradient_steps"] * 8  # of calls that the end let nobody learn from
    assert ahead % (4 * 8) == 0
    assert 2 * ahead == summary["account"]["drained"]
    assert summary["samples_per_insert"] == pytest.approx(4.0, rel=0.15)
    assert summary["account"]["unaccounted"] == 0


@pytest.mark.slow
def test_a_run_goes_on_offline_from_its_own_weights_and_experience(dataset: Path, tmp_path: Path) -> None:
    experiment = of(dataset, f'agent.initial_policy="{dataset}"', "stop.gradient_steps=40", "agent.cql_alpha=1.0")
    summary = pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert (summary.gradient_steps, summary.environment_steps, summary.started_anew) == (40, 0, [])
