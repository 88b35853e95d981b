"""The replay as the learner sees it: the dataset that it draws from, priorities, counts, what the rate limiter says.

`pipeline.replay.server` is the server's side, `pipeline.replay.writer` the collectors'.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.trajectories import Trajectory

from agents import Specs
from agents.priorities import bounded
from pipeline.acting.frame_stacks import stack_windows
from pipeline.experiment.sections import Experiment
from pipeline.records.account import NOTHING, Seen, Tally
from pipeline.replay import flow
from pipeline.replay.frames import FIRST, FrameLayout

REFUSALS = (RuntimeError, ValueError, IndexError, PermissionError)
"""What Reverb raises, by the kind of what went wrong."""
COLUMN = "frames"
"""Of the items of the experience table."""


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
    shards: Any = ()
    """int32 [items]: the shard that owns each; empty where there is one."""


class Replay:
    """A replay at an address.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      address: of its server.
      before: what its queue had counted before it was last emptied; on-policy alone.
    """

    def __init__(self, experiment: Experiment, specs: Specs, address: str, before: Tally = NOTHING) -> None:
        self.address = address
        self.addresses: Sequence[str] = [address]
        """Of all servers that reports come to."""
        self.publication_addresses = self.addresses
        """Of all that publications go to."""
        self.client = reverb.Client(address)
        self.items_per_call = experiment.items_per_call
        self.skipped_priorities = 0
        """Of items whose server was away when they came."""
        self._experiment, self._layout, self._before = experiment, FrameLayout.of(experiment, specs), before

    def dataset(self, address: str = "") -> tf.data.Dataset:
        """An endless dataset of `Sample`s, drawn uniformly, by priority or, on-policy, each once in turn.

        The transitions of the items drawn for one call are spread so that a batch holds one of each of many items,
        rather than many of a few: lanes of an item were collected in the same vector steps, its steps in succession.

        Args:
          address: another spelling of the server's.
        """
        iterators, in_flight = draws_ahead(self._experiment)
        batch_size = self._experiment.learner.batch_size

        def draw(_: Any) -> tf.data.Dataset:
            items = reverb.TrajectoryDataset.from_table_signature(
                address or self.address, self._layout.table, max_in_flight_samples_per_worker=in_flight
            )
            return items.batch(self.items_per_call, drop_remainder=True)

        def arranged(sample: Any) -> Sample:
            frames, info = sample.data[COLUMN], sample.info
            relative = tf.cast(info.probability * tf.cast(info.table_size, tf.float64), tf.float32)
            return arrange(self._experiment, self._layout, batch_size, frames, relative, info.key)

        if iterators == 1:
            drawn = draw(None)
        else:
            drawn = tf.data.Dataset.range(iterators).interleave(
                draw, cycle_length=iterators, num_parallel_calls=iterators, deterministic=False
            )
        return drawn.map(arranged, num_parallel_calls=1, deterministic=True).prefetch(1)

    def samples(self) -> Iterator[Sample]:
        """What the learner draws, without end; waits while there is nothing to draw."""
        return iter(self.dataset())

    def update_priorities(self, keys: NDArray[np.uint64], priorities: NDArray[np.float32], shards: Any = ()) -> None:
        """Gives the items drawn for a call the priorities of their transitions; items that have left are ignored.

        Args:
          keys: uint64 [items], of `Sample.keys`.
          priorities: float32 [K, B], not negative. An item takes the mean of its transitions'.
          shards: of `Sample.shards`; one server needs none.
        """
        of_items = priorities_of_items(priorities, len(keys))
        updates = dict(zip(keys.tolist(), of_items.tolist(), strict=True))
        self.client.mutate_priorities(self._layout.table, updates)

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """`update_priorities` of what was drawn for a call."""
        owners = () if isinstance(sample.shards, tuple) else sample.shards.numpy()
        self.update_priorities(sample.keys.numpy(), priorities, owners)

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

    def refresh(self) -> None:
        """Has `tally` be of now."""

    def seen(self) -> Sequence[Seen]:
        """Of servers in processes of their own: what they were when they last answered."""
        return ()

    def checkpoint(self) -> Path | None:
        """Writes the contents and returns their folder; None of servers that do so themselves.

        Raises:
          OSError: they could not be written.
        """
        return None

    def size(self) -> int:
        """Items that it holds."""
        return self.tally().present

    def info(self) -> Any:
        """Reverb's `TableInfo` of the experience table."""
        return self.client.server_info(timeout=10)[self._layout.table]

    def waits_for_collectors(self) -> bool:
        """Whether the learner can have no more before collectors insert; if not, the table has failed."""
        return flow.waits_for_collectors(self._experiment, self.info())

    def explain_stall(self) -> str:
        """Which side the rate limiter holds back, in words."""
        return flow.explain_stall(self._experiment, self.info(), self.items_per_call)

    def stop(self) -> None:
        """Ends what serves it, where that is in this process."""

    def release(self) -> None:
        """Gives a dataset that waits for its next batch one of zeros, on-policy: nothing else ends such a wait."""
        if not self._experiment.agent.on_policy:  # a replay that has begun to give goes on
            return
        length, *shape = item_shape(self._experiment, self._layout)
        with self.client.trajectory_writer(num_keep_alive_refs=length) as writer:
            for _ in range(self.items_per_call):
                for _ in range(length):
                    writer.append({COLUMN: np.zeros(shape, np.uint8)})
                writer.create_item(self._layout.table, 1.0, {COLUMN: writer.history[COLUMN][-length:]})
                writer.flush()  # the queue has room for two batches


def item_shape(experiment: Experiment, layout: FrameLayout) -> tuple[int, int, int]:
    """Of the bytes of one item: frames, lanes, bytes of a frame."""
    return experiment.item_length, experiment.lanes_per_item, layout.num_bytes


def draws_ahead(experiment: Experiment) -> tuple[int, int]:
    """How many iterators a dataset has, and how many items each of them asks for ahead."""
    # Two iterators fetch small items 1.7 times as fast as one; large ones come fast enough. Of a queue, which has
    # one batch at a time, each would wait for what the other has taken.
    iterators = 2 if experiment.transitions_per_item < 8 and not experiment.agent.on_policy else 1
    return iterators, min(512, max(8, experiment.items_per_call // iterators))


def arrange(
    experiment: Experiment,
    layout: FrameLayout,
    batch_size: int,
    frames: tf.Tensor,
    relative_probability: tf.Tensor,
    keys: tf.Tensor,
    shards: Any = (),
) -> Sample:
    """The batches of a call from the items drawn for it: transition i of the call is of item i modulo their number.

    Args:
      experiment: sizes and window.
      layout: of the frames.
      batch_size: B, transitions of a batch.
      frames: uint8 [items, item_length, lanes, bytes].
      relative_probability: float32 [items], of each item's transitions.
      keys: uint64 [items].
      shards: int32 [items], or empty.
    """
    steps, window = experiment.steps_per_item, experiment.window
    by_lane = tf.transpose(frames, (2, 0, 1, 3))
    # Of a dataset the items may be longer: its run may have learned from longer windows.
    windows = tf.stack([by_lane[:, :, step : step + window] for step in range(steps)])
    shape = (experiment.learner.steps_per_call, batch_size, window, layout.num_bytes)
    trajectory, gradient_steps = decode(tf.reshape(windows, shape), layout)
    relative = tf.reshape(tf.tile(relative_probability, [experiment.transitions_per_item]), shape[:2])
    return Sample(trajectory, gradient_steps, relative, keys, shards)


def priorities_of_items(priorities: NDArray[np.float32], items: int) -> NDArray[np.float32]:
    """Of the items drawn for a call, from their transitions' [K, B]: the mean, within the bounds of a table."""
    return bounded(priorities.reshape(-1, items).mean(axis=0))


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
