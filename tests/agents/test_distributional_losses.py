"""The pure functions behind distributions, soft policies, conservative penalties and priorities.

Hand-worked numbers, and slow obvious references in float64 under hypothesis.
"""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from masked_values import (
    HALF_LN_3,
    TEMPERATURES,
    log_of_sum_of_exponentials,
    log_policy,
    masked_q_values,
    rows_of,
    tensors_of,
)

from agents import distributional_losses, importance, losses, noisy, policy_losses

LOWEST = np.finfo(np.float32).min


def floats(shape: tuple[int, ...], low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, shape, elements=st.floats(low, high, width=32))


@st.composite
def distributions(draw: st.DrawFn, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms [B, N] between two bounds and their probabilities [B, N]."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    shares = draw(arrays(np.int64, shape, elements=st.integers(0, 9)))
    shares[:, 0] += 1
    return draw(floats(shape, low, high)), (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


@st.composite
def supports(draw: st.DrawFn) -> np.ndarray:
    """Evenly spaced points within [-8, 22], exact in float32: an atom may well lie on one of them."""
    step = draw(st.sampled_from([0.125, 0.5, 1.0, 2.0]))
    return np.float32(draw(st.integers(-8, 8)) + step * np.arange(draw(st.integers(2, 8))))


def algorithm_1(support: np.ndarray, atoms: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Bellemare et al. 2017, algorithm 1, for one example, but for what it loses of an atom on the support."""
    projected = np.zeros(len(support))
    low, high, step = float(support[0]), float(support[-1]), float(support[1]) - float(support[0])
    for atom, probability in zip(atoms.tolist(), probabilities.tolist(), strict=True):
        position = (min(max(atom, low), high) - low) / step
        lower, upper = math.floor(position), math.ceil(position)
        if lower == upper:
            projected[lower] += probability
        else:
            projected[lower] += probability * (upper - position)
            projected[upper] += probability * (position - lower)
    return projected


def project(support: np.ndarray, atoms: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return distributional_losses.project(tf.constant(support), tf.constant(atoms), tf.constant(probabilities)).numpy()


@pytest.mark.parametrize(
    ("atoms", "probabilities", "projected"),
    [
        # The support is [-1, 0, 1, 2]. Atoms on it keep their mass, in whatever order they come.
        ([2.0, -1.0, 1.0], [0.5, 0.25, 0.25], [0.25, 0.0, 0.25, 0.5]),
        # A quarter of the way from 0 to 1: three quarters stay at 0.
        ([0.25], [1.0], [0.0, 0.75, 0.25, 0.0]),
        # Two atoms between the same points: 0.5 * (0.75, 0.25) + 0.5 * (0.5, 0.5).
        ([0.25, 0.5], [0.5, 0.5], [0.0, 0.625, 0.375, 0.0]),
        # Beyond the ends everything goes to the ends, however far.
        ([-1.5, -1e6, 2.25, 1e6], [0.125, 0.25, 0.5, 0.125], [0.375, 0.0, 0.0, 0.625]),
        # A termination puts every atom on the reward.
        ([1.5, 1.5, 1.5], [0.25, 0.25, 0.5], [0.0, 0.0, 0.5, 0.5]),
        # What is impossible adds nothing.
        ([0.0, 1.75], [1.0, 0.0], [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_projection_by_hand(atoms: list[float], probabilities: list[float], projected: list[float]) -> None:
    result = project(np.float32([-1, 0, 1, 2]), np.float32([atoms]), np.float32([probabilities]))
    np.testing.assert_array_equal(result, [projected])


@settings(deadline=None, max_examples=100)
@given(supports(), distributions(-12.0, 26.0))
def test_projection_is_algorithm_1_and_conserves_mass(
    support: np.ndarray, distribution: tuple[np.ndarray, np.ndarray]
) -> None:
    atoms, probabilities = distribution
    projected = project(support, atoms, probabilities)
    expected = [algorithm_1(support, *row) for row in zip(atoms, probabilities, strict=True)]
    np.testing.assert_allclose(projected, expected, atol=1e-5)
    np.testing.assert_allclose(projected.sum(axis=1), 1.0, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 101), distributions(-10.0, 10.0))
def test_projection_within_the_support_preserves_the_mean(
    points: int, distribution: tuple[np.ndarray, np.ndarray]
) -> None:
    atoms, probabilities = distribution
    support = tf.linspace(-10.0, 10.0, points).numpy()  # as the agents make it: steps are not exact in float32
    projected = project(support, atoms, probabilities)
    np.testing.assert_allclose(projected.sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_allclose(projected @ support, (probabilities * atoms).sum(axis=1), atol=1e-3)


@pytest.mark.parametrize(
    ("kappa", "expected"),
    [
        # Quantiles 1 at fraction 1/4 and 4 at 3/4, targets 2 and 0. The errors are 1, -1 and -2, -4, weighed by
        # 1/4, 3/4 and 1/4, 1/4. With kappa 1 Huber's loss is 0.5, 0.5 and 1.5, 3.5:
        # mean(0.125, 0.375) + mean(0.375, 0.875).
        (1.0, 0.25 + 0.625),
        # With kappa 2 it is 0.5, 0.5 and 2, 6, divided by 2: mean(0.0625, 0.1875) + mean(0.25, 0.75).
        (2.0, 0.125 + 0.5),
    ],
)
def test_quantile_huber_loss_by_hand(kappa: float, expected: float) -> None:
    quantiles, targets = tf.constant([[1.0, 4.0]]), tf.constant([[2.0, 0.0]])
    loss = distributional_losses.quantile_huber_loss(quantiles, tf.constant([0.25, 0.75]), targets, kappa)
    np.testing.assert_array_equal(loss, [expected])


def quantile_huber_by_loops(
    quantiles: np.ndarray, fractions: np.ndarray, targets: np.ndarray, kappa: float
) -> list[float]:
    total = []
    for example in range(len(quantiles)):
        loss = 0.0
        for quantile, fraction in zip(quantiles[example].tolist(), fractions[example].tolist(), strict=True):
            for target in targets[example].tolist():
                error = target - quantile
                size = abs(error)
                huber = 0.5 * error * error if size <= kappa else kappa * (size - 0.5 * kappa)
                loss += (1.0 - fraction if error < 0 else fraction) * huber / kappa / targets.shape[1]
        total.append(loss)
    return total


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.01, 1.0, 3.0]))
def test_quantile_huber_loss_is_that_of_a_triple_loop(
    data: st.DataObject, batch: int, learned: int, bootstrapped: int, kappa: float
) -> None:
    quantiles = data.draw(floats((batch, learned), -10.0, 10.0))
    targets = data.draw(floats((batch, bootstrapped), -10.0, 10.0))
    own = data.draw(floats((batch, learned), 0.0, 1.0))
    shared = own[0]
    for fractions, of_each in ((own, own), (shared, np.tile(shared, (batch, 1)))):
        loss = distributional_losses.quantile_huber_loss(*map(tf.constant, (quantiles, fractions, targets)), kappa)
        expected = quantile_huber_by_loops(quantiles, of_each, targets, kappa)
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5, 0.85])
def test_the_minimiser_is_the_quantile_for_a_tiny_kappa(fraction: float) -> None:
    targets = np.random.default_rng(0).permutation(np.float32([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]))
    grid = np.arange(-5.0, 95.0, 0.25, dtype=np.float32)[:, np.newaxis]
    every = np.tile(targets, (len(grid), 1))
    loss = distributional_losses.quantile_huber_loss(*map(tf.constant, (grid, np.float32([fraction]), every)), 1e-3)
    assert grid[np.argmin(loss), 0] == np.quantile(targets, fraction, method="inverted_cdf")


def test_the_minimiser_at_one_half_is_the_mean_for_a_huge_kappa() -> None:
    targets = np.float32([0, 1, 2, 13])
    grid = np.arange(-5.0, 15.0, 0.25, dtype=np.float32)[:, np.newaxis]
    loss = distributional_losses.quantile_huber_loss(
        tf.constant(grid), tf.constant([0.5]), tf.constant(np.tile(targets, (len(grid), 1))), 100.0
    )
    assert grid[np.argmin(loss), 0] == 4.0


def test_of_action_takes_the_numbers_of_each_action() -> None:
    values = tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]])
    np.testing.assert_array_equal(
        distributional_losses.of_action(values, tf.constant([2, 0])), [[5.0, 6.0], [10.0, 20.0]]
    )


def test_soft_policy_by_hand() -> None:
    q, mask = tf.constant([[0.0, HALF_LN_3, 7.0]]), tf.constant([[True, True, False]])
    policy, scaled_logarithm = policy_losses.soft_policy(q, mask, 0.5)
    np.testing.assert_allclose(policy, [[0.25, 0.75, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(scaled_logarithm, [[0.5 * math.log(0.25), 0.5 * math.log(0.75), LOWEST]], rtol=1e-6)


@settings(deadline=None, max_examples=100)
@given(masked_q_values(), st.sampled_from(TEMPERATURES))
def test_soft_policy_is_the_softmax_over_allowed_actions(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray], temperature: float
) -> None:
    q, mask, _ = drawn
    policy, scaled_logarithm = (part.numpy() for part in policy_losses.soft_policy(*tensors_of(q, mask), temperature))
    for i, row in enumerate(rows_of(q, mask)):
        expected = log_policy(row, temperature)
        for action in range(q.shape[1]):
            if action in row:
                # float32 knows q / temperature, here up to 1667, to 1e-4.
                assert policy[i, action] == pytest.approx(math.exp(expected[action]), rel=1e-3, abs=1e-6)
                assert scaled_logarithm[i, action] == pytest.approx(temperature * expected[action], rel=1e-5, abs=1e-4)
            else:
                assert policy[i, action] == 0.0
                assert scaled_logarithm[i, action] == LOWEST


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_soft_policy_of_large_q_values_does_not_overflow(temperature: float) -> None:
    q = tf.constant([[1e4, -1e4, 5e3], [-1e4, -1e4, -1e4], [1e30, -1e30, 0.0]])
    mask = tf.constant([[True, True, True], [True, False, True], [True, True, True]])
    policy, scaled_logarithm = policy_losses.soft_policy(q, mask, temperature)
    np.testing.assert_allclose(policy, [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    half = -temperature * math.log(2.0)
    np.testing.assert_allclose(
        scaled_logarithm, [[0.0, -2e4, -5e3], [half, LOWEST, half], [0.0, -2e30, -1e30]], rtol=1e-6
    )


def test_conservative_penalty_by_hand() -> None:
    # ln(1 + 3) less the action's own; the action that is forbidden does not count, or it would be all.
    q, mask = tf.constant([[0.0, math.log(3.0), 100.0]] * 2), tf.constant([[True, True, False]] * 2)
    penalty = losses.conservative_penalty(q, mask, tf.constant([0, 1]))
    np.testing.assert_allclose(penalty, [math.log(4.0), math.log(4.0 / 3.0)], rtol=1e-5)
    np.testing.assert_allclose(losses.conservative_penalty(q, None, tf.constant([0, 2])), [100.0, 0.0], rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(masked_q_values())
def test_conservative_penalty_is_the_log_of_the_sum_less_the_actions_own(
    drawn: tuple[np.ndarray, np.ndarray | None, np.ndarray],
) -> None:
    q, mask, action = drawn
    expected = [
        log_of_sum_of_exponentials(row.values()) - row[taken]
        for row, taken in zip(rows_of(q, mask), action.tolist(), strict=True)
    ]
    penalty = losses.conservative_penalty(*tensors_of(q, mask), tf.constant(action))
    np.testing.assert_allclose(penalty, expected, rtol=1e-5, atol=2e-5)


def test_conservative_penalty_of_large_q_values_does_not_overflow() -> None:
    penalty = losses.conservative_penalty(tf.constant([[1e4, -1e4]] * 2), None, tf.constant([0, 1]))
    np.testing.assert_allclose(penalty, [0.0, 2e4])


def test_conservative_penalty_lowers_the_actions_that_the_data_lacks() -> None:
    # The gradient is the softmax, [1/4, 3/4] over the allowed, less 1 for the action of the data.
    q = tf.constant([[0.0, math.log(3.0), 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(q)
        penalty = losses.conservative_penalty(q, tf.constant([[True, True, False]]), tf.constant([0]))
    np.testing.assert_allclose(tape.gradient(penalty, q), [[0.25 - 1.0, 0.75, 0.0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        # N P is [1, 4, 1/4]: to the power of -1/2 it is [1, 1/2, 2], and 2 is the largest.
        (0.5, [0.5, 0.25, 1.0]),
        (1.0, [0.25, 0.0625, 1.0]),
        (0.0, [1.0, 1.0, 1.0]),
    ],
)
def test_importance_weights_by_hand(exponent: float, expected: list[float]) -> None:
    weights = importance.weights_of(tf.constant([1.0, 4.0, 0.25]), tf.constant(exponent), tf.fill(3, True))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.4, 1.0])
def test_a_window_that_nothing_is_learned_from_leaves_the_weights_of_the_others(exponent: float) -> None:
    learned = tf.constant([True, True, False, True])
    weights = importance.weights_of(tf.constant([1.0, 4.0, 1e-6, 0.25]), tf.constant(exponent), learned)
    np.testing.assert_allclose(weights, [4.0**-exponent, 16.0**-exponent, 0.0, 1.0], rtol=1e-6)


def test_a_batch_that_nothing_is_learned_from_has_weights_of_zero() -> None:
    weights = importance.weights_of(tf.constant([1.0, 1e-6]), tf.constant(1.0), tf.fill(2, False))
    np.testing.assert_array_equal(weights, [0.0, 0.0])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=8), st.floats(0.0, 1.0, width=32))
def test_importance_weights_are_schauls(relative: list[float], exponent: float) -> None:
    powers = [probability**-exponent for probability in relative]
    weights = importance.weights_of(tf.constant(relative), tf.constant(exponent), tf.fill(len(relative), True))
    np.testing.assert_allclose(weights, [power / max(powers) for power in powers], rtol=2e-5)
    assert weights.numpy().max() == 1.0


@pytest.mark.parametrize(
    ("initial", "final", "steps", "count", "expected"),
    [
        (1.0, 0.2, 4, 0, 1.0),
        (1.0, 0.2, 4, 1, 0.8),
        (1.0, 0.2, 4, 3, 0.4),
        (1.0, 0.2, 4, 4, 0.2),
        (1.0, 0.2, 4, 1_000, 0.2),
        (0.4, 1.0, 2, 1, 0.7),  # upwards, as importance sampling's beta goes
        (0.4, 1.0, 2, 3, 1.0),
        (1.0, 0.2, 0, 0, 1.0),
        (1.0, 0.2, 0, 1_000, 1.0),
    ],
)
def test_linear_schedule_by_hand(initial: float, final: float, steps: int, count: int, expected: float) -> None:
    value = losses.linear_schedule(initial, final, steps, tf.constant(count, tf.int64))
    assert value.dtype == tf.float32
    assert value.numpy() == pytest.approx(expected, rel=1e-6)


def test_scaled_noise_is_the_root_with_the_sign() -> None:
    np.testing.assert_array_equal(noisy.scaled_noise(tf.constant([-4.0, 0.0, 0.25, 9.0])), [-2.0, 0.0, 0.5, 3.0])
