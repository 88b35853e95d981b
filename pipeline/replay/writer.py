"""Writes a collector's frames into the replay, and the items that are made of them. No TensorFlow."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.records.counters import BURST_ITEMS, MOST_ITEMS
from pipeline.replay.frames import FrameLayout
from pipeline.replay.item_book import ItemBook
from pipeline.runtime import native

_UNCONFIRMED_ITEMS = 32
"""So many may be on their way after `confirm`, so that the next burst, usually of 16, need not wait."""
_BURST_SECONDS = 0.02
"""After this time a burst is created that has fewer than `BURST_ITEMS`."""
_CHUNK_BYTES = 2048
_CHUNK_STEPS = 16
_FLUSH_MS = 200
"""A flush waits in C++, where no signal handler runs, so it waits in slices of this length."""


class FrameWriter:
    """Appends frames to the replay, and sends the items of their windows in bursts.

    Its `book` says which windows have begun, which items are complete and which of them the replay has. What the
    server has not confirmed is bounded.

    Args:
      address: of the replay server.
      layout: of the frames.
      lanes: of the collector.
      lanes_per_item: lanes of one group; divides `lanes`.
      window: frames of a window.
      steps_per_item: an item has the windows that begin in so many successive steps (window + steps_per_item - 1).
      stride: steps from the start of one window to the next; where it is not 1, an item has one window a lane.
      lead: frames at a window's start that nothing is learned from. As many frames of padding come before a lane's
        first one, so that it is learned from, too.
      whole: no window may have padding, as on-policy kinds need it: the end is not padded, and the last frames, which
        fill no window, are in none.

    Raises:
      UsageError: when items are created, the replay has no table for this layout, lanes and window.
    """

    def __init__(
        self,
        address: str,
        layout: FrameLayout,
        lanes: int,
        lanes_per_item: int,
        window: int,
        steps_per_item: int = 1,
        stride: int = 1,
        lead: int = 0,
        whole: bool = False,
    ) -> None:
        self.book = ItemBook(lanes, lanes_per_item, window, steps_per_item, stride, whole)
        """What is counted of the frames appended."""
        self.initial_priority = 1.0
        """Priority of an item whose frames are appended without any."""
        self._layout, self._lanes, self._lanes_per_item, self._lead = layout, lanes, lanes_per_item, lead
        self._groups = lanes // lanes_per_item
        self._client = native.reverb_client(address)
        # Steps of a chunk are compressed and stored as one, which halves the memory of small ones; but a sample
        # decompresses whole chunks, so large steps get a chunk each.
        self._chunk_length = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // (lanes_per_item * layout.num_bytes)))
        self._chunk_steps = 0  # of the chunk that is being filled
        item_steps = steps_per_item * stride
        self._burst_items = max(1, BURST_ITEMS // item_steps)
        padding = window + item_steps  # comes at once, whatever the limiter holds back
        keep_alive = window + 2 * item_steps + self._chunk_length + BURST_ITEMS + padding
        self._writer = native.reverb_writer(self._client, self._chunk_length, keep_alive)
        length = window + steps_per_item - 1
        self._recent: list[deque[Any]] = [deque(maxlen=length) for _ in range(self._groups)]  # frames, by group
        self._priorities: deque[NDArray[np.float32]] = deque(maxlen=steps_per_item)  # [groups], of the newest windows
        self._is_begun = False
        self._frames: NDArray[Any] | None = None
        self._columns: list[NDArray[np.uint8]] = []  # the bytes of `_frames`, by group
        self._pending: list[tuple[list[Any], float]] = []  # complete items that are not created yet
        self._burst_at = time.monotonic()
        self._is_due = False
        self._unconfirmed = 0  # items created and on their way

    @classmethod
    def of(cls, experiment: Experiment, layout: FrameLayout, address: str) -> "FrameWriter":
        """A writer as the experiment's collectors have it."""
        return cls(
            address,
            layout,
            experiment.collect.lanes,
            experiment.lanes_per_item,
            experiment.window,
            experiment.steps_per_item,
            experiment.agent.stride,
            experiment.lead,
            experiment.agent.on_policy,
        )

    def append(self, frames: NDArray[Any], priorities: NDArray[np.float32] | None = None) -> None:
        """Appends one frame a lane; the items they complete follow soon.

        Args:
          frames: a structured array [lanes] of the layout.
          priorities: float32 [lanes], of the windows that these frames complete; an item takes their mean.
        """
        if not self._is_begun:
            self._is_begun = True
            padding = self._layout.padding(self._lanes)
            padding["gradient_steps"] = frames["gradient_steps"]
            for _ in range(self._lead):
                self._append(padding, None, is_padding=True)
        self._append(frames, priorities, is_padding=False)

    def pad(self, frames: NDArray[Any], priorities: NDArray[np.float32] | None = None) -> None:
        """Appends one frame a lane in which no window begins; `book.missing` of them complete the last items.

        Args:
          frames: a structured array [lanes], of step type LAST. The first ones hold the newest observations, which the
            windows before them bootstrap from.
          priorities: see `append`.
        """
        self._append(frames, priorities, is_padding=True)

    def _append(self, frames: NDArray[Any], priorities: NDArray[np.float32] | None, is_padding: bool) -> None:
        if frames is not self._frames:  # a collector fills the same array again and again
            self._frames = frames
            self._columns = list(self._layout.as_bytes(frames).reshape(self._groups, self._lanes_per_item, -1))
        references = self._writer.Append(self._columns)
        self._chunk_steps = (self._chunk_steps + 1) % self._chunk_length
        for recent, reference in zip(self._recent, references, strict=True):
            recent.append(reference)
        if priorities is not None:
            self._priorities.append(priorities.reshape(self._groups, -1).mean(axis=1))
        if self.book.add(is_padding):
            self._complete_items()
        # Reverb's writer thread sleeps at the first item whose chunk is not complete. Items created while their chunk
        # lacks one step are therefore sent together after that step; others wake the thread one by one.
        completes_next = self._chunk_steps == self._chunk_length - 1
        enough = self._burst_items if completes_next else 2 * self._burst_items
        self._is_due = len(self._pending) >= enough or time.monotonic() - self._burst_at > _BURST_SECONDS

    def confirm(self, keep_waiting: Callable[[], bool], everything: bool = False) -> bool:
        """Creates the items that are due and waits until at most 32 are unconfirmed; with `everything`, until none is.

        Call it after every `append`. The rate limiter holds collectors back here.

        Args:
          keep_waiting: asked every 200 ms; False gives up.
          everything: create and wait for every item.

        Returns:
          Whether they are confirmed.
        """
        if everything:
            self._is_due = True
            self._chunk_steps = 0  # waiting for all closes the chunk that the newest items need
        allowed = 0 if everything else _UNCONFIRMED_ITEMS
        while True:
            if self._is_due:
                self._create()
            if self._unconfirmed <= allowed and not self._is_due:
                return True
            if not self._flush(allowed) and not keep_waiting():
                return False

    def close(self) -> None:
        """Drops what is unconfirmed and ends the connection; a writer that is only deleted waits for the limiter."""
        self._writer.Close()

    def _complete_items(self) -> None:
        """Makes an item of each group's newest windows, to be created with the next burst."""
        priorities = [self.initial_priority] * self._groups
        if self._priorities:
            from agents.priorities import bounded

            priorities = bounded(np.mean(self._priorities, axis=0)).tolist()
        self._pending += [(list(recent), priority) for recent, priority in zip(self._recent, priorities, strict=True)]

    def _create(self) -> None:
        """Creates what is pending, as far as there is room for it."""
        room = MOST_ITEMS - self._unconfirmed
        now, self._pending = self._pending[:room], self._pending[room:]
        try:
            for frames, priority in now:
                self._writer.CreateItem(self._layout.table, priority, [frames], [False])
        except ValueError as error:
            raise UsageError(
                f"the replay takes frames of another layout: does this process see the learner's environment? ({error})"
            ) from None
        self._unconfirmed += len(now)
        self._is_due = bool(self._pending)
        self._burst_at = time.monotonic()

    def _flush(self, allowed: int) -> bool:
        """Waits a little until no more than `allowed` items are on their way; returns whether that is so."""
        if not native.flush(self._writer, allowed, _FLUSH_MS):
            return False
        left = min(self._unconfirmed, allowed)
        self.book.confirm(self._unconfirmed - left)
        self._unconfirmed = left
        return True
