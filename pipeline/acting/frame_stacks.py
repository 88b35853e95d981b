"""Frame stacks: a network that sees the newest k observations, where each is stored once.

Collectors and evaluators keep the stack of each lane; the learner rebuilds it from the k - 1 frames that lie before
each window in its item. Both put the observations side by side along the last axis, the oldest first, and zeros in the
place of what lies before the episode's first (as Dopamine and DQN Zoo do).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import ArraySpec, Specs


def stacked(specs: Specs, frames: int) -> Specs:
    """The specs of stacks of so many observations."""
    if frames == 1:
        return specs
    leaves = {name: _stacked(leaf, frames) for name, leaf in specs.leaves().items()}
    return specs._replace(observation=specs.pack(leaves))


def _stacked(spec: ArraySpec, frames: int) -> ArraySpec:
    shape = spec.shape or (1,)
    maximum = spec.maximum
    if spec.dtype == "int32":  # one bound an entry
        maximum = tuple(np.concatenate([np.reshape(maximum, shape)] * frames, axis=-1).ravel().tolist())
    axes = spec.axes
    if axes and axes[-1] in "HW":  # the frames are side by side, and no channels
        axes = f"{axes[:-1]}{frames}{axes[-1]}"
    return ArraySpec((*shape[:-1], shape[-1] * frames), spec.dtype, maximum, axes)


def newest(specs: Specs, frames: int, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The newest observations of stacks.

    Args:
      specs: of one observation.
      frames: k, observations of a stack.
      leaves: arrays or tensors by leaf name, [lanes, ...].
    """
    if frames == 1:
        return dict(leaves)
    shapes = {name: spec.shape for name, spec in specs.leaves().items()}
    return {name: leaf[..., -shapes[name][-1] :] if shapes[name] else leaf[..., -1] for name, leaf in leaves.items()}


_WORD_BYTES = 4


class FrameStack:
    """The newest observations of each lane.

    Args:
      specs: of one observation.
      frames: k, observations of a stack.
      lanes: environments in lockstep.
    """

    def __init__(self, specs: Specs, frames: int, lanes: int) -> None:
        self._frames = frames
        self._stacks = {
            name: np.zeros((lanes, *spec.shape), spec.dtype) for name, spec in stacked(specs, frames).leaves().items()
        }

    def push(self, observation: dict[str, NDArray[Any]], begins: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """The stacks with these observations as the newest, valid until the next push.

        Args:
          observation: by leaf name, [lanes, ...].
          begins: bool [lanes], whether it is an episode's first.
        """
        if self._frames == 1:
            return observation
        anew = bool(np.count_nonzero(begins))
        for name, stack in self._stacks.items():
            width = stack.shape[-1] // self._frames
            if anew:
                stack[begins] = 0
            if stack.dtype == np.uint8 and stack.shape[-1] == _WORD_BYTES and width == 1:
                # A pixel's four bytes are a word: shifting words takes a tenth of the time of moving bytes.
                words = stack.view("<u4")[..., 0]
                np.right_shift(words, 8, out=words)
            else:
                stack[..., :-width] = stack[..., width:]
            stack[..., -width:] = observation[name].reshape((*stack.shape[:-1], width))
        return self._stacks


def unpacked(
    decode: Callable[[Any], Any], window: int, batch_size: int, frames: Any, position: Any | None = None
) -> Any:
    """Windows of whole items, decoded, with their stacks: for the learner's program, where each frame comes once.

    Window i of a call is of item i modulo their number; first come all lanes of the items' first step, then those of
    the second.

    Args:
      decode: makes a nest of tensors [K, B, T, ...] of windows uint8 [K, B, window, bytes].
      window: frames of a window.
      batch_size: B.
      frames: uint8 [items, item_length, lanes, bytes], of a call of the learner.
      position: int32 [], of a batch in the call.

    Returns:
      Tensors [K, B, T, ...] of all batches, or of a position's [B, T, ...].
    """
    import tensorflow as tf

    items, length, lanes, num_bytes = frames.shape
    if position is None:
        numbers = tf.reshape(tf.range(items * lanes * (length - window + 1)), (-1, batch_size))
    else:
        numbers = (position * batch_size + tf.range(batch_size))[tf.newaxis]
    turn, item = numbers // items, numbers % items
    first = (item * length + turn // lanes) * lanes + turn % lanes
    rows = first[..., tf.newaxis] + tf.range(window) * lanes
    decoded = decode(tf.gather(tf.reshape(frames, (-1, num_bytes)), rows))
    return decoded if position is None else tf.nest.map_structure(lambda leaf: leaf[0], decoded)


def stack_windows(leaf: Any, is_first: Any, frames: int) -> Any:
    """Stacks of the frames of windows.

    Args:
      leaf: a tensor [K, B, frames - 1 + T, ...]: before each window what its first stacks need.
      is_first: bool [K, B, frames - 1 + T], whether an episode begins there.
      frames: k, observations of a stack.

    Returns:
      A tensor [K, B, T, ...], its last axis `frames` times as long.
    """
    import tensorflow as tf

    length = leaf.shape[2] - frames + 1
    if leaf.shape.rank == 3:
        leaf = leaf[..., tf.newaxis]
    parts = [leaf[:, :, frames - 1 :]]
    in_episode = tf.ones_like(is_first[:, :, frames - 1 :])
    for age in range(1, frames):
        newer = frames - age  # where, in the frames given, the observation after this one lies
        in_episode &= ~is_first[:, :, newer : newer + length]
        shape = tf.concat([tf.shape(in_episode), tf.ones(leaf.shape.rank - 3, tf.int32)], axis=0)
        part = leaf[:, :, newer - 1 : newer - 1 + length]
        parts.insert(0, part * tf.cast(tf.reshape(in_episode, shape), part.dtype))
    return tf.concat(parts, axis=-1)
