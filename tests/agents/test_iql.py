"""Implicit Q-learning: hand-worked numbers, its fixed point on a bandit, and what acts."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import experience, scores
from tf_agents.trajectories import Trajectory

import agents
from agents import ArraySpec, IqlConfig, Specs, iql

VECTOR = Specs(ArraySpec((4,), "float32"), 3, masked=True)
ONE_STATE = Specs(ArraySpec((), "int32", (0,)), 4)


def test_expectile_loss_by_hand() -> None:
    loss = iql.expectile_loss(tf.constant([2.0, -2.0, 0.0]), 0.75)
    np.testing.assert_allclose(loss, [0.75 * 4.0, 0.25 * 4.0, 0.0])


def test_imitation_loss_by_hand() -> None:
    # exp(2 * 0.5) times the likelihood; exp(2 * 5) is cut to 100; an advantage of 0 is plain imitation.
    loss = iql.imitation_loss(tf.constant([-0.25, -1.0, -3.0]), tf.constant([0.5, 5.0, 0.0]), 2.0)
    np.testing.assert_allclose(loss, [0.25 * np.e, 100.0, 3.0], rtol=1e-6)


def expectile_of(values: list[float], tau: float) -> float:
    """By bisection: tau times the mean excess is 1 - tau times the mean shortfall."""
    low, high = min(values), max(values)
    for _ in range(60):
        middle = 0.5 * (low + high)
        balance = sum(tau * (v - middle) if v > middle else (1.0 - tau) * (v - middle) for v in values)
        low, high = (middle, high) if balance > 0.0 else (low, middle)
    return low


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5.0, 5.0, width=16), min_size=1, max_size=5), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_expectile_minimises_its_loss(values: list[float], tau: float) -> None:
    found = expectile_of(values, tau)

    def mean_loss(at: float) -> float:
        return float(tf.reduce_mean(iql.expectile_loss(tf.constant(values, tf.float32) - at, tau)))

    assert all(mean_loss(found) <= mean_loss(found + step) + 1e-5 for step in (-0.1, 0.1))
    if tau == 0.5:
        assert found == pytest.approx(np.mean(values), abs=1e-5)


def pulls(actions: list[int], rewards: list[float]) -> Trajectory:
    """One step and the end of an episode in the only state there is."""
    shape = (len(actions), 2)
    pair = np.zeros(shape, np.float32)
    pair[:, 0] = rewards
    return Trajectory(
        step_type=tf.constant([[0, 2]] * len(actions), tf.int32),
        observation=tf.zeros(shape, tf.int32),
        action=tf.constant([[action, 0] for action in actions], tf.int64),
        policy_info=(),
        next_step_type=tf.constant([[2, 0]] * len(actions), tf.int32),
        reward=tf.constant(pair),
        discount=tf.zeros(shape),
    )


@pytest.mark.parametrize(("extraction", "tau"), [("weighted", 0.9), ("greedy", 0.7)])
def test_it_learns_its_fixed_point_of_the_actions_that_the_data_has(extraction: str, tau: float) -> None:
    config = IqlConfig(
        hidden_units=(),
        learning_rate=0.02,
        extraction=extraction,
        expectile=tau,
        target_update_tau=0.1,
        inverse_temperature=2.0,
    )
    agent = agents.build("iql", ONE_STATE, config)
    data = pulls([0, 0, 0, 1], [0.0, 0.0, 0.0, 1.0])  # actions 2 and 3 are never taken
    train = tf.function(agent.train, autograph=False)
    for _ in range(1_200):
        train(data)
    raw = agent._q_network.raw(tf.zeros((1,), tf.int32)).numpy()[0]
    np.testing.assert_allclose(raw[:2], [0.0, 1.0], atol=0.02)
    value = expectile_of([0.0, 0.0, 0.0, 1.0], tau)
    assert raw[4] == pytest.approx(value, abs=0.02)
    acting = scores(agent, tf.zeros((1,), tf.int32)).numpy()[0]
    if extraction == "greedy":
        np.testing.assert_array_equal(acting, raw[:4])
        return
    # The policy of the data, 3 to 1, weighted by exp(2 A): 3 exp(-2 V) to exp(2 (1 - V)).
    odds = np.exp(2.0) / 3.0
    assert np.exp(acting[1] - acting[0]) == pytest.approx(odds, rel=0.1)
    assert max(acting[2:]) < acting[:2].min() - 1.5


def test_a_policy_and_q_values_start_and_learn_apart() -> None:
    agent = agents.build("iql", VECTOR, IqlConfig(hidden_units=(8,), target_update_period=1))
    before = [weight.numpy() for weight in agent.acting_model.trainable_weights]
    agent.train(experience(VECTOR, (16, 2)))
    after = agent.acting_model.trainable_weights
    assert len(after) == 4  # of the policy's tower alone: others need not be published
    assert all((new.numpy() != old).any() for new, old in zip(after, before, strict=True))
