"""HL-Gauss' histograms: hand-worked numbers, and the normal distribution of the standard library under hypothesis."""

import statistics

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import DqnConfig, hl_gauss


def histogram(target: float, v_min: float, v_max: float, bins: int) -> np.ndarray:
    return hl_gauss.histogram(tf.constant([target]), hl_gauss.edges(v_min, v_max, bins)).numpy()[0]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # Edges -1, 0, 1, 2 and a deviation of 3/4. In the middle they lie at -2, -2/3, 2/3 and 2 deviations, below
        # which is 0.02275, 0.25249, 0.74751 and 0.97725 of the mass.
        (0.5, [0.22974 / 0.9545, 0.49501 / 0.9545, 0.22974 / 0.9545]),
        # At the upper end, at -4, -8/3, -4/3 and 0: 0.00003, 0.00383, 0.09121 and 0.5.
        (2.0, [0.0038 / 0.49997, 0.08738 / 0.49997, 0.40879 / 0.49997]),
        (1e9, [0.0038 / 0.49997, 0.08738 / 0.49997, 0.40879 / 0.49997]),
        (-1e9, [0.40879 / 0.49997, 0.08738 / 0.49997, 0.0038 / 0.49997]),
    ],
)
def test_histogram_by_hand(target: float, expected: list[float]) -> None:
    np.testing.assert_allclose(histogram(target, -1.0, 2.0, 3), expected, atol=2e-5)


@settings(deadline=None, max_examples=50)
@given(st.floats(-30.0, 30.0, width=32), st.sampled_from([(-10.0, 10.0), (0.0, 100.0)]), st.integers(2, 101))
def test_histogram_is_the_mass_of_a_normal_distribution_between_edges(
    target: float, ends: tuple[float, float], bins: int
) -> None:
    edges = np.linspace(*ends, bins + 1)
    normal = statistics.NormalDist(float(np.clip(target, *ends)), 0.75 * (ends[1] - ends[0]) / bins)
    below = np.array([normal.cdf(edge) for edge in edges])
    found = histogram(target, *ends, bins)
    np.testing.assert_allclose(found, np.diff(below) / (below[-1] - below[0]), atol=1e-5)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("target", [-7.0, 0.03, 0.2, 6.9])
def test_the_mean_of_a_target_within_the_ends_is_the_target(target: float) -> None:
    edges = hl_gauss.edges(-10.0, 10.0, 51)
    logits = tf.math.log(histogram(target, -10.0, 10.0, 51) + 1e-30)[tf.newaxis, tf.newaxis]
    assert hl_gauss.mean(logits, edges).numpy()[0, 0] == pytest.approx(target, abs=1e-3)


def test_a_support_without_width_is_refused_where_it_is_used() -> None:
    with pytest.raises(ValueError, match="v_min=3 must be below v_max=3"):
        DqnConfig(hl_gauss=True, v_min=3.0, v_max=3.0)
    assert DqnConfig(v_min=3.0, v_max=3.0).v_min == 3.0
