"""Q(lambda) returns: by hand, against the recursion and against the weighted sum of n-step returns."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_returns import by_recursion

from agents.lambda_returns import q_lambda_returns

FIRST, MID, LAST = 0, 1, 2


def returns(
    step_type: Any, reward: Any, discount: Any, q: Any, gamma: float, q_lambda: float, mask: Any = None
) -> np.ndarray:
    numbers = [tf.constant(part, tf.float32) for part in (reward, discount, q)]
    allowed = None if mask is None else tf.constant(mask)
    return q_lambda_returns(tf.constant(step_type, tf.int32), *numbers, allowed, gamma, q_lambda).numpy()


def by_n_step_returns(
    step_type: Any, reward: Any, discount: Any, value: Any, gamma: float, q_lambda: float, t: int
) -> float:
    """(1 - lambda) sum_n lambda^(n-1) G^(n), the last one with what weight is left (Sutton and Barto 2018, 12.3)."""
    total, rewards, scale, weight = 0.0, 0.0, 1.0, 1.0
    for s in range(t, len(reward) - 1):
        rewards += scale * reward[s]
        scale *= gamma * discount[s]
        longest = s + 1 == len(reward) - 1 or step_type[s + 1] == LAST
        share = weight if longest else (1.0 - q_lambda) * weight
        total += share * (rewards + scale * value[s + 1])
        weight *= q_lambda
        if longest:
            break
    return total


def test_by_hand() -> None:
    # max_a Q is 2, 4, 6. G_1 = 3 + 0.5 * 6; G_0 = 1 + 0.5 * (0.5 * G_1 + 0.5 * 4).
    q = [[[2.0, 1.0], [0.0, 4.0], [6.0, -9.0]]]
    np.testing.assert_allclose(returns([[FIRST, MID, MID]], [[1, 3, 99]], [[1, 1, 1]], q, 0.5, 0.5), [[3.5, 6.0]])


def test_a_termination_bootstraps_from_nothing_and_a_truncation_from_its_last_frame() -> None:
    step_type, reward = [[MID, MID, LAST, FIRST, MID]], [[1, 3, 77, 5, 99]]
    q = np.array([[[2], [4], [6], [8], [10]]])
    # Terminated: G_1 = 3, G_0 = 1 + 0.5 * (0.5 * 3 + 0.5 * 4). The next episode's G_3 = 5 + 0.5 * 10.
    ended = returns(step_type, reward, [[1, 0, 1, 1, 1]], q, 0.5, 0.5)
    np.testing.assert_allclose(ended[0, [0, 1, 3]], [2.75, 3.0, 10.0])
    # Truncated: G_1 = 3 + 0.5 * 6, G_0 = 1 + 0.5 * (0.5 * 6 + 0.5 * 4).
    cut = returns(step_type, reward, [[1, 1, 1, 1, 1]], q, 0.5, 0.5)
    np.testing.assert_allclose(cut[0, [0, 1, 3]], [3.5, 6.0, 10.0])


def test_the_maximum_is_over_the_allowed_actions() -> None:
    q, mask = [[[9.0, 1.0], [9.0, 2.0]]], [[[True, True], [False, True]]]
    np.testing.assert_allclose(returns([[MID, MID]], [[1, 0]], [[1, 1]], q, 0.5, 0.65, mask), [[1.0 + 0.5 * 2.0]])
    # After a termination nothing may be allowed any more: the lowest float that stands for it counts nowhere.
    ended = returns([[MID, LAST]], [[1, 0]], [[0, 1]], q, 0.5, 0.65, [[[True, True], [False, False]]])
    np.testing.assert_allclose(ended, [[1.0]])


def test_lambda_0_is_the_one_step_target_and_lambda_1_the_return_to_the_end() -> None:
    step_type, ones, reward = [[MID] * 4], [[1] * 4], [[1, 2, 4, 99]]
    q = np.array([[[3], [5], [7], [16]]])
    np.testing.assert_allclose(returns(step_type, reward, ones, q, 0.5, 0.0), [[3.5, 5.5, 12.0]])
    np.testing.assert_allclose(returns(step_type, reward, ones, q, 0.5, 1.0), [[5.0, 8.0, 12.0]])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), length=st.integers(2, 9), gamma=st.floats(0.0, 1.0), q_lambda=st.floats(0.0, 1.0))
def test_the_recursion_and_the_sum_of_n_step_returns_agree(
    seed: int, length: int, gamma: float, q_lambda: float
) -> None:
    random = np.random.default_rng(seed)
    shape = (3, 9)  # one shape for all lengths: windows are cut below, and TensorFlow builds one set of kernels
    step_type = random.choice([FIRST, MID, LAST], shape, p=[0.1, 0.7, 0.2])[:, :length]
    reward, discount = random.normal(size=shape)[:, :length], (random.random(shape) < 0.8)[:, :length] * 1.0
    q = random.normal(size=(*shape, 2))[:, :length]
    found, value = returns(step_type, reward, discount, q, gamma, q_lambda), q.max(axis=2)
    for b in range(3):
        window = step_type[b], reward[b], discount[b], value[b], gamma, q_lambda
        learned = step_type[b, :-1] != LAST
        np.testing.assert_allclose(found[b][learned], by_recursion(*window)[learned], atol=1e-4)
        summed = [by_n_step_returns(*window, t) for t in np.flatnonzero(learned)]
        np.testing.assert_allclose(found[b][learned], summed, atol=1e-4)


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_values_of_the_optimal_policy_are_their_own_returns(q_lambda: float) -> None:
    # A corridor of four steps with reward 1 at its end: Q* = gamma^(steps left - 1). Nothing is left to learn.
    value = np.array([0.9**3, 0.9**2, 0.9, 1.0, 0.0])
    found = returns([[MID] * 4 + [LAST]], [[0, 0, 0, 1, 0]], [[1, 1, 1, 0, 1]], value[None, :, None], 0.9, q_lambda)
    np.testing.assert_allclose(found[0], value[:-1], rtol=1e-6)
