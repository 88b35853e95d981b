"""Behaviour cloning: the cross-entropy by hand and against a slow loop, and that it learns what it is shown."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import VECTOR, experience, scores
from tf_agents.trajectories import Trajectory, time_step

import agents
from agents import ArraySpec, BehaviourCloningConfig, Specs

FIRST, MID, LAST = 0, 1, 2
PLAIN = Specs(ArraySpec((), "int32", (1,)), 2)


def frames(states: list[int], actions: list[int], step_type: list[int]) -> Trajectory:
    """One frame an example."""
    column = [[[value] for value in values] for values in (states, actions, step_type)]
    zeros = tf.zeros((len(states), 1))
    return Trajectory(
        step_type=tf.constant(column[2], tf.int32),
        observation=tf.constant(column[0], tf.int32),
        action=tf.constant(column[1], tf.int64),
        policy_info=(),
        next_step_type=tf.ones((len(states), 1), tf.int32),
        reward=zeros,
        discount=zeros,
    )


def with_bias(agent: Any, bias: list[float]) -> Any:
    """The agent with logits that are this bias in every state."""
    *others, last = agent.acting_model.get_weights()
    agent.acting_model.set_weights([*map(np.zeros_like, others), np.array(bias, last.dtype)])
    return agent


def test_the_loss_by_hand() -> None:
    # pi = (1/4, 3/4); an episode's end teaches nothing, and is counted in the mean.
    agent = with_bias(agents.build("behaviour_cloning", PLAIN, BehaviourCloningConfig()), [0.0, np.log(3.0)])
    info = agent.loss(frames([0, 1, 0, 1], [0, 1, 0, 0], [FIRST, MID, LAST, MID]))
    np.testing.assert_allclose(info.extra.td_error, [np.log(4), np.log(4 / 3), 0.0, np.log(4)], rtol=1e-5)
    np.testing.assert_allclose(info.loss, (2 * np.log(4) + np.log(4 / 3)) / 4, rtol=1e-5)


def test_the_loss_equals_a_slow_loop_with_masks_and_weights() -> None:
    agent = agents.build("behaviour_cloning", VECTOR, BehaviourCloningConfig(), seed=2)
    seen = experience(VECTOR, (200, 1), seed=5)
    weights = np.random.default_rng(0).uniform(0.1, 2.0, 200)
    observation, mask = (leaf.numpy()[:, 0] for leaf in seen.observation)
    logits, expected = scores(agent, tf.constant(observation)).numpy().astype(np.float64), np.zeros(200)
    for i in range(200):
        action = int(seen.action[i, 0])
        if seen.step_type[i, 0] == LAST or not mask[i, action]:
            continue
        allowed = np.exp(logits[i][mask[i]]).sum()
        expected[i] = -np.log(np.exp(logits[i, action]) / allowed)
    info = agent.loss(seen, weights=tf.constant(weights, tf.float32))
    assert 0.2 < (expected > 0).mean() < 0.8
    np.testing.assert_allclose(info.extra.td_error, expected, atol=1e-5)
    np.testing.assert_allclose(info.loss, (weights * expected).mean(), rtol=1e-5)


def test_it_learns_the_shares_of_the_actions_in_each_state() -> None:
    config = BehaviourCloningConfig(learning_rate=0.05, gradient_clip_norm=0.0)
    agent = agents.build("behaviour_cloning", PLAIN, config)
    shown = frames([0] * 4 + [1] * 4, [0, 0, 0, 1, 1, 1, 1, 1], [MID] * 8)  # 3 of 4 in state 0, all in state 1
    train = tf.function(agent.train, autograph=False)
    for _ in range(300):
        train(shown)
    policy = tf.nn.softmax(scores(agent, tf.constant([0, 1], tf.int32))).numpy()
    np.testing.assert_allclose(policy[0], [0.75, 0.25], atol=0.02)
    assert policy[1, 1] > 0.98
    step = time_step.restart(tf.constant([0, 1], tf.int32), 2)
    assert agent.policy.action(step).action.numpy().tolist() == [0, 1]
    drawn = np.concatenate([agent.collect_policy.action(step).action.numpy()[:1] for _ in range(200)])
    assert 0.6 < (drawn == 0).mean() < 0.9


def test_longer_windows_are_refused() -> None:
    agent = agents.build("behaviour_cloning", VECTOR, BehaviourCloningConfig())
    with pytest.raises(ValueError, match="single frames"):
        agent.loss(experience(VECTOR, (3, 2)))
