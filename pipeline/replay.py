"""The replay: Reverb's tables, the dataset that the learner draws from, and what the rate limiter says.

This is the TensorFlow side, in the process of the server. `pipeline.writer` is the collectors' side.
"""

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
from pipeline import reverb_checkpoint
from pipeline.config import UsageError
from pipeline.frames import FIRST, FrameLayout
from pipeline.ports import refuse_used_port
from pipeline.sections import Experiment
from pipeline.stacking import stack_windows
from pipeline.variables import REPORTS_TABLE, VARIABLES_TABLE

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

    Raises:
      UsageError: the port is in use, or the checkpoint's tables have other settings.
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
        folder.mkdir(parents=True, exist_ok=True)
        wanted = _settings(tables[0].info)
        with tempfile.TemporaryDirectory(prefix="dataset-", dir=folder.parent) as copy:  # read when the server starts
            if dataset is not None:
                reverb_checkpoint.restate(dataset, tables[0].info, Path(copy))
                restore_from = Path(copy)
            fallback = str(restore_from) if restore_from else None
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder), fallback_checkpoint_path=fallback)
            self._server = reverb.Server(tables, port, checkpointer)
        self.address = f"localhost:{port}"
        self.weights_address = self.address
        """Of the server that has the weights."""
        self._servers = [self._server]
        if weights_port := experiment.replay.weights_port:
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder.with_name("weights")))  # never written
            self._servers.append(reverb.Server([_variables_table(message)], weights_port, checkpointer))
            self.weights_address = f"localhost:{weights_port}"
        self.client = reverb.Client(self.address)
        if (restored := _settings(self.info())) != wanted:  # Reverb restores the settings with the items
            self.stop()
            raise UsageError(
                f"the checkpoint's replay has other settings ({restored}) than asked for ({wanted}): resume with the "
                "same [replay] section, batches and launcher"
            )
        on_policy = experiment.agent.on_policy  # what waits in its queue was collected with weights that are gone
        for table in (VARIABLES_TABLE, REPORTS_TABLE, *([self._layout.table] if on_policy else [])):
            self.client.reset(table)  # messages of an earlier life

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

    def inserted_items(self) -> int:
        """Items that the experience table has taken since the run began."""
        completed: int = self.info().rate_limiter_info.insert_stats.completed
        return completed

    def info(self) -> Any:
        """Reverb's `TableInfo` of the experience table."""
        return self.client.server_info(timeout=10)[self._layout.table]

    def explain_stall(self) -> str:
        """Which side the rate limiter holds back, in words."""
        info = self.info()
        limiter = info.rate_limiter_info
        inserts, samples = limiter.insert_stats.completed, limiter.sample_stats.completed
        state = (
            f"{inserts} items inserted, {samples} sampled, {info.current_size} of {info.max_size} stored, "
            f"{limiter.samples_per_insert:g} samples per insert wanted"
        )
        if self._experiment.agent.on_policy:
            return (
                f"the learner waits for collectors: the queue has not had the {self.items_per_call} items of a batch "
                f"({inserts} inserted, {samples} sampled)"
            )
        if info.current_size < limiter.min_size_to_sample:
            return (
                f"the learner waits for collectors: the table has {info.current_size} of the "
                f"{limiter.min_size_to_sample} items that replay.min_size asks for ({state})"
            )
        if inserts * limiter.samples_per_insert - samples - 1 < limiter.min_diff:
            return f"the learner waits for collectors, which do not insert ({state})"
        return f"the collectors wait for the learner, which does not sample ({state})"

    def checkpoint(self) -> Path:
        """Writes all tables into the server's folder and returns the checkpoint's path."""
        return Path(self.client.checkpoint())

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


def _settings(info: Any) -> str:
    """What of a table its checkpoint decides, as text to compare and to show."""
    limiter, sampler = info.rate_limiter_info, info.sampler_options
    prioritized = sampler.HasField("prioritized")
    drawn = f"by priority to the power {sampler.prioritized.priority_exponent:g}" if prioritized else "uniformly"
    drawn = "in turn" if sampler.HasField("fifo") else drawn
    return (
        f"{info.max_size} items drawn {drawn}, at least {limiter.min_size_to_sample}, "
        f"{limiter.samples_per_insert:g} samples per insert within {limiter.min_diff:g} to {limiter.max_diff:g}"
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
