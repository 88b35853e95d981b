"""Permits: how several replay servers hold one ratio of samples to inserts. No TensorFlow.

The limiter of each shard could hold only a ratio of its own, and a shard whose collectors are gone would stop the whole
run. So the experience tables of shards hold none. A table of shard 0 holds it for all, by tiny items: collectors insert
one, a permit, for so many items that the replay has confirmed to them, and a learner samples one for so many that it is
about to draw. Reverb's limiter of that table makes either side wait for the other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pipeline.experiment.sections import Experiment
from pipeline.messages.channel import server_answers
from pipeline.runtime import native

PERMITS_TABLE = "permits"
_FEW_TRANSITIONS = 128
"""A permit stands for so many windows, where a call of the learner does not ask for finer ones: collectors of
100,000 environment steps a second then insert 780 permits a second."""
_PERMITS_PER_CALL = 2
_CALLS_AHEAD = 3
"""Whose samples a learner may hold: one that it learns from, one that waits, one that is being drawn."""
_STREAM_PERMITS = 4
"""That a learner's sampler takes before they are asked for."""
_SPARE_PERMITS = 64
_MOST_PENDING, _PENDING_LEFT = 16, 8
"""Permits on their way at most, and after `Permits.confirm`: no step waits for the answer to its own."""
_FLUSH_MS = 200
"""A flush waits in C++ where no signal handler runs: it waits in slices."""


class Sizes(NamedTuple):
    """Of the permits of a run; all roles work them out from the same experiment."""

    inserted_items: int
    """Items of the replay that a permit inserted stands for."""
    sampled_items: int
    """Items that a permit sampled lets the learner draw."""
    samples_per_insert: float
    """Permits sampled for each one inserted."""
    min_size: int
    """Permits without which none is sampled."""
    error_buffer: float
    """Permits sampled by which the two sides may be apart, either way, before one waits."""
    max_size: int
    """Permits that the table keeps."""


def sizes(experiment: Experiment) -> Sizes:
    """The sizes of an experiment's permits.

    Whatever they are, of the two sides one may always go on, as the error buffer is no less than what one permit
    changes. How many items a call takes does not matter for that: a learner takes permits one by one, and keeps what is
    left of one for its next call.
    """
    if experiment.mixes:  # permits are of what is drawn of the replay
        experiment = experiment.collected
    replay, per_item, per_call = experiment.replay, experiment.windows_per_item, experiment.items_per_call
    # The inserts of one call are fine enough; neither a step of a collector nor an item is ever told apart.
    wanted = min(_FEW_TRANSITIONS // per_item, int(per_call / replay.samples_per_insert))
    inserted = max(1, -(-experiment.collect.lanes // per_item), wanted)
    sampled = max(1, per_call // _PERMITS_PER_CALL)
    ratio = replay.samples_per_insert * inserted / sampled
    min_size = -(-replay.min_size // (per_item * inserted))
    ahead = _STREAM_PERMITS + _CALLS_AHEAD * -(-per_call // sampled)
    return Sizes(inserted, sampled, ratio, min_size, max(2.0 * ratio, 2.0 * ahead), min_size + _SPARE_PERMITS)


class Permits:
    """A collector's side: inserts permits for what it has stored, and waits where the learner is behind.

    Nothing here waits for an absent server without asking `keep_waiting`.

    Args:
      experiment: the run.
      address: of shard 0.
    """

    def __init__(self, experiment: Experiment, address: str) -> None:
        self._windows = sizes(experiment).inserted_items * experiment.windows_per_item
        self._client = native.reverb_client(address)
        self._writer: Any = None
        self._owed = 0  # windows without a permit
        self._pending = 0  # permits inserted and not known to be confirmed

    def spend(self, windows: int) -> None:
        """Takes that so many windows more were confirmed to this collector; `confirm` inserts their permits."""
        self._owed += windows

    def confirm(self, keep_waiting: Callable[[], bool]) -> bool:
        """Inserts the permits that are due, and waits until all but a few are confirmed. Call it after every `spend`.

        Args:
          keep_waiting: asked every 200 ms, or second while shard 0 does not answer; False gives up.

        Returns:
          Whether they are; if not, they stay due.
        """
        while self._owed >= self._windows or self._pending > _PENDING_LEFT:
            if self._writer is None and not self._open():
                if not keep_waiting():
                    return False
                continue
            while self._owed >= self._windows and self._pending < _MOST_PENDING:
                self._insert()
            if self._pending > _PENDING_LEFT and not self._flush(_PENDING_LEFT) and not keep_waiting():
                return False
        return True

    def close(self) -> None:
        """Ends the connection and drops what is not confirmed at once; a writer that is only deleted waits for it."""
        if self._writer is not None:
            self._flush(0)
            self._writer.Close()
            self._writer = None

    def _open(self) -> bool:
        if not server_answers(self._client):  # opening a writer to an absent server waits for ever
            return False
        self._writer = native.reverb_writer(self._client, chunk_length=1, keep_alive=1)
        return True

    def _insert(self) -> None:
        (reference,) = self._writer.Append([np.zeros(1, np.uint8)])
        self._writer.CreateItem(PERMITS_TABLE, 1.0, [[reference]], [True])
        self._owed -= self._windows
        self._pending += 1

    def _flush(self, left: int) -> bool:
        if not native.flush(self._writer, left, _FLUSH_MS):
            return False
        self._pending = min(self._pending, left)
        return True
