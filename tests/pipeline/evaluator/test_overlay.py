"""The panel beside a picture: its place, its rows, bars and numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluator import overlay
from pipeline.evaluator.overlay import StepView, overlaid

CHOSEN, FORBIDDEN, BAR = overlay._CHOSEN, overlay._FORBIDDEN, overlay._BAR


def reading(scores: list[float], action: int | None = 0, allowed: list[bool] | None = None, **changes: Any) -> StepView:
    plain = StepView(
        scores=np.array(scores, np.float32),
        title="Q-values",
        names=[f"action {number}" for number in range(len(scores))],
        allowed=None if allowed is None else np.array(allowed),
        chosen=() if action is None else (action,),
        span=(min(scores), max(scores)),
        step=3,
        reward=-1.0,
        episode_return=2.5,
    )
    return plain._replace(**changes)


def count(pixels: Any, colour: tuple[int, int, int]) -> int:
    return int((pixels == np.array(colour, np.uint8)).all(axis=2).sum())


def scene(height: int = 300, width: int = 400) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.data(),
)
def test_any_picture_and_any_scores_make_a_picture_of_even_sides(
    height: int, width: int, scores: list[float], data: st.DataObject
) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    action = data.draw(st.none() | st.integers(0, len(scores) - 1))
    allowed = data.draw(st.none() | st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    drawn = overlaid(picture, reading(scores, action, allowed))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert drawn.shape[0] >= height
    assert (count(drawn, CHOSEN) > 0) == (action is not None)
    other = overlaid(picture, reading([0.0] * len(scores), 0, step=10**6))
    assert other.shape == drawn.shape, "a video's pictures have one size"


@pytest.mark.parametrize(("height", "width", "left", "top"), [(300, 400, 0, 0), (340, 320, 0, 0), (150, 600, 0, 0)])
def test_the_picture_itself_is_kept(height: int, width: int, left: int, top: int) -> None:
    picture = scene(height, width)
    before = picture.copy()
    drawn = overlaid(picture, reading([1.0, 2.0]))
    assert (picture == before).all()
    assert (drawn[top : top + height, left : left + width] == picture).all()
    is_below = width > 1.8 * height
    assert (drawn.shape[1] == width) == is_below


def test_a_small_picture_is_enlarged_by_whole_pixels_and_a_large_one_reduced() -> None:
    small = scene(10, 10)
    drawn = overlaid(small, reading([1.0, 2.0]))
    assert (drawn[:300:30, :300:30] == small).all()
    assert (drawn[29:300:30, 29:300:30] == small).all()
    assert overlaid(scene(1000, 4000), reading([1.0])).shape[1] == 1280


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0.001, 100))
def test_bars_grow_from_zero_within_the_span_and_else_from_its_low_end(score: float, low: float, width: float) -> None:
    span = (low, low + width)
    start, end = overlay._extent(score, span)
    assert 0.0 <= start <= end <= 1.0
    zero = -low / width if low < 0 < low + width else 0.0
    place = min(1.0, max(0.0, (score - low) / width))
    assert (start, end) == pytest.approx(sorted((zero, place)), abs=1e-6)


def test_a_better_action_has_a_longer_bar() -> None:
    lengths = [count(overlaid(scene(), reading([score, 10.0], 1, span=(0.0, 10.0))), BAR) for score in (2.0, 4.0, 8.0)]
    assert lengths == sorted(lengths)
    assert lengths[0] * 3 < lengths[2]


def test_what_is_forbidden_is_crossed_out_and_what_is_chosen_marked() -> None:
    free = overlaid(scene(), reading([1.0, 2.0, 3.0], 2))
    shielded = overlaid(scene(), reading([1.0, 2.0, 3.0], 1, [True, True, False]))
    ended = overlaid(scene(), reading([1.0, 2.0, 3.0], None))
    assert (count(free, FORBIDDEN), count(ended, CHOSEN), count(ended, BAR)) == (0, 0, 0)
    rows = np.flatnonzero((shielded == FORBIDDEN).all(axis=2).any(axis=1))
    marked = np.flatnonzero((shielded == CHOSEN).all(axis=2).any(axis=1))
    assert marked.max() < rows.min(), "the last of three is forbidden, the one before is chosen"
    assert count(shielded, FORBIDDEN) > 100


def test_of_many_actions_the_best_are_shown_and_the_one_chosen() -> None:
    scores = np.arange(100, dtype=np.float32)
    rows = overlay._rows(reading(scores.tolist(), action=3))
    assert len(rows) == 18
    assert rows == [3, *range(83, 100)]


def test_each_dimension_of_an_action_has_its_choice_marked() -> None:
    one, two = (overlaid(scene(), reading([1.0, 2.0, 3.0, 4.0], chosen=of)) for of in ((1,), (1, 3)))
    assert count(two, CHOSEN) > 1.5 * count(one, CHOSEN)
    many = reading(np.arange(100.0).tolist(), chosen=(3, 40))
    assert overlay._rows(many) == [3, 40, *range(84, 100)]
