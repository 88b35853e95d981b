"""Rebuilds what each lane did, step by step, from the items of a stored replay. Pure functions, without TensorFlow.

Successive items of a group of lanes overlap: Reverb stores their frames once, in chunks of steps, and items refer to
them. So chunks that one item refers to are of the same lanes, and each says which of its writer's steps it holds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.replay.frames import FIRST, LAST, FrameLayout

BEGAN_EARLIER = "began before the oldest item"
STILL_GOING = "still going"
BROKEN_OFF = "broken off (a fault, or the end of the run)"
"""Why an episode is not whole."""


class Chunk(NamedTuple):
    """Some successive steps of a group of lanes."""

    first: int
    """Of its writer's steps."""
    frames: NDArray[np.uint8]
    """[steps, lanes, bytes]."""


class Slice(NamedTuple):
    """Steps of a chunk that an item refers to."""

    chunk: int
    """Its key."""
    offset: int
    length: int


class ItemShape(NamedTuple):
    """How a run cuts frames into items."""

    lead: int
    """Frames at the beginning of an item that nothing is learned from."""
    covered: int
    """Frames behind those that the item stands for: windows begin in them, and those of the next item behind them."""


class Lane(NamedTuple):
    """The stored frames of one lane, in order."""

    frames: NDArray[np.void]
    """Structured [steps], of the layout."""
    stored: NDArray[np.bool_]
    """[steps]: some item stands for the frame; the others are there for what lies before or behind them."""


class EpisodePart(NamedTuple):
    """Successive steps of one episode: all of them, or what is stored of it."""

    frames: NDArray[np.void]
    """Structured [steps + 1]: the last has nothing but the observation that the last step led to."""
    cut: str
    """Why it is not the whole episode; empty if it is."""

    @property
    def steps(self) -> NDArray[np.void]:
        """The frames in which steps were taken, [steps]."""
        return self.frames[:-1]

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off at its last step, rather than terminated."""
        return not self.frames["terminated"][-2]


def lanes(
    items: Iterable[Sequence[Slice]], chunks: Mapping[int, Chunk], layout: FrameLayout, cut: ItemShape
) -> Iterator[Lane]:
    """Every lane that items have frames of.

    Frames that are missing between others, as those of items that were lost, are padding that no item stands for.

    Args:
      items: the steps that each refers to, in order.
      chunks: by key, all that items refer to.
      layout: of the frames.
      cut: how they were cut into items.
    """
    refers = [list(slices) for slices in items]
    parts = _together([[part.chunk for part in slices] for slices in refers])
    owner = {key: number for number, keys in enumerate(parts) for key in keys}
    begins: list[list[int]] = [[] for _ in parts]  # the writer's steps in which items do
    for slices in refers:
        begins[owner[slices[0].chunk]].append(chunks[slices[0].chunk].first + slices[0].offset)
    for keys, own in zip(parts, begins, strict=True):
        first = min(chunks[key].first for key in keys)
        length = max(chunks[key].first + len(chunks[key].frames) for key in keys) - first
        width = chunks[keys[0]].frames.shape[1]
        frames = np.tile(layout.padding(width), (length, 1))
        for key in keys:
            at, packed = chunks[key].first - first, np.ascontiguousarray(chunks[key].frames)
            frames[at : at + len(packed)] = packed.view(layout.dtype)[..., 0]
        stored = np.zeros(length, np.bool_)
        for begin in own:
            stored[begin - first + cut.lead :][: cut.covered] = True
        yield from (Lane(frames[:, lane], stored) for lane in range(width))


def is_padding(frames: NDArray[np.void]) -> NDArray[np.bool_]:
    """[steps]: frames of no step, which fill items up. A LAST frame leads to a reset: to FIRST."""
    padding: NDArray[np.bool_] = (frames["step_type"] == LAST) & (frames["next_step_type"] == LAST)
    return padding


def is_step(lane: Lane) -> NDArray[np.bool_]:
    """[steps]: stored frames in which a step of the environment was taken."""
    steps: NDArray[np.bool_] = lane.stored & (lane.frames["step_type"] != LAST)
    return steps


def episode_parts(lane: Lane) -> Iterator[EpisodePart]:
    """The episodes of a lane, in order, each as far as it is stored."""
    steps, types = is_step(lane), lane.frames["step_type"]
    before = np.concatenate([[False], steps[:-1]])
    begins = np.flatnonzero(steps & (~before | (types == FIRST)))
    after = np.concatenate([~steps[1:] | (types[1:] == FIRST), [True]])
    ends = np.flatnonzero(steps & after) + 1
    for begin, end in zip(begins, ends, strict=True):
        frames = lane.frames[begin : end + 1]
        if types[begin] != FIRST:
            cut = BEGAN_EARLIER
        elif frames["step_type"][-1] != LAST:
            cut = STILL_GOING
        else:
            cut = "" if frames["next_step_type"][-2] == LAST else BROKEN_OFF
        yield EpisodePart(frames, cut)


def _together(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Keys that groups have in common, and those that they are with, and so on: the parts that share none."""
    parent: dict[int, int] = {}

    def root(key: int) -> int:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for keys in groups:
        for key in keys:
            parent[root(key)] = root(keys[0])
    parts: dict[int, list[int]] = {}
    for key in parent:
        parts.setdefault(root(key), []).append(key)
    return list(parts.values())
