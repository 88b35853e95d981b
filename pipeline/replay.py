"""The replay: Reverb's tables, the dataset that the learner draws from, and what the rate limiter says.

This is the TensorFlow side, in the process of the server. `pipeline.writer` is the collectors' side.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.trajectories import Trajectory

from agents import Specs
from agents.priorities import bounded
from pipeline import flow, reverb_checkpoint
from pipeline.account import Tally
from pipeline.frames import FIRST, FrameLayout
from pipeline.manifest import BadCheckpoint
from pipeline.ports import HOST, refuse_used_port
from pipeline.privacy import guarding
from pipeline.sections import Experiment
from pipeline.stacking import stack_windows
from pipeline.variables import REPORTS_TABLE, VARIABLES_TABLE

log = logging.getLogger(__name__)

_REFUSALS = (RuntimeError, ValueError, IndexError, PermissionError)
"""What Reverb raises, by the kind of what went wrong."""
_REPORTS_KEPT = 10_000
_COLUMN = "frames"


class Sample(NamedTuple):
    """The batches of one fused call."""

    trajectory: Any
    """`Trajectory` [K, B, T, ...]."""
    gradient_steps: tf.Tensor
    """int32 [K, B]: version of the weights that acted."""
    relative_probability: tf.Tensor
    """float32 [K, B]: how many times as likely as by uniform drawing each transition was."""
    keys: tf.Tensor
    """uint64 [items]: the items drawn; transition i of the call, in order, is of item i modulo their number."""


class ReplayServer:
    """A Reverb server in this process.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      restore_from: a Reverb checkpoint of this run to go on from, or None.
      blocking: hold collectors and learner to the ratio; the inline launcher steers it by itself, as a blocked call in
        its only thread would wait for ever.
      dataset: a Reverb checkpoint of another run to draw from; priorities start anew.
      before: items that the checkpoint's queue had taken and given before it was last emptied.

    Raises:
      UsageError: the port is in use, or is open though `replay.private` demands that it is not.
      BadCheckpoint: the checkpoint cannot be restored.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        port: int,
        folder: Path,
        restore_from: Path | None = None,
        blocking: bool = True,
        dataset: Path | None = None,
        before: tuple[int, int] = (0, 0),
    ) -> None:
        refuse_used_port(port)
        refuse_used_port(experiment.replay.weights_port)
        self._experiment = experiment
        self._layout = FrameLayout.of(experiment, specs)
        lanes, transitions = experiment.lanes_per_item, experiment.transitions_per_item
        self.items_per_call = experiment.learner.batch_size * experiment.learner.steps_per_call // transitions
        self._item_shape = (experiment.item_length, lanes, self._layout.num_bytes)
        item = {_COLUMN: tf.TensorSpec(self._item_shape, tf.uint8)}
        message = tf.TensorSpec((None,), tf.uint8)
        tables = [
            self._experience_table(item, blocking),
            _variables_table(message),
            reverb.Table.queue(REPORTS_TABLE, _REPORTS_KEPT, signature=message),
        ]
        try:
            name = self._layout.table
            stored = reverb_checkpoint.tally(restore_from, name) if restore_from else Tally(0, 0, 0)
            self.restored = Tally(stored.inserted + before[0], stored.sampled + before[1], stored.present)
            """What the restored checkpoint had counted."""
        except ValueError as error:
            reason = "its frames are of other observations or actions than the environment has now"
            raise BadCheckpoint(f"{reason}: {error}") from None
        except tf.errors.OpError as error:
            raise BadCheckpoint(f"its replay cannot be read: {error}") from None
        self._before = self.restored if experiment.agent.on_policy else Tally(0, 0, 0)  # its table is reset below
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(suffix=".part", dir=folder.parent) as copy:  # read when the server starts
            if source := dataset or restore_from:
                source = self._with_settings(source, tables[0].info, Path(copy), dataset is not None)
            fallback = str(source) if source else None
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder), fallback_checkpoint_path=fallback)
            try:
                with guarding(port, experiment.replay.private):
                    self._server = reverb.Server(tables, port, checkpointer)
            except _REFUSALS as error:
                if source is None:
                    raise
                raise BadCheckpoint(f"its replay cannot be restored: {error}") from None
        self.address = f"{HOST}:{port}"
        self.client = reverb.Client(self.address)
        self.weights_address = self.address
        """Of the server that has the weights."""
        self._servers = [self._server]
        if weights_port := experiment.replay.weights_port:
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder.with_name("weights")))  # never written
            with guarding(weights_port, experiment.replay.private):
                self._servers.append(reverb.Server([_variables_table(message)], weights_port, checkpointer))
            self.weights_address = f"{HOST}:{weights_port}"
        on_policy = experiment.agent.on_policy  # what waits in its queue was collected with weights that are gone
        for table in (VARIABLES_TABLE, REPORTS_TABLE, *([self._layout.table] if on_policy else [])):
            self.client.reset(table)  # messages of an earlier life

    def _with_settings(self, source: Path, settings: Any, copy: Path, equal_priorities: bool) -> Path:
        """A checkpoint whose experience table has these settings: Reverb restores them with the items."""
        try:
            if not (equal_priorities or reverb_checkpoint.differs(source, settings)):
                return source
            reverb_checkpoint.restate(source, settings, copy, equal_priorities)
        except tf.errors.OpError as error:
            raise BadCheckpoint(f"its replay cannot be read: {error}") from None
        log.info("the replay of %s goes on with other settings: its items stay", source)
        return copy

    def _experience_table(self, item: Any, blocking: bool) -> reverb.Table:
        experiment, name = self._experiment, self._layout.table
        if experiment.agent.on_policy:
            # Collectors wait for new weights once they have handed over a batch between them: no insert ever blocks.
            return reverb.Table.queue(name, 2 * self.items_per_call, signature=item)
        return reverb.Table(
            name,
            sampler=self._selector(),
            remover=reverb.selectors.Fifo(),
            max_size=max(1, experiment.replay.capacity // experiment.transitions_per_item),
            rate_limiter=self._rate_limiter(blocking),
            signature=item,
        )

    def _selector(self) -> Any:
        replay = self._experiment.replay
        return (
            reverb.selectors.Prioritized(replay.priority_exponent) if replay.prioritized else reverb.selectors.Uniform()
        )

    def _rate_limiter(self, blocking: bool) -> Any:
        experiment = self._experiment
        ratio = experiment.replay.samples_per_insert
        min_items = -(-experiment.replay.min_size // experiment.transitions_per_item)
        if not blocking or experiment.is_offline:  # a dataset has all its items from the start
            return reverb.rate_limiters.MinSize(min_items)
        # Samples that wait in the sampler and in tf.data count as taken: with less slack than those, learner and
        # collectors would run in lockstep; with less than a batch, no batch would ever be complete.
        ahead = self._iterators * self._in_flight + 2 * self.items_per_call
        return reverb.rate_limiters.SampleToInsertRatio(ratio, min_items, error_buffer=max(2.0 * ratio, 2.0 * ahead))

    @property
    def _iterators(self) -> int:
        # Two iterators fetch small items 1.7 times as fast as one; large ones come fast enough. Of a queue, which has
        # one batch at a time, each would wait for what the other has taken.
        return 2 if self._experiment.transitions_per_item < 8 and not self._experiment.agent.on_policy else 1

    @property
    def _in_flight(self) -> int:
        return min(512, max(8, self.items_per_call // self._iterators))

    def dataset(self) -> tf.data.Dataset:
        """An endless dataset of `Sample`s, drawn uniformly, by priority or, on-policy, each once in turn.

        The transitions of the items drawn for one call are spread so that a batch holds one of each of many items,
        rather than many of a few: lanes of an item were collected in the same vector steps, its steps in succession.
        """
        learner, steps = self._experiment.learner, self._experiment.steps_per_item
        transitions = self._experiment.transitions_per_item
        window, num_bytes = self._experiment.window, self._layout.num_bytes

        def draw(_: Any) -> tf.data.Dataset:
            items = reverb.TrajectoryDataset.from_table_signature(
                self.address, self._layout.table, max_in_flight_samples_per_worker=self._in_flight
            )
            return items.batch(self.items_per_call, drop_remainder=True)

        def arrange(sample: Any) -> Sample:
            frames = sample.data[_COLUMN]  # [items, item_length, lanes, bytes]
            by_lane = tf.transpose(frames, (2, 0, 1, 3))
            # Of a dataset the items may be longer: its run may have learned from longer windows.
            windows = tf.stack([by_lane[:, :, step : step + window] for step in range(steps)])
            shape = (learner.steps_per_call, learner.batch_size, window, num_bytes)
            trajectory, gradient_steps = decode(tf.reshape(windows, shape), self._layout)
            relative = tf.cast(sample.info.probability * tf.cast(sample.info.table_size, tf.float64), tf.float32)
            relative = tf.reshape(tf.tile(relative, [transitions]), shape[:2])
            return Sample(trajectory, gradient_steps, relative, sample.info.key)

        if self._iterators == 1:
            drawn = draw(None)
        else:
            drawn = tf.data.Dataset.range(self._iterators).interleave(
                draw, cycle_length=self._iterators, num_parallel_calls=self._iterators, deterministic=False
            )
        return drawn.map(arrange, num_parallel_calls=1, deterministic=True).prefetch(1)

    def update_priorities(self, keys: NDArray[np.uint64], priorities: NDArray[np.float32]) -> None:
        """Gives the items drawn for a call the priorities of their transitions; items that have left are ignored.

        Args:
          keys: uint64 [items], of `Sample.keys`.
          priorities: float32 [K, B], not negative. An item takes the mean of its transitions'.
        """
        of_items = bounded(priorities.reshape(-1, len(keys)).mean(axis=0))
        updates = dict(zip(keys.tolist(), of_items.tolist(), strict=True))
        self.client.mutate_priorities(self._layout.table, updates)

    def tally(self) -> Tally:
        """Items that the experience table has taken and given since the run began, and those that it has."""
        info = self.info()
        limiter = info.rate_limiter_info
        inserted = self._before.inserted + limiter.insert_stats.completed
        return Tally(inserted, self._before.sampled + limiter.sample_stats.completed, info.current_size)

    @property
    def taken_before(self) -> tuple[int, int]:
        """Items that the queue had taken and given before it was last emptied."""
        return self._before.inserted, self._before.sampled

    def discard_queue(self) -> None:
        """On-policy: removes what waits for the learner."""
        self._before = self.tally()._replace(present=0)
        self.client.reset(self._layout.table)

    def info(self) -> Any:
        """Reverb's `TableInfo` of the experience table."""
        return self.client.server_info(timeout=10)[self._layout.table]

    def waits_for_collectors(self) -> bool:
        """Whether the learner can have no more before collectors insert; if not, the table has failed."""
        return flow.waits_for_collectors(self._experiment, self.info())

    def explain_stall(self) -> str:
        """Which side the rate limiter holds back, in words."""
        return flow.explain_stall(self._experiment, self.info(), self.items_per_call)

    def checkpoint(self) -> Path:
        """Writes all tables into the server's folder and returns the checkpoint's path.

        Raises:
          OSError: Reverb could not write it.
        """
        try:
            return Path(self.client.checkpoint())
        except _REFUSALS as error:  # of a full disk, an IndexError
            raise OSError(f"Reverb could not write the replay: {error}") from error

    def release(self) -> None:
        """Gives a dataset that waits for its next batch one of zeros, on-policy: nothing else ends such a wait."""
        if not self._experiment.agent.on_policy:  # a replay that has begun to give goes on
            return
        length, *shape = self._item_shape
        with self.client.trajectory_writer(num_keep_alive_refs=length) as writer:
            for _ in range(self.items_per_call):
                for _ in range(length):
                    writer.append({_COLUMN: np.zeros(shape, np.uint8)})
                writer.create_item(self._layout.table, 1.0, {_COLUMN: writer.history[_COLUMN][-length:]})
                writer.flush()  # the queue has room for two batches

    def stop(self) -> None:
        """Stops serving. Stop writers first: Reverb confirms inserts that it then drops."""
        for server in self._servers:
            server.stop()


def _variables_table(signature: tf.TensorSpec) -> reverb.Table:
    """Keeps the newest publication."""
    return reverb.Table(
        VARIABLES_TABLE,
        sampler=reverb.selectors.Lifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )


def decode(frames: tf.Tensor, layout: FrameLayout) -> tuple[Trajectory, tf.Tensor]:
    """Frames uint8 [K, B, T, num_bytes] as a `Trajectory` [K, B, T, ...] and their weight versions [K, B] at frame 0.

    Of a layout with stacks there are `stack - 1` frames more, before the window.
    """
    values: dict[str, tf.Tensor] = {}
    for name, (field, offset) in layout.fields():
        base, shape = field.subdtype if field.subdtype else (field, ())
        part = frames[..., offset : offset + field.itemsize]
        outer = tf.shape(part)[:-1] if None in part.shape else part.shape[:-1]
        if base.itemsize > 1:
            part = tf.bitcast(tf.reshape(part, (*outer, *shape, base.itemsize)), tf.as_dtype(base))
        else:
            part = tf.reshape(part, (*outer, *shape))
        values[name] = part
    leaves = {leaf: values.pop(layout.leaf_field(leaf)) for leaf in layout.specs.leaves()}
    if layout.stack > 1:
        is_first = tf.equal(values["step_type"], FIRST)
        leaves = {name: stack_windows(leaf, is_first, layout.stack) for name, leaf in leaves.items()}
        values = {name: part[:, :, layout.stack - 1 :] for name, part in values.items()}
    observation = layout.specs.pack(leaves)
    if layout.specs.masked:
        observation = (observation, tf.cast(values["mask"], tf.bool))
    trajectory = Trajectory(
        step_type=tf.cast(values["step_type"], tf.int32),
        observation=observation,
        action=tf.cast(values["action"], tf.int64),
        policy_info=values["state"] if layout.state_units else (),
        next_step_type=tf.cast(values["next_step_type"], tf.int32),
        reward=values["reward"],
        discount=1.0 - tf.cast(values["terminated"], tf.float32),
    )
    return trajectory, values["gradient_steps"][..., 0]
