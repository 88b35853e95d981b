"""Priorities on their way back to the replay: written beside the next gradient steps, and how late they come."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agents.priorities import bounded
from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Counters
from pipeline.replay.sampling import Sample

if TYPE_CHECKING:
    from pipeline.replay.replay import Replay

_HALF_LIFE = 1_000
"""Gradient steps in which the largest priority of the past counts half as much."""
_SPARSENESS = 16
"""Entries of a table of keys for each item of the replay."""
_LATE_CALLS = 2
"""Calls after which the draws see what one has judged: one is drawn while another learns."""


class JudgedKeys:
    """Remembers which items have a priority of their own, approximately and in memory of a fixed size.

    Reverb's keys are random numbers: some of their bits choose an entry. One key in `_SPARSENESS` at most is taken for
    another one. Two tables take turns, so that items that have left are forgotten.

    Args:
      capacity: items of the replay.
    """

    def __init__(self, capacity: int) -> None:
        size = 1 << (max(1, capacity) * _SPARSENESS - 1).bit_length()
        self._mask, self._capacity = np.uint64(size - 1), capacity
        self._newer, self._older = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._judged = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Takes items that now have a priority of their own."""
        entries = keys & self._mask
        self._judged += int(np.count_nonzero(~self._newer[entries]))
        self._newer[entries] = True
        if self._judged >= self._capacity:
            self._newer, self._older, self._judged = self._older, self._newer, 0
            self._newer[:] = False

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each item has one."""
        entries = keys & self._mask
        found: NDArray[np.bool_] = self._newer[entries] | self._older[entries]
        return found


class PriorityWriter:
    """Writes the priorities of each call back in a thread of its own; one write is on its way at most.

    Args:
      experiment: the run.
      replay: that they are of.
      counters: whose largest priority, which new items get, it keeps: the largest of the past decays, so that one early
        outlier does not have every new item drawn again and again before it is judged.
    """

    def __init__(self, experiment: Experiment, replay: "Replay", counters: Counters) -> None:
        self._replay, self._counters = replay, counters
        self._decay = 0.5 ** (experiment.learner.steps_per_call / _HALF_LIFE)
        self._judged = JudgedKeys(experiment.replay.capacity // experiment.windows_per_item)
        self._late: deque[NDArray[np.uint64]] = deque()
        self._background = ThreadPoolExecutor(1, "priorities")
        self._writing: Future[None] | None = None
        self.unjudged_share = 0.0
        """Of the newest call's draws, the share that met items without a priority of their own."""

    def write(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """Takes what a call has learned from, and its windows' priorities, float32 [K, B]."""
        counters, keys = self._counters, sample.keys.numpy()
        largest = float(bounded(priorities).max())
        counters.largest_priority = max(largest, self._decay * counters.largest_priority)
        self.unjudged_share = 1.0 - float(self._judged.contains(keys).mean())
        self._late.append(keys)
        if len(self._late) >= _LATE_CALLS:
            self._judged.add(self._late.popleft())
        if self._writing is not None:
            self._writing.result()
        self._writing = self._background.submit(self._replay.give_priorities, sample, priorities)

    def close(self) -> None:
        """Waits for the last write."""
        self._background.shutdown()
