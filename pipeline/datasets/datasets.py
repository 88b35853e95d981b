"""What all formats of datasets share: the choice of episodes, columns of steps, and their way back into frames.

`pipeline.datasets.tfrecord_format` and `pipeline.datasets.minari_format` are the two formats.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from agents.dimensions import outside
from pipeline.datasets.stored_frames import EpisodePart, Lane, episode_parts
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout


class Selection(NamedTuple):
    """The episodes of a replay that go into a dataset, and counts of those that do not."""

    taken: list[EpisodePart]
    left_out: dict[str, tuple[int, int]]
    """Episodes and their stored steps, by why they are not whole."""

    @property
    def steps(self) -> int:
        """Transitions that go into the dataset."""
        return sum(len(part.steps) for part in self.taken)


def select(lanes: Iterable[Lane], whole_episodes: bool) -> Selection:
    """Chooses what goes into a dataset: all that is stored, or whole episodes alone."""
    taken, left_out = list[EpisodePart](), dict[str, tuple[int, int]]()
    for part in (part for lane in lanes for part in episode_parts(lane)):
        if whole_episodes and part.cut:
            episodes, steps = left_out.get(part.cut, (0, 0))
            left_out[part.cut] = episodes + 1, steps + len(part.steps)
        else:
            taken.append(part)
    return Selection(taken, left_out)


def same_interface(stored: Specs, wanted: Specs) -> bool:
    """Whether observations and actions of one are those of the other, an axis of one channel apart."""
    return _without_channel(stored.plain()) == _without_channel(wanted.plain())


def _without_channel(specs: Specs) -> Specs:
    leaves = {
        name: spec._replace(shape=spec.shape[:-1]) if len(spec.shape) == 3 and spec.shape[-1] == 1 else spec
        for name, spec in specs.leaves().items()
    }
    return specs._replace(observation=specs.pack(leaves))


class Columns(NamedTuple):
    """Successive steps of one episode, T of them, as a file has them."""

    observation: Mapping[str, NDArray[Any]]
    """By leaf name, [T + 1, ...]."""
    mask: NDArray[Any] | None
    """[T + 1, actions]."""
    action: NDArray[Any]
    """[T], or [T, D] of several dimensions, from 0."""
    reward: NDArray[Any]
    terminated: NDArray[Any]
    gradient_steps: NDArray[Any] | None = None
    """[T], of the weights that acted."""


def frames(layout: FrameLayout, columns: Columns) -> NDArray[np.void]:
    """Frames [T + 1] of one episode, the last with the observation that it ends with.

    Raises:
      ValueError: lengths, shapes or numbers are none that an episode of this layout can have.
    """
    steps = len(columns.action)
    if not steps:
        raise ValueError("it has no step")
    found = layout.empty(steps + 1)
    for name, spec in layout.specs.leaves().items():
        found[layout.leaf_field(name)] = _leaf(columns.observation[name], spec, steps + 1, name)
    if layout.specs.masked:
        found["mask"] = _column(columns.mask, (steps + 1, layout.specs.num_actions), "action_mask")
    found["action"][:-1] = actions = _column(columns.action, (steps, *layout.specs.action_shape), "action")
    found["reward"][:-1] = _column(columns.reward, (steps,), "reward")
    found["terminated"][:-1] = _column(columns.terminated, (steps,), "terminated")
    if columns.gradient_steps is not None:
        found["gradient_steps"][:-1] = _column(columns.gradient_steps, (steps,), "gradient_steps")
    if not np.isfinite(found["reward"]).all():
        raise ValueError("a reward is not finite")
    if outside(actions, layout.specs).any():
        sizes = layout.specs.action_sizes
        what = f"within the dimensions {list(sizes)}" if sizes else f"from 0 to {layout.specs.num_actions - 1}"
        raise ValueError(f"an action is not {what}")
    found["step_type"] = MID
    found["step_type"][0], found["step_type"][-1] = FIRST, LAST
    found["next_step_type"] = np.roll(found["step_type"], -1)
    return found


def _column(values: Any, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.size != int(np.prod(shape)) or array.shape[:1] != shape[:1]:
        raise ValueError(f"its {name} has the shape {array.shape} instead of {shape}")
    return array.reshape(shape)


def _leaf(values: Any, spec: ArraySpec, length: int, name: str) -> NDArray[Any]:
    array = _column(values, (length, *spec.shape), f"observation {name}".strip())
    if spec.dtype == "float32" and not np.isfinite(array).all():
        raise ValueError("an observation is not finite")
    bounds = np.reshape(spec.maximum, spec.shape) if spec.dtype == "int32" else spec.maximum
    if spec.dtype != "float32" and ((array < 0) | (array > bounds)).any():
        raise ValueError("an observation is not within the bounds of its space")
    return array


class Dataset(NamedTuple):
    """A dataset on disk."""

    specs: Specs
    """Of its environment."""
    steps: int
    """Transitions."""
    read: Callable[[FrameLayout], Iterator[NDArray[np.void]]]
    """Frames [T + 1] of each episode or piece of one; raises `UsageError` for what cannot be learned from."""
    verify: Callable[[FrameLayout], None]
    """Raises `UsageError` if a file is damaged."""
    has_whole_episodes: bool
    """Whether each that is read is a whole episode, rather than a piece of one."""


def find(folder: Path) -> Dataset | None:
    """The dataset in a folder; None if there is none.

    Raises:
      UsageError: there is one, and it cannot be read.
    """
    from pipeline.datasets import (
        minari_format,
        tfrecord_format,  # they know this module
    )

    return tfrecord_format.find(folder) or minari_format.find(folder)
