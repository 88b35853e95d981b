"""Makes the batches of one call of the learner from items of the replay: cuts, spreads and decodes them."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.trajectories import Trajectory

from pipeline.experiment.sections import Experiment
from pipeline.replay.frames import FIRST, FrameLayout

COLUMN = "frames"
"""The one column of an item in the experience table."""


class Sample(NamedTuple):
    """The batches of one fused call."""

    trajectory: Any
    """`Trajectory` [K, B, T, ...]."""
    gradient_steps: tf.Tensor
    """int32 [K, B]: how many gradient steps the weights that acted had taken."""
    relative_probability: tf.Tensor
    """float32 [K, B]: how many times as likely as by uniform drawing each window was drawn."""
    keys: tf.Tensor
    """uint64 [items]: the items drawn; window i of the call, in order, is of item i modulo their number."""
    shards: Any = ()
    """int32 [items]: the shard that owns each; empty where there is one."""


def item_shape(experiment: Experiment, layout: FrameLayout) -> tuple[int, int, int]:
    """Shape of one item's bytes: frames, lanes, bytes of a frame."""
    return experiment.item_length, experiment.lanes_per_item, layout.num_bytes


def draws_ahead(experiment: Experiment) -> tuple[int, int]:
    """How many iterators a dataset has, and how many items each of them asks for ahead."""
    # Two iterators fetch small items 1.7 times as fast as one; large ones come fast enough. On-policy, the queue has
    # one batch at a time: of two iterators each would have a part of it and wait for the other's.
    iterators = 2 if experiment.windows_per_item < 8 and not experiment.agent.on_policy else 1
    parts = 8 if experiment.replay.prioritized else iterators  # what is drawn early is drawn by old priorities
    return iterators, min(512, max(8, experiment.items_per_call // parts))


def arrange(
    experiment: Experiment,
    layout: FrameLayout,
    batch_size: int,
    frames: tf.Tensor,
    relative_probability: tf.Tensor,
    keys: tf.Tensor,
) -> Sample:
    """Cuts the items of a call into windows and spreads these: window i is of item i modulo the number of items.

    Args:
      experiment: sizes and window.
      layout: of the frames.
      batch_size: B, windows of a batch.
      frames: uint8 [items, item_length, lanes, bytes].
      relative_probability: float32 [items], of each item's windows.
      keys: uint64 [items].
    """
    steps, window = experiment.steps_per_item, experiment.window
    by_lane = tf.transpose(frames, (2, 0, 1, 3))
    # Items of a dataset may be longer than is needed: its run may have learned from longer windows.
    windows = tf.stack([by_lane[:, :, step : step + window] for step in range(steps)])
    shape = (experiment.learner.steps_per_call, batch_size, window, layout.num_bytes)
    return sample_of(layout, tf.reshape(windows, shape), relative_probability, keys)


def sample_of(
    layout: FrameLayout, windows: tf.Tensor, relative_probability: tf.Tensor, keys: tf.Tensor, shards: Any = ()
) -> Sample:
    """Decodes a call's windows uint8 [K, B, T, bytes] that `arrange` has spread, or that are spread as it does."""
    shape = windows.shape[:2]
    relative = tf.tile(relative_probability, [shape.num_elements() // keys.shape[0]])
    return Sample(*decode(windows, layout), tf.reshape(relative, shape), keys, shards)


def priorities_of_items(priorities: NDArray[np.float32], items: int) -> NDArray[np.float32]:
    """Priority of each item drawn for a call: the mean of its windows' of [K, B], within what a table takes."""
    from agents.priorities import bounded

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
        from pipeline.acting.frame_stacks import stack_windows

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
