"""A replay of which a share of each batch is of a dataset, and the rest of what collectors store.

DQfD (Hester et al. 2018) has demonstrations in the agent's own replay and never removes them; Ape-X DQfD (Pohlen et al.
2018), R2D3 (Paine et al. 2019) and RLPD (Ball et al. 2023) draw a fixed share of each batch from a second one. This is
the second form: the share is the config's, whatever the sizes of the two. The dataset's frames are copied into the run
directory once, as arrays that are mapped into memory; with `replay.prioritized` its rows have priorities of their own.
"""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs
from agents.priorities import bounded
from pipeline.acting.frame_stacks import unpacked
from pipeline.datasets import datasets
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory, write_atomically
from pipeline.experiment.sections import Experiment
from pipeline.experiment.validation_without_table import windows_of
from pipeline.learner.feeder import Feeder
from pipeline.learner.learner import Learner
from pipeline.records.counters import Counters
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.sampling import Sample, decode, is_packed

FOLDER = "dataset"
"""Of a run's directory: the copy of what it learns from."""
_FRAMES, _ROWS = "frames.npy", "rows.npy"
_PRIORITIES = "dataset_priorities.npy"
"""In the replay's part of a checkpoint, or beside the copy where the replay writes its own."""
_DRAWS = 6
"""The stream of `Experiment.seed_of` that the dataset's rows are drawn by."""
_OF_DATASET = -1
"""In `SharedSample.shards`."""


class SharedSample(NamedTuple):
    """A `Sample` whose last windows of each batch are of the dataset."""

    trajectory: Any
    gradient_steps: tf.Tensor
    """int32 [K, B], of the collected windows; those of the dataset have the numbers of some of these."""
    relative_probability: tf.Tensor
    """float32 [K, B], each of its own source: importance weights undo the priorities within a source, and not the
    share, which is wanted."""
    keys: tf.Tensor
    """uint64: of the items drawn, and by priority of each window of the call, in order; a row is a key."""
    shards: Any = ()
    """By priority int32 [K * B]: -1 of the dataset, else the shard that owns the item, 0 where there is one."""
    rows: Any = ()
    """int64 [K, R]: of the dataset, the last R windows of each batch."""
    left_out: int = 0
    """Windows of the call that were drawn of what collectors store, and that the share had no room for."""


def windows_of_dataset(experiment: Experiment, gradient_steps: int) -> int:
    """Windows of a batch that are of the dataset after so many gradient steps: the share, in whole windows."""
    offline = experiment.offline
    share = offline.share
    if offline.share_decay_steps:
        passed = min(1.0, gradient_steps / offline.share_decay_steps)
        share += passed * (offline.share_final - share)
    return windows_of(share, experiment.learner.batch_size)


class Rows:
    """The windows of a dataset, drawn with equal chances or by priority.

    Args:
      frames: structured [frames], episodes one after the other, with padding around.
      starts: int64 [N], the first frame of each window.
      window: frames of a window.
      exponent: alpha of P(i) = p_i^alpha / sum p^alpha (Schaul et al. 2016, equation 1); None draws uniformly.
      seed: of the draws; None takes another one each time.
    """

    def __init__(
        self, frames: NDArray[np.void], starts: NDArray[np.int64], window: int, exponent: float | None, seed: int | None
    ) -> None:
        self._frames, self._starts, self._exponent = frames, starts, exponent
        self._offsets = np.arange(window)
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self.priorities = np.ones(len(starts), np.float32)
        """float32 [N], of the rows that have one; the others have the largest that any row had until then."""
        self._judged, self._largest = np.zeros(len(starts), np.bool_), 0.0

    def __len__(self) -> int:
        return len(self._starts)

    def draw(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows int64 [count], and N P(i) of each, float32: how many times as likely as by uniform drawing."""
        if self._exponent is None:
            return self._random.integers(len(self), size=count), np.ones(count, np.float32)
        with self._lock:
            mass = self.priorities.astype(np.float64) ** self._exponent
        sums = np.cumsum(mass)
        rows = np.searchsorted(sums, self._random.random(count) * sums[-1], side="right")
        rows = np.minimum(rows, len(self) - 1)
        return rows, (len(self) * mass[rows] / sums[-1]).astype(np.float32)

    def windows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames of rows [...], uint8 [..., window, bytes]."""
        found = np.ascontiguousarray(self._frames[self._starts[rows][..., np.newaxis] + self._offsets])
        return found.view(np.uint8).reshape(*found.shape, found.dtype.itemsize)

    def judge(self, rows: NDArray[np.int64], priorities: NDArray[np.float32]) -> None:
        """Gives rows their priorities; of one that is there twice, the last counts."""
        with self._lock:
            self.priorities[rows], self._judged[rows] = priorities, True
            self._largest = max(float(priorities.max()), self._largest)
            self.priorities[~self._judged] = self._largest

    def state(self) -> NDArray[np.float32]:
        """A copy of the priorities, NaN of rows that were never judged."""
        with self._lock:
            return np.where(self._judged, self.priorities, np.float32(np.nan))

    def restore(self, state: NDArray[np.float32]) -> None:
        """Goes on from what `state` gave; what so many other rows gave says nothing of these."""
        judged = np.flatnonzero(~np.isnan(state))
        if len(judged) and len(state) == len(self):
            self.judge(judged, state[judged])


class Share:
    """A learner's share of each batch that is of the dataset: draws rows, joins them to what a replay gives.

    Args:
      experiment: the run as this learner draws for it: of several learners, its part.
      layout: of the frames.
      folder: that holds the dataset, or is to hold a copy of it.
      is_kept: whether the run has learned from the copy before.
      gradient_steps: that the share goes on from.
      seed: of the draws; None takes another one each time.
      learner: which of several this is. With priorities each has every n-th row for its own.
      learners: n.

    Raises:
      UsageError: the dataset cannot be learned from.
    """

    def __init__(
        self,
        experiment: Experiment,
        layout: FrameLayout,
        folder: Path,
        is_kept: bool,
        gradient_steps: int,
        seed: int | None,
        learner: int = 0,
        learners: int = 1,
    ) -> None:
        self._part, self._layout, self._folder = experiment, layout, folder
        if not is_kept or not (folder / _ROWS).is_file():
            _keep(experiment, layout, folder)
        by_priority = experiment.replay.prioritized
        starts = np.load(folder / _ROWS)[learner::learners] if by_priority else np.load(folder / _ROWS)
        if not len(starts):
            raise UsageError(
                f"offline.dataset={experiment.offline.dataset!r} holds fewer steps than there are learners"
            )
        frames = np.load(folder / _FRAMES, mmap_mode="r").view(layout.dtype)[:, 0]
        exponent = experiment.replay.priority_exponent if by_priority else None
        self.rows = Rows(frames, starts, experiment.window, exponent, seed)
        self.gradient_steps = gradient_steps
        """Before the call that is drawn next: what the share goes by."""

    def mixed(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """`SharedSample`s of what a replay gives, call by call."""
        for drawn in samples:
            share = windows_of_dataset(self._part, self.gradient_steps)
            self.gradient_steps += self._part.learner.steps_per_call
            with tf.device("CPU:0"):  # as the replay's own samples
                mixed = self._with_rows(drawn, share)
            yield mixed  # type: ignore[misc]  # it has all that a `Sample` has

    def judge(
        self, sample: Sample, priorities: NDArray[np.float32], give: Callable[[Sample, NDArray[np.float32]], None]
    ) -> None:
        """Gives the dataset's rows their priorities, and has `give` give the replay's items theirs."""
        keys, shards = sample.keys.numpy(), sample.shards.numpy()
        is_row, of_items = shards == _OF_DATASET, bounded(priorities.reshape(-1))
        if is_row.any():
            self.rows.judge(keys[is_row].astype(np.int64), of_items[is_row])
        if not is_row.all():
            items = sample._replace(keys=tf.constant(keys[~is_row]), shards=tf.constant(shards[~is_row]))
            give(items, of_items[~is_row].reshape(1, -1))

    def save(self, folder: Path | None = None) -> None:
        """Writes the rows' priorities, if they have any; into the dataset's folder where no other is given."""
        if self._part.replay.prioritized:
            packed = io.BytesIO()
            np.save(packed, self.rows.state())
            write_atomically((folder or self._folder) / _PRIORITIES, packed.getvalue())

    def restore(self, folder: Path | None = None) -> None:
        """Goes on from what `save` wrote, if it has."""
        if (path := (folder or self._folder) / _PRIORITIES).is_file():
            self.rows.restore(np.load(path))

    def _with_rows(self, drawn: Sample, share: int) -> SharedSample:
        """A call's sample, of which `share` windows of each batch are of the dataset."""
        calls, most = drawn.gradient_steps.shape
        whole = self._part.learner.batch_size
        collected = whole - share
        rows, relative = self.rows.draw(calls * share)
        rows, relative = rows.reshape(calls, share), relative.reshape(calls, share)

        def decoded(windows: tf.Tensor) -> Any:
            return decode(windows, self._layout)[0]

        trajectory, ours = decoded(tf.constant(self.rows.windows(rows))), drawn.trajectory
        if is_packed(self._part):
            ours = unpacked(decoded, self._part.window, most, ours)

        def joined(ours: tf.Tensor, theirs: tf.Tensor) -> tf.Tensor:
            return tf.concat([ours[:, :collected], theirs], axis=1)

        mixed = tf.nest.map_structure(joined, ours, trajectory)
        if getattr(self._part.agent, "demonstrates", False):
            marks = np.zeros((calls, whole), np.float32)
            marks[:, collected:] = 1.0
            mixed = mixed._replace(policy_info=tf.constant(marks))
        keys, shards = drawn.keys, ()
        if self._part.replay.prioritized:
            of_items = drawn.keys.numpy().reshape(calls, most)[:, :collected]
            keys = tf.constant(np.concatenate([of_items, rows.astype(np.uint64)], axis=1).ravel())
            owners = np.zeros((calls, most), np.int32)
            if len(drawn.shards):
                owners = drawn.shards.numpy().reshape(calls, most)
            of_rows = np.full((calls, share), _OF_DATASET, np.int32)
            shards = tf.constant(np.concatenate([owners[:, :collected], of_rows], axis=1).ravel())
        return SharedSample(
            mixed,
            joined(drawn.gradient_steps, tf.gather(drawn.gradient_steps, np.arange(share) % most, axis=1)),
            joined(drawn.relative_probability, tf.constant(relative)),
            keys,
            shards,
            tf.constant(rows),
            calls * (most - collected),
        )


class BesideDataset:
    """What a replay does that gives a share of each batch from a dataset; comes before the replay's class."""

    share: Share

    def samples(self) -> Iterator[Sample]:
        """See `Replay.samples`: `SharedSample`s."""
        return self.share.mixed(super().samples())  # type: ignore[misc]

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """See `Replay.give_priorities`: the dataset's rows keep theirs here."""
        self.share.judge(sample, priorities, super().give_priorities)  # type: ignore[misc]


class SharedReplay(BesideDataset, EmbeddedReplay):
    """An `EmbeddedReplay` of what collectors store, with a share of each batch from a dataset.

    Args:
      experiment: the run.
      specs: of its environment.
      port: to listen on.
      folder: for Reverb's own checkpoints, in the run's folder of checkpoints.
      restore_from: a Reverb checkpoint of this run to go on from, or None.
      blocking: see `ReplayServer`.
      counters: of the run, whose gradient steps the share goes by.

    Raises:
      UsageError: the dataset cannot be learned from; and as `EmbeddedReplay`.
      BadCheckpoint: as `EmbeddedReplay`.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        port: int,
        folder: Path,
        restore_from: Path | None,
        blocking: bool,
        counters: Counters,
    ) -> None:
        layout, seed = FrameLayout.of(experiment, specs), experiment.seed_of(_DRAWS, counters.gradient_steps)
        kept, is_kept = folder.parents[1] / FOLDER, restore_from is not None
        self.share = Share(experiment, layout, kept, is_kept, counters.gradient_steps, seed)
        if restore_from is not None:
            self.share.restore(restore_from)
        super().__init__(experiment.collected, specs, port, folder, restore_from, blocking)

    def save(self) -> Path:
        """See `Replay.save`; with the priorities of the dataset's rows."""
        path = super().save()
        self.share.save(path)
        return path


class MarkedLearner(Learner):
    """A `Learner` of a kind that tells demonstrations from other windows, by the policy's info of a sample."""

    def _zeros(self) -> Any:
        trajectory, relative = super()._zeros()
        return trajectory._replace(policy_info=tf.zeros(relative.shape)), relative


class CountingFeeder(Feeder):
    """A `Feeder` that counts what it hands out, see `count`.

    Args:
      samples: of a `SharedReplay`.
      early: see `Feeder`.
      counters: of the run.
    """

    def __init__(self, samples: Callable[[], Iterator[Sample]], early: bool, counters: Counters) -> None:
        super().__init__(samples, early)
        self._counters = counters

    def draw(self, timeout: float) -> Sample | None:
        """See `Feeder.draw`."""
        return count(super().draw(timeout), self._counters)


def count(sample: Sample | None, counters: Counters, learners: int = 1) -> Sample | None:
    """Counts a `SharedSample` for so many learners: windows of the dataset, and those that the share had no room for.

    Returns:
      The sample.
    """
    if sample is not None:
        of_dataset: Any = sample
        counters.dataset_windows += learners * int(np.prod(of_dataset.rows.shape))
        counters.discarded += learners * of_dataset.left_out
    return sample


def _keep(experiment: Experiment, layout: FrameLayout, folder: Path) -> None:
    """Copies a dataset into the run directory: frames of all episodes, and where windows begin.

    One begins at each step; sequences begin every `stride` steps of an episode. Behind an episode's last frame, whose
    windows end there, lies the next one; before the first and behind the last one there is padding.
    """
    agent, lead = experiment.agent, experiment.lead
    pieces, rows, at = [layout.padding(lead)] if lead else [], list[NDArray[np.int64]](), lead
    for episode in _episodes(experiment, layout):
        steps = np.arange(at, at + len(episode) - 1, agent.stride)
        rows.append(steps - lead)
        pieces.append(episode)
        at += len(episode)
    if not rows:
        raise UsageError(f"offline.dataset={experiment.offline.dataset!r} holds no step of an episode")
    pieces.append(layout.padding(experiment.window))
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.concatenate(pieces)
    np.save(folder / _FRAMES, layout.as_bytes(frames))
    np.save(folder / _ROWS, np.concatenate(rows))


def _episodes(experiment: Experiment, layout: FrameLayout) -> Iterator[NDArray[np.void]]:
    """Frames [T + 1] of each episode of the dataset, or of what there is of it."""
    folder = Path(experiment.offline.dataset)
    if not RunDirectory(folder).config.is_file():
        files = datasets.find(folder)
        if files is None:
            raise UsageError(f"offline.dataset={experiment.offline.dataset!r} holds no whole dataset any more")
        yield from files.read(layout)
        return
    from pipeline.datasets import stored_replay

    for part in datasets.select(stored_replay.read(folder).lanes, whole_episodes=False).taken:
        found = layout.empty(len(part.frames))
        names: Any = found.dtype.names
        stored: Any = part.frames.dtype.names
        for name in names:
            if name in stored and name not in ("state", "step_type", "next_step_type"):
                found[name] = part.frames[name]
        for name in ("action", "reward", "terminated"):
            found[name][-1] = 0  # of the step behind, which is no part of the episode
        found["step_type"] = MID
        found["step_type"][0], found["step_type"][-1] = FIRST, LAST
        found["next_step_type"] = np.roll(found["step_type"], -1)
        yield found
