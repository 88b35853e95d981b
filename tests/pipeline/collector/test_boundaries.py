"""Where episodes begin and end in frames, against cases worked by hand and one lane at a time."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.collector.boundaries import Boundaries, mark
from pipeline.replay.frames import FIRST, LAST, MID


class Lane(NamedTuple):
    """What happened in one lane."""

    step_type: int
    resets: bool = False
    ends: bool = False
    cut: bool = False


def together(lanes: list[Lane], without_cuts: bool = False) -> tuple[Boundaries, np.ndarray]:
    resets, ends, cuts = (np.array(column, np.bool_) for column in list(zip(*lanes, strict=True))[1:])
    step_type = np.array([lane.step_type for lane in lanes], np.uint8)
    return Boundaries(resets, ends, None if without_cuts else cuts), step_type


def slowly(lane: Lane) -> tuple[int, int, bool]:
    """Types of the frames before and after the step, and whether the environment took one."""
    if lane.cut:
        return LAST, FIRST, False
    if lane.resets:
        return lane.step_type, FIRST, False
    if lane.ends:
        return lane.step_type, LAST, True
    return lane.step_type, MID, True


@pytest.mark.parametrize(
    ("lane", "step_type", "next_step_type", "taken"),
    [
        (Lane(FIRST), FIRST, MID, True),  # an episode's first step
        (Lane(MID), MID, MID, True),
        (Lane(MID, ends=True), MID, LAST, True),  # terminated or truncated
        (Lane(FIRST, ends=True), FIRST, LAST, True),  # an episode of one step
        (Lane(LAST, resets=True), LAST, FIRST, False),  # the step after an end begins the next episode
        (Lane(MID, cut=True), LAST, FIRST, False),  # a fault: the action's frame becomes the end
        (Lane(FIRST, cut=True), LAST, FIRST, False),  # a fault in an episode's first step leaves an end alone
    ],
)
def test_one_lane_by_hand(lane: Lane, step_type: int, next_step_type: int, taken: bool) -> None:
    boundaries, before = together([lane], without_cuts=not lane.cut)
    marks = mark(boundaries, before)
    assert (marks.step_type.tolist(), marks.next_step_type.tolist()) == ([step_type], [next_step_type])
    assert (marks.taken.tolist(), marks.environment_steps) == ([taken], int(taken))


def test_lanes_do_not_mix() -> None:
    lanes = [Lane(MID), Lane(MID, ends=True), Lane(LAST, resets=True), Lane(FIRST, cut=True), Lane(FIRST)]
    marks = mark(*together(lanes))
    assert marks.step_type.tolist() == [MID, MID, LAST, LAST, FIRST]
    assert marks.next_step_type.tolist() == [MID, LAST, FIRST, FIRST, MID]
    assert marks.taken.tolist() == [True, True, False, False, True]
    assert marks.environment_steps == 3


# A reset may fail too: the lane is then made anew in it, which is no cut, as no action was taken there. An environment
# may also end an episode in the step that resets it, against its contract: the reset counts.
LANES = st.builds(Lane, st.sampled_from([FIRST, MID]), st.just(False), st.booleans(), st.just(False)) | st.sampled_from(
    [Lane(LAST, resets=True), Lane(LAST, resets=True, ends=True), Lane(FIRST, cut=True), Lane(MID, cut=True)]
)


@given(st.lists(LANES, min_size=1, max_size=6))
def test_every_lane_is_marked_as_it_would_be_alone(lanes: list[Lane]) -> None:
    boundaries, step_type = together(lanes, without_cuts=not any(lane.cut for lane in lanes))
    marks = mark(boundaries, step_type)
    alone = [slowly(lane) for lane in lanes]
    found = zip(marks.step_type.tolist(), marks.next_step_type.tolist(), marks.taken.tolist(), strict=True)
    assert list(found) == alone
    assert marks.environment_steps == sum(taken for *_, taken in alone)
    assert marks.step_type.dtype == marks.next_step_type.dtype == np.uint8
    assert marks.taken.dtype == np.bool_


@given(st.lists(LANES, min_size=1, max_size=6))
def test_marks_share_nothing_with_what_they_are_made_of(lanes: list[Lane]) -> None:
    boundaries, step_type = together(lanes)
    given_arrays = [*boundaries, step_type]
    before = [array.copy() for array in given_arrays]
    marks = mark(boundaries, step_type)
    for array in marks[:3]:
        assert not any(np.shares_memory(array, other) for other in given_arrays)
        array.fill(1)
    for array, old in zip(given_arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


@given(st.lists(st.lists(st.sampled_from(["goes on", "ends", "fails"]), min_size=3, max_size=3), max_size=12))
def test_steps_one_after_the_other_make_whole_episodes(steps: list[list[str]]) -> None:
    """Each lane's frames are FIRST, any number of MID, LAST, again and again; only a cut may leave a LAST alone."""
    step_type, resets = np.full(3, FIRST, np.uint8), np.zeros(3, np.bool_)
    frames: list[list[int]] = [[], [], []]
    taken = 0
    for events in steps:
        happened = np.array(events)
        ends = (happened == "ends") & ~resets
        cuts = (happened == "fails") & ~resets
        marks = mark(Boundaries(resets, ends, cuts if cuts.any() else None), step_type)
        for lane, kind in enumerate(marks.step_type.tolist()):
            frames[lane].append(kind)
        taken += marks.environment_steps
        step_type, resets = marks.next_step_type, ends
    for lane, kinds in enumerate(frames):
        kinds.append(int(step_type[lane]))
        for before, after in itertools.pairwise(kinds):
            assert (after == FIRST) == (before == LAST) or (before, after) == (LAST, LAST)
    # A frame that is no episode's end holds the action of one environment step.
    assert taken == sum(kind != LAST for kinds in frames for kind in kinds[:-1])
