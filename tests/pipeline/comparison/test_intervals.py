"""Means, interquartile means and their intervals, against slow obvious references."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.comparison import intervals
from pipeline.comparison.curves import Curve

VALUES = st.floats(-1e3, 1e3, width=32)


def slow_interquartile_mean(values: Sequence[float]) -> float:
    ordered = sorted(values)
    for _ in range(math.floor(0.25 * len(values))):
        ordered.pop(0)
        ordered.pop()
    return math.fsum(ordered) / len(ordered)


@given(st.lists(VALUES, min_size=1, max_size=30))
def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end(values: list[float]) -> None:
    found = intervals.interquartile_mean(np.array([values, values]))
    assert found == pytest.approx([slow_interquartile_mean(values)] * 2, abs=1e-9)


def test_the_interquartile_mean_is_scipys_trimmed_mean_as_rliable_has_it() -> None:
    from scipy.stats import trim_mean

    scores = np.random.default_rng(0).normal(size=(7, 5))  # runs, tasks
    assert intervals.interquartile_mean(scores.ravel()) == pytest.approx(trim_mean(scores, 0.25, axis=None))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_the_bootstrap_draws_whole_runs_within_each_task(sizes: list[int], seed: int) -> None:
    assume(sum(sizes) >= intervals.FEWEST)
    random = np.random.default_rng(seed)
    tasks = [random.normal(size=(size, 2)) for size in sizes]
    found = intervals.bootstrapped(tasks, seed, resamples=20)
    same = np.random.default_rng(seed)
    draws = [same.integers(size, size=(20, size)) for size in sizes]
    for point in range(2):
        means = []
        for resample in range(20):
            pooled = []
            for task, drawn in zip(tasks, draws, strict=True):
                pooled += [task[run][point] for run in drawn[resample]]
            means.append(slow_interquartile_mean(pooled))
        own = [run[point] for task in tasks for run in task]
        assert found.center[point] == pytest.approx(slow_interquartile_mean(own))
        assert found.low[point] == pytest.approx(np.percentile(means, 2.5))
        assert found.high[point] == pytest.approx(np.percentile(means, 97.5))


@given(st.lists(VALUES, min_size=3, max_size=10))
def test_the_mean_has_students_interval(values: list[float]) -> None:
    from scipy.stats import t

    found = intervals.mean(np.array(values)[:, None])
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = t.ppf(0.975, len(values) - 1) * error
    mean = statistics.fmean(values)
    assert [part[0] for part in found[:3]] == pytest.approx([mean, mean - half, mean + half], abs=1e-3)


def test_two_runs_have_their_range_whatever_sums_them_up() -> None:
    values = np.array([[1.0, 7.0], [3.0, 5.0]])
    for found in (
        intervals.mean(values),
        intervals.bootstrapped([values]),
        intervals.bootstrapped([values[:1], values[1:]]),
    ):
        assert found.is_range
        assert (found.center.tolist(), found.low.tolist(), found.high.tolist()) == ([2.0, 6.0], [1.0, 5.0], [3.0, 7.0])
    assert intervals.words(1.0, 3.0, is_range=True) == "1 to 3 (min, max)"
    assert intervals.words(float("nan"), 3.0, is_range=False) == intervals.words(None, None, is_range=False) == "-"
    assert not intervals.mean(np.array([[1.0], [2.0], [3.0]])).is_range


def test_one_run_has_no_interval() -> None:
    found = intervals.mean(np.array([[1.0, 2.0]]))
    assert found.center.tolist() == [1.0, 2.0]
    assert np.isnan([found.low, found.high]).all()


def test_what_is_not_a_number_is_not_trimmed_away() -> None:
    assert np.isnan(intervals.interquartile_mean(np.array([1.0, 2.0, 3.0, np.nan])))


@given(st.lists(st.tuples(st.integers(0, 20), VALUES), min_size=1, max_size=8), st.lists(st.integers(-1, 25)))
def test_the_last_value_is_carried_forward(points: list[tuple[int, float]], places: list[int]) -> None:
    by_x = dict(sorted(points))
    curve = Curve(np.array(list(by_x), float), np.array(list(by_x.values())))
    places.sort()
    (found,) = intervals.carried_forward([curve], np.array(places, float))
    for place, value in zip(places, found, strict=True):
        before = [y for x, y in by_x.items() if x <= place]
        assert (value == before[-1]) if before else math.isnan(value)
