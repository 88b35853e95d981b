"""Makes the batches of one call of the learner from items of the replay: cuts, spreads and decodes them."""

from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.trajectories import Trajectory

from pipeline.experiment.sections import Experiment
from pipeline.replay.frames import FIRST, FrameLayout

COLUMN = "frames"
"""The one column of an item in the experience table."""


class Sample(NamedTuple):
    """The batches of one fused call."""

    trajectory: Any
    """`Trajectory` [K, B, T, ...]; if `is_packed`, the items as drawn, uint8 [items, item_length, lanes, bytes]."""
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


def is_packed(experiment: Experiment) -> bool:
    """Whether samples keep whole items: stacks have each frame several times, so they are made batch by batch."""
    return experiment.environment.frame_stack > 1 and experiment.learner.local_steps == 1


def draws_ahead(experiment: Experiment) -> tuple[int, int]:
    """How many iterators a dataset has, and how many items each of them asks for ahead."""
    # Two iterators fetch small items 1.7 times as fast as one; large ones come fast enough. On-policy, the queue has
    # one batch at a time: of two iterators each would have a part of it and wait for the other's.
    iterators = 2 if experiment.windows_per_item < 8 and not experiment.agent.on_policy else 1
    parts = 8 if experiment.replay.prioritized else iterators  # what is drawn early is drawn by old priorities
    return iterators, min(512, max(8, experiment.items_per_call // parts))


def as_written(unbuffered: bool = False) -> tf.data.Options:
    """Keeps tf.data from choosing numbers of threads itself, and from adding buffers if `unbuffered`."""
    options = tf.data.Options()
    options.autotune.enabled = False  # an iterator's end would wait for its thread, after a long run for up to 60 s
    if unbuffered:
        options.experimental_optimization.apply_default_optimizations = False
    return options


def arrange(
    experiment: Experiment,
    layout: FrameLayout,
    batch_size: int,
    frames: tf.Tensor,
    relative_probability: tf.Tensor,
    keys: tf.Tensor,
    shards: Any = (),
) -> Sample:
    """Cuts the items of a call into windows and spreads these: window i is of item i modulo the number of items.

    Args:
      experiment: sizes and window.
      layout: of the frames.
      batch_size: B, windows of a batch.
      frames: uint8 [items, item_length, lanes, bytes]; kept as they are if `is_packed`.
      relative_probability: float32 [items], of each item's windows.
      keys: uint64 [items].
      shards: see `Sample`.
    """
    # Items of a dataset may be longer than is needed: its run may have learned from longer windows.
    steps, window, items = experiment.steps_per_item, experiment.window, frames[:, : experiment.item_length]
    packed = is_packed(experiment)
    by_lane = tf.transpose(items[..., layout.version_bytes] if packed else items, (2, 0, 1, 3))
    windows = tf.stack([by_lane[:, :, step : step + window] for step in range(steps)])
    windows = tf.reshape(windows, (experiment.learner.steps_per_call, batch_size, window, windows.shape[-1]))
    decoded = (items, tf.bitcast(windows[:, :, layout.stack - 1], tf.int32)) if packed else decode(windows, layout)
    return sample_of(*decoded, relative_probability, keys, shards)


def sample_of(trajectory: Any, versions: tf.Tensor, relative: tf.Tensor, keys: tf.Tensor, shards: Any = ()) -> Sample:
    """A call's `Sample` of what `decode` gives of windows that are spread as `arrange` does."""
    spread = tf.tile(relative, [versions.shape.num_elements() // keys.shape[0]])
    return Sample(trajectory, versions, tf.reshape(spread, versions.shape), keys, shards)


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
