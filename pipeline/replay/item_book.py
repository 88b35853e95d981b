"""Counts the windows and items of a collector's frames: begun, complete, confirmed by the replay, missing.

A window is the frames that one n-step transition or sequence is made of; an item of the replay holds the windows of one
group of lanes that begin in successive steps. Nothing here knows Reverb: `pipeline.replay.writer` asks this book when
items are complete, and tells it which of them the replay has stored.
"""


class ItemBook:
    """Keeps the exact counts of one writer.

    Args:
      lanes: of the collector.
      lanes_per_item: lanes of one group; divides `lanes`.
      window: frames that make one, padding before the first ones included.
      steps_per_item: windows of each lane in an item.
      stride: steps from the start of one window to the next.
      whole: the end is never padded: frames of an incomplete window begin none.
    """

    def __init__(
        self,
        lanes: int,
        lanes_per_item: int,
        window: int,
        steps_per_item: int = 1,
        stride: int = 1,
        whole: bool = False,
    ) -> None:
        self._lanes, self._lanes_per_item, self._groups = lanes, lanes_per_item, lanes // lanes_per_item
        self._window, self._steps_per_item, self._stride, self._whole = window, steps_per_item, stride, whole
        self._steps = 0  # frames of each lane, padding included
        self._real_steps = 0
        self._uncovered = 0  # complete windows of each lane that no item has yet
        self._complete_items = 0  # of all groups
        self.confirmed_items = 0
        """Items that the replay has stored for certain."""

    def add(self, is_padding: bool = False) -> bool:
        """Takes that every lane has one frame more; in one of padding no window begins.

        Returns:
          Whether it completes an item of every group.
        """
        self._steps += 1
        if not is_padding:
            self._real_steps += 1
        if self.has_completed_window:
            self._uncovered += 1
        if self._uncovered < self._steps_per_item:
            return False
        self._uncovered = 0
        self._complete_items += self._groups
        return True

    def confirm(self, items: int) -> None:
        """Takes that the replay has stored so many items more, in the order in which they were completed."""
        self.confirmed_items += items

    @property
    def has_completed_window(self) -> bool:
        """Whether the newest frame completed a window; so does every frame where windows begin at every step."""
        return self._steps >= self._window and (self._steps - self._window) % self._stride == 0

    @property
    def begun_windows(self) -> int:
        """Transitions that began in the frames: those confirmed and those unconfirmed.

        One begins in each frame, or in one of `stride` where windows lie further apart. With `whole` only those that
        are complete count.
        """
        return (self._complete_windows if self._whole else self._begun_windows) * self._lanes

    @property
    def confirmed_windows(self) -> int:
        """Transitions that the replay has stored for certain."""
        # Windows that begin in padding are all in the last item of each group, and the replay stores items in order.
        last = max(0, self._groups - (self._complete_items - self.confirmed_items))
        windows = self.confirmed_items * self._steps_per_item - self._empty_windows * last
        return windows * self._lanes_per_item

    @property
    def unconfirmed_windows(self) -> int:
        """Transitions that the replay may not have: on their way, or waiting for more frames."""
        return self.begun_windows - self.confirmed_windows

    @property
    def missing(self) -> int:
        """Frames of padding that would complete the items of all windows that have begun."""
        if self._whole or not self._real_steps:
            return 0
        items = -(-self._begun_windows // self._steps_per_item)
        return max(0, (items * self._steps_per_item - 1) * self._stride + self._window - self._steps)

    @property
    def _begun_windows(self) -> int:
        """Of each lane, those whose first frame is real."""
        return -(-self._real_steps // self._stride)

    @property
    def _complete_windows(self) -> int:
        """Of each lane."""
        return 0 if self._steps < self._window else (self._steps - self._window) // self._stride + 1

    @property
    def _empty_windows(self) -> int:
        """Of each lane, those that begin in padding and are in an item."""
        empty = self._complete_windows - self._begun_windows
        return 0 if empty <= 0 or self.missing else empty
