"""Statistics over several runs: means and interquartile means with 95 % intervals. Pure functions of arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.curves import Curve

Array = NDArray[np.float64]

_CONFIDENCE = 0.95
FEWEST = 3
"""Runs of which an interval says something: of two, Student's t is 12.7 standard errors to either side."""
_RESAMPLES = 2_000
"""As Agarwal et al. take for curves."""


class Estimate(NamedTuple):
    """A value and its 95 % interval, each [points]; the interval is NaN where one run alone says nothing of it."""

    center: Array
    low: Array
    high: Array
    is_range: bool = False
    """Whether low and high are the least and the largest run instead, as these are fewer than three."""


def carried_forward(curves: Sequence[Curve], grid: Array) -> Array:
    """Curves on one grid, step-wise: at each place the last value at or before it, also beyond a curve's end.

    Args:
      curves: [runs], each with a point at least.
      grid: [points], ascending.

    Returns:
      [runs, points], NaN before a curve's first point.
    """
    rows = []
    for curve in curves:
        last = np.searchsorted(curve.x, grid, side="right") - 1
        rows.append(np.where(last >= 0, curve.y[np.maximum(last, 0)], np.nan))
    return np.stack(rows)


def mean(values: Array) -> Estimate:
    """Mean over runs with Student's t interval, which is wide for few runs; of two it is their range.

    Args:
      values: [runs, points].
    """
    from scipy.special import (
        stdtrit,
    )  # imported late: it takes half a second, and a wrong command line should fail at once

    runs = len(values)
    center = values.mean(axis=0)
    if runs == 1:
        unknown = np.full_like(center, np.nan)
        return Estimate(center, unknown, unknown)
    if runs < FEWEST:
        return Estimate(center, values.min(axis=0), values.max(axis=0), is_range=True)
    half = stdtrit(runs - 1, (1.0 + _CONFIDENCE) / 2.0) * values.std(axis=0, ddof=1) / np.sqrt(runs)
    return Estimate(center, center - half, center + half)


def interquartile_mean(values: Array) -> Array:
    """Mean of what is left when a quarter of the values, rounded down, is cut off at either end (Agarwal et al. 2021).

    Args:
      values: [..., values]; of several tasks, the scores of all their runs side by side.

    Returns:
      [...]; NaN where a value is.
    """
    cut = values.shape[-1] // 4
    middle = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(values).any(axis=-1), np.nan, middle)


def bootstrapped(tasks: Sequence[Array], seed: int = 0, resamples: int = _RESAMPLES) -> Estimate:
    """Interquartile mean over the runs of all tasks, with a percentile interval of a stratified bootstrap.

    Each resample draws, for every task, as many of its runs as it has, with replacement: the whole curve of each.

    Args:
      tasks: by task [runs, points], scores of one scale.
      seed: of the resampling, so that the same runs have the same interval.
      resamples: how many.
    """
    random = np.random.default_rng(seed)
    pooled_runs = np.concatenate(tasks)
    if len(pooled_runs) < FEWEST:
        return mean(pooled_runs)
    center = interquartile_mean(pooled_runs.T)
    drawn = [random.integers(len(task), size=(resamples, len(task))) for task in tasks]
    resampled = np.empty((resamples, len(center)))
    for point in range(len(center)):  # one at a time: all of them would be gigabytes
        pooled = [task[chosen, point] for task, chosen in zip(tasks, drawn, strict=True)]
        resampled[:, point] = interquartile_mean(np.concatenate(pooled, axis=1))
    tail = 100.0 * (1.0 - _CONFIDENCE) / 2.0
    low, high = np.percentile(resampled, [tail, 100.0 - tail], axis=0)
    return Estimate(center, low, high)


def words(low: float | None, high: float | None, is_range: bool) -> str:
    """An interval in a table, or a dash where one run has none; a range is marked."""
    if low is None or high is None or np.isnan(low):
        return "-"
    return f"{low:.4g} to {high:.4g}" + (" (min, max)" if is_range else "")
