"""Priorities on their way back to the replay: written beside the next gradient steps, and how late they come."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
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

    A call is drawn while the one before is learned from, so an item may be drawn several times before it is judged. New
    ones have the largest priority, so that each is drawn soon; once one has been, it gets the mean priority until its
    own is known, as it would be drawn again and again.

    Args:
      experiment: the run.
      replay: that they are of.
      counters: whose largest priority, which new items get, it keeps: the largest of the past decays, so that one early
        outlier does not have every new item drawn again and again before it is judged.
    """

    def __init__(self, experiment: Experiment, replay: "Replay", counters: Counters) -> None:
        self._replay, self._counters = replay, counters
        self._is_known = counters.gradient_steps > 0  # else the largest priority is a 1 that nobody has given
        self._decay = 0.5 ** (experiment.learner.steps_per_call / _HALF_LIFE)
        self._is_largest_at_first = experiment.replay.initial_priority == "largest"
        self._judged = JudgedKeys(experiment.replay.capacity // experiment.windows_per_item)
        self._mean: float | None = None
        self._background = ThreadPoolExecutor(1, "priorities")
        self._tasks: deque[Future[None]] = deque()
        self.unjudged_share = 0.0
        """Of the newest call's draws, the share that met items without a priority of their own."""

    def samples(self) -> Iterator[Sample]:
        """What the replay gives, after a look at which items are drawn."""
        for sample in self._replay.samples():
            keys = sample.keys.numpy()
            new = ~self._judged.contains(keys)
            self.unjudged_share = float(new.mean())
            if self._mean is not None and self._is_largest_at_first and new.any():
                self._submit(self._put_back, sample, self._mean)
            yield sample

    def write(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """Takes what a call has learned from, and its windows' priorities, float32 [K, B]."""
        counters, limited = self._counters, bounded(priorities)
        past = self._decay * counters.largest_priority if self._is_known else 0.0
        counters.largest_priority, self._is_known = max(float(limited.max()), past), True
        self._mean = float(limited.mean())
        self.settle()
        self._submit(self._give, sample, priorities)

    def settle(self) -> None:
        """Waits for what is being written.

        Raises:
          Exception: what writing raised.
        """
        while self._tasks:
            self._tasks.popleft().result()

    def close(self) -> None:
        """Waits for the last write."""
        self._background.shutdown()

    def _submit(self, task: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the thread of samples may outlive the run
            self._tasks.append(self._background.submit(task, *arguments))

    def _give(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        self._replay.give_priorities(sample, priorities)
        self._judged.add(sample.keys.numpy())

    def _put_back(self, sample: Sample, priority: float) -> None:
        """Gives the items of a call that have no priority of their own another one until they have."""
        keys, places = np.unique(sample.keys.numpy(), return_index=True)
        new = places[~self._judged.contains(keys)]  # asked again, as the call before may have been judged meanwhile
        if not len(new):
            return
        shards = sample.shards.numpy()[new] if len(sample.shards) else ()
        part = sample._replace(keys=tf.constant(sample.keys.numpy()[new]), shards=tf.constant(shards))
        self._replay.give_priorities(part, np.full((1, len(new)), priority, np.float32))
