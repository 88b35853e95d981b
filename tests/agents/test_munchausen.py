"""Munchausen's targets: hand-worked numbers, and slow obvious references in float64 under hypothesis."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_values import HALF_LN_3, TEMPERATURES, log_policy, masked_q_values, rows_of, tensors_of

from agents import DqnConfig, munchausen


def settings_of(floor: float) -> DqnConfig:
    return DqnConfig(double=False, munchausen_scale=0.9, munchausen_floor=floor)


@pytest.mark.parametrize(
    ("action", "floor", "expected"),
    [
        # The policy is [1/4, 3/4] over the allowed, at temperature 1/2; the scale is 0.9.
        (0, -1.0, 0.9 * 0.5 * math.log(0.25)),
        (1, -1.0, 0.9 * 0.5 * math.log(0.75)),
        (0, -0.5, 0.9 * -0.5),  # 0.5 ln 0.25 = -0.69 is below the floor
        (1, -0.5, 0.9 * 0.5 * math.log(0.75)),
        (0, 0.0, 0.0),
        (2, -1.0, 0.9 * -1.0),  # forbidden: the floor
    ],
)
def test_bonus_by_hand(action: int, floor: float, expected: float) -> None:
    q, mask = tf.constant([[0.0, HALF_LN_3, 7.0]]), tf.constant([[True, True, False]])
    bonus = munchausen.bonus(q, mask, tf.constant([action]), settings_of(floor), 0.5)
    np.testing.assert_allclose(bonus, [expected], rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(masked_q_values(), st.sampled_from(TEMPERATURES), st.sampled_from([-5.0, -1.0, 0.0]))
def test_bonus_is_the_scaled_clipped_log_policy(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray], temperature: float, floor: float
) -> None:
    q, mask, action = drawn
    bonus = munchausen.bonus(*tensors_of(q, mask), tf.constant(action), settings_of(floor), temperature)
    expected = [
        0.9 * max(temperature * log_policy(row, temperature)[taken], floor)
        for row, taken in zip(rows_of(q, mask), action.tolist(), strict=True)
    ]
    np.testing.assert_allclose(bonus, expected, rtol=1e-5, atol=1e-4)


def test_bonus_of_large_q_values_is_finite() -> None:
    bonus = munchausen.bonus(tf.constant([[1e4, -1e4]] * 2), None, tf.constant([0, 1]), settings_of(-1.0), 0.03)
    np.testing.assert_allclose(bonus, [0.0, -0.9], rtol=1e-6)


def test_soft_value_by_hand() -> None:
    # By the definition: 1/4 (0 - 0.5 ln 1/4) + 3/4 (0.5 ln 3 - 0.5 ln 3/4) = 0.5 ln 4.
    q, mask = tf.constant([[0.0, HALF_LN_3, 7.0]]), tf.constant([[True, True, False]])
    np.testing.assert_allclose(munchausen.soft_value(q, mask, 0.5), [0.5 * math.log(4.0)], rtol=1e-6)


@settings(deadline=None, max_examples=100)
@given(masked_q_values(), st.sampled_from(TEMPERATURES))
def test_soft_value_is_the_mean_of_q_less_the_scaled_log_policy(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray], temperature: float
) -> None:
    q, mask, _ = drawn
    expected = []
    for row in rows_of(q, mask):
        logarithms = log_policy(row, temperature)
        terms = [math.exp(logarithms[a]) * (value - temperature * logarithms[a]) for a, value in row.items()]
        expected.append(math.fsum(terms))
    value = munchausen.soft_value(*tensors_of(q, mask), temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(masked_q_values())
def test_soft_value_approaches_the_maximum_as_it_cools(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray],
) -> None:
    q, mask, _ = drawn
    value = munchausen.soft_value(*tensors_of(q, mask), 1e-5)
    np.testing.assert_allclose(value, [max(row.values()) for row in rows_of(q, mask)], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("temperature", [1e-3, 0.03, 1.0])
def test_soft_value_of_large_q_values_does_not_overflow(temperature: float) -> None:
    q = tf.constant([[1e4, -1e4, 2e4], [-1e4, -1e4, -3e4]])
    mask = tf.constant([[True, True, False], [True, True, True]])
    value = munchausen.soft_value(q, mask, temperature)
    np.testing.assert_allclose(value, [1e4, -1e4 + temperature * math.log(2.0)], rtol=1e-6)


def test_soft_quantiles_by_hand() -> None:
    # The policy is [1/4, 3/4]; tau log pi is 0.5 ln 1/4 and 0.5 ln 3/4, whose mean is -0.2812.
    q, mask = tf.constant([[0.0, HALF_LN_3, 7.0]]), tf.constant([[True, True, False]])
    quantiles = tf.constant([[[-4.0, 4.0], [0.0, 8.0], [1e3, 1e3]]])
    entropy = -0.5 * (0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    expected = [[0.25 * -4.0 + entropy, 0.25 * 4.0 + 0.75 * 8.0 + entropy]]
    np.testing.assert_allclose(munchausen.soft_quantiles(quantiles, q, mask, 0.5), expected, rtol=1e-6)


def test_soft_atoms_by_hand() -> None:
    # Means of [0, ln 3] / 2 make the policy [1/4, 3/4] at a temperature of a half; the third action is forbidden.
    share = 0.5 * HALF_LN_3  # of an atom at 2
    probabilities = tf.constant([[[1.0, 0.0], [1.0 - share, share], [0.0, 1.0]]])
    mask = tf.constant([[True, True, False]])
    atoms, mixed = munchausen.soft_atoms(tf.constant([0.0, 2.0]), probabilities, mask, 0.5)
    shifts = [-0.5 * math.log(0.25), -0.5 * math.log(0.75)]
    np.testing.assert_allclose(atoms, [[shifts[0], 2.0 + shifts[0], shifts[1], 2.0 + shifts[1], 0.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(mixed, [[0.25, 0.0, 0.75 * (1.0 - share), 0.75 * share, 0.0, 0.0]], rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(masked_q_values(), st.sampled_from(TEMPERATURES), st.integers(1, 4))
def test_soft_distributions_have_the_mean_of_the_soft_value(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray], temperature: float, points: int
) -> None:
    q, mask, action = drawn
    spread = np.random.default_rng(int(action.sum())).normal(size=(*q.shape, points)).astype(np.float32)
    spread -= spread.mean(axis=2, keepdims=True)
    value = munchausen.soft_value(*tensors_of(q, mask), temperature)
    quantiles = munchausen.soft_quantiles(tf.constant(q[:, :, np.newaxis] + spread), *tensors_of(q, mask), temperature)
    np.testing.assert_allclose(tf.reduce_mean(quantiles, axis=1), value, rtol=1e-4, atol=1e-3)
    support = tf.constant([-50.0, 50.0])
    upper = (q + 50.0) / 100.0
    probabilities = tf.constant(np.stack([1.0 - upper, upper], axis=2))
    atoms, mixed = munchausen.soft_atoms(support, probabilities, tensors_of(q, mask)[1], temperature)
    # The mean of two atoms 100 apart is rounded: at the lowest temperature the policy feels it.
    np.testing.assert_allclose(tf.reduce_sum(mixed, axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(tf.reduce_sum(atoms * mixed, axis=1), value, rtol=1e-3, atol=5e-3)
