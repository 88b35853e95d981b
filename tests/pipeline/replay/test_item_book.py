"""A writer's book of windows and items, against lists of windows that are gone through one by one."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.replay.item_book import ItemBook


class Sizes(NamedTuple):
    """Of a writer; the window counts from its lead on."""

    groups: int
    lanes_per_item: int
    window: int
    steps_per_item: int
    stride: int
    lead: int
    whole: bool

    def book(self) -> ItemBook:
        length = self.lead + self.window
        lanes = self.groups * self.lanes_per_item
        return ItemBook(lanes, self.lanes_per_item, length, self.steps_per_item, self.stride, self.whole)


class SlowBook:
    """Keeps each frame, and finds all windows anew whenever it is asked."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.confirmed_items = sizes, 0
        self.is_real: list[bool] = []

    def windows(self) -> list[bool]:
        """The complete windows of one lane, by whether the first frame that is learned from is real."""
        length = self.sizes.lead + self.sizes.window
        starts = range(0, len(self.is_real) - length + 1, self.sizes.stride)
        return [self.is_real[start + self.sizes.lead] for start in starts]

    def items(self) -> list[list[bool]]:
        """The windows of each complete item of one lane of its group, in the order of their completion."""
        windows, size = self.windows(), self.sizes.steps_per_item
        covered = [windows[start : start + size] for start in range(0, len(windows) - size + 1, size)]
        return [windows for windows in covered for _ in range(self.sizes.groups)]

    def begun_windows(self) -> int:
        lanes = self.sizes.groups * self.sizes.lanes_per_item
        if self.sizes.whole:
            return len(self.windows()) * lanes
        starts = range(0, len(self.is_real) - self.sizes.lead, self.sizes.stride)
        return sum(self.is_real[start + self.sizes.lead] for start in starts) * lanes

    def confirmed_windows(self) -> int:
        confirmed = self.items()[: self.confirmed_items]
        return sum(sum(windows) for windows in confirmed) * self.sizes.lanes_per_item

    def missing(self) -> int:
        """Tries more and more padding until every transition that has begun is in an item."""
        if self.sizes.whole or not any(self.is_real):
            return 0
        padded = SlowBook(self.sizes)
        padded.is_real = list(self.is_real)
        while sum(map(sum, padded.items())) * self.sizes.lanes_per_item < padded.begun_windows():
            padded.is_real.append(False)
        return len(padded.is_real) - len(self.is_real)


SIZES = st.builds(
    Sizes,
    groups=st.integers(1, 3),
    lanes_per_item=st.integers(1, 2),
    window=st.integers(2, 4),
    steps_per_item=st.integers(1, 3),
    stride=st.integers(1, 3),
    lead=st.integers(0, 3),
    whole=st.booleans(),
).map(  # as experiments have them: no stride beside several steps an item, and no lead of whole windows
    lambda sizes: sizes._replace(
        steps_per_item=1 if sizes.stride > 1 or sizes.whole else sizes.steps_per_item,
        lead=0 if sizes.whole else sizes.lead,
    )
)


@given(SIZES, st.lists(st.integers(-4, 3), max_size=30))
def test_the_book_counts_as_one_who_looks_at_every_window(sizes: Sizes, steps: list[int]) -> None:
    """Adds a frame for each negative number and confirms so many items for any other, as far as there are any."""
    book, slow = sizes.book(), SlowBook(sizes)

    def add(is_padding: bool) -> None:
        windows, items = len(slow.windows()), len(slow.items())
        slow.is_real.append(not is_padding)
        assert book.add(is_padding) == (len(slow.items()) > items)
        assert book.has_completed_window == (len(slow.windows()) > windows)
        check()

    def confirm(most: int) -> None:
        items = min(most, len(slow.items()) - slow.confirmed_items)
        slow.confirmed_items += items
        book.confirm(items)
        check()

    def check() -> None:
        assert book.confirmed_items == slow.confirmed_items
        assert book.begun_windows == slow.begun_windows()
        assert book.confirmed_windows == slow.confirmed_windows()
        assert book.unconfirmed_windows == slow.begun_windows() - slow.confirmed_windows()
        assert book.missing == slow.missing()

    for _ in range(sizes.lead):
        add(is_padding=True)
    for step in steps:
        if step < 0:
            add(is_padding=False)
        else:
            confirm(step)
    for _ in range(slow.missing()):
        add(is_padding=True)
        confirm(1)
    assert book.missing == 0
    while slow.confirmed_items < len(slow.items()):
        confirm(1)
    assert sizes.whole or book.unconfirmed_windows == 0


def test_windows_that_begin_in_padding_are_no_transitions() -> None:
    book = ItemBook(lanes=4, lanes_per_item=2, window=3, steps_per_item=4)
    completed = [book.add() for _ in range(6)]
    assert completed == [False] * 5 + [True]  # frames 0 to 5 hold the windows from 0 to 3
    assert (book.begun_windows, book.confirmed_windows) == (6 * 4, 0)
    book.confirm(2)
    assert (book.confirmed_windows, book.unconfirmed_windows) == (4 * 4, 2 * 4)
    assert book.missing == 4  # windows 6 and 7 fill the second item: it ends with frame 9
    assert [book.add(is_padding=True) for _ in range(4)] == [False] * 3 + [True]
    assert (book.missing, book.begun_windows, book.confirmed_windows) == (0, 6 * 4, 4 * 4)
    book.confirm(1)  # of the first two lanes
    assert book.confirmed_windows == 4 * 4 + 2 * 2
    book.confirm(1)
    assert (book.confirmed_windows, book.unconfirmed_windows) == (6 * 4, 0)


@pytest.mark.parametrize(("frames", "begun", "missing"), [(0, 0, 0), (1, 1, 4), (3, 1, 2), (4, 2, 4), (7, 3, 4)])
def test_sequences_that_lie_apart_begin_every_stride(frames: int, begun: int, missing: int) -> None:
    book = ItemBook(lanes=1, lanes_per_item=1, window=5, stride=3)
    for _ in range(frames):
        book.add()
    assert (book.begun_windows, book.missing) == (begun, missing)


def test_whole_windows_begin_when_they_are_complete() -> None:
    book = ItemBook(lanes=2, lanes_per_item=2, window=4, stride=3, whole=True)
    begun = []
    for _ in range(8):
        book.add()
        begun.append(book.begun_windows)
        assert book.missing == 0
    assert begun == [0, 0, 0, 2, 2, 2, 4, 4]
