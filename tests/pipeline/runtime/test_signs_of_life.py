"""Time in which nobody could run gives nobody up."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.signs_of_life import RunningClock


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20))
def test_the_clock_counts_no_more_than_two_seconds_between_two_looks(gaps: list[float]) -> None:
    now = 100.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        clock = RunningClock()
        begun = clock()
        for gap in gaps:
            now += gap
            clock()
        assert clock() - begun == pytest.approx(sum(min(gap, 0.5) for gap in gaps), abs=1e-3)
