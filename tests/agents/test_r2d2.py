"""The recurrent agent against a slow reference that steps through each sequence frame by frame."""

from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from kinds import VECTOR, config_of, experience

import agents
from agents import R2d2Config, rescaling

FIRST, MID, LAST = 0, 1, 2
BATCH = 6


@given(st.floats(-1e4, 1e4))
def test_rescaling_is_undone(value: float) -> None:
    there = rescaling.rescale(tf.constant(value, tf.float32))
    assert abs(there.numpy()) <= abs(value) + 1e-6
    np.testing.assert_allclose(rescaling.unrescale(there), value, rtol=5e-3, atol=1e-3)


def test_rescaling_by_hand() -> None:
    values = tf.constant([0.0, 3.0, -8.0])
    np.testing.assert_allclose(rescaling.rescale(values), [0.0, 1.003, -2.008], rtol=1e-6)


def make(**changes: Any) -> Any:
    """An agent whose target network differs from the online one."""
    config = msgspec.structs.replace(config_of("r2d2"), **changes)
    agent = agents.build("r2d2", VECTOR, config, seed=1)
    other = agents.build("r2d2", VECTOR, config, seed=2)
    for target, weight in zip(agent._target_q_network.variables, other._q_network.variables, strict=True):
        target.assign(weight)
    return agent, config


def sequences(config: R2d2Config, seed: int = 0) -> Any:
    """Random sequences with boundaries anywhere, and the states that acted."""
    random = np.random.default_rng(seed)
    drawn = experience(VECTOR, (BATCH, config.window_length), seed)
    state = random.normal(size=(BATCH, config.window_length, config.state_units)).astype(np.float32)
    return drawn._replace(policy_info=tf.constant(state), reward=5.0 * drawn.reward)


def q_of_frames(network: Any, observation: Any, step_type: Any, state: Any) -> Any:
    """Q-values [T, A] of one sequence, one call of the step model a frame."""
    values = []
    for t in range(len(step_type)):
        if step_type[t] == FIRST:
            state = np.zeros_like(state)
        both = network.model([observation[t : t + 1], state[np.newaxis]]).numpy()[0]
        values.append(both[: VECTOR.num_actions])
        state = both[VECTOR.num_actions :]
    return np.array(values)


def h(x: float) -> float:
    return float(np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x)


def h_inverse(y: float) -> float:
    low, high = -1e6, 1e6
    for _ in range(200):  # h rises: halve the interval
        middle = (low + high) / 2
        low, high = (middle, high) if h(middle) < y else (low, middle)
    return low


def slow_errors(agent: Any, config: R2d2Config, drawn: Any) -> Any:
    """TD errors [B, sequence], 0 where no transition starts."""
    observation, mask = (leaf.numpy() for leaf in drawn.observation)
    step_type, action, reward, discount = (
        getattr(drawn, name).numpy() for name in ("step_type", "action", "reward", "discount")
    )
    errors = np.zeros((BATCH, config.sequence))
    for b in range(BATCH):
        state = drawn.policy_info[b, 0].numpy()
        if not config.stored_state:
            state = np.zeros_like(state)
        online = q_of_frames(agent._q_network, observation[b], step_type[b], state)
        target = q_of_frames(agent._target_q_network, observation[b], step_type[b], state)
        for j in range(config.sequence):
            t = start = config.burn_in + j
            if step_type[b, start] == LAST:
                continue
            total, product = 0.0, 1.0
            while t < start + config.n_step and step_type[b, t] != LAST:
                total += product * reward[b, t]
                product *= config.discount * discount[b, t]
                t += 1
            chooser = online if config.double else target
            value = target[t, np.where(mask[b, t], chooser[t], -np.inf).argmax()]
            rescaled = config.value_rescaling
            goal = h(total + product * h_inverse(value)) if rescaled else total + product * value
            errors[b, j] = goal - online[start, action[b, start]]
    return errors


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_step": 1, "double": False},
        {"value_rescaling": False},
        {"stored_state": False, "burn_in": 0},
        {"dueling": False, "priority_maximum_share": 0.3},
    ],
    ids=str,
)
def test_the_loss_is_that_of_stepping_through_each_sequence(changes: dict[str, Any]) -> None:
    agent, config = make(**changes)
    drawn = sequences(config)
    errors = slow_errors(agent, config, drawn)
    weights = np.random.default_rng(3).uniform(0.2, 2.0, BATCH).astype(np.float32)

    result = agent._loss(drawn, weights=tf.constant(weights))

    absolute = np.abs(errors)
    huber = np.where(absolute <= 1.0, 0.5 * errors**2, absolute - 0.5)
    np.testing.assert_allclose(result.loss, (weights * huber.mean(axis=1)).mean(), rtol=1e-3)
    np.testing.assert_allclose(result.extra.td_error, errors.mean(axis=1), rtol=1e-3, atol=1e-4)
    eta = config.priority_maximum_share
    expected = eta * absolute.max(axis=1) + (1 - eta) * absolute.mean(axis=1)
    np.testing.assert_allclose(result.extra.priority, expected, rtol=1e-3)
    assert (errors == 0.0).any(), "some frames end an episode"
    assert (absolute > 1.0).any()


def test_no_gradient_flows_into_the_burn_in() -> None:
    agent, config = make()
    drawn = sequences(config)
    drawn = drawn._replace(step_type=tf.ones_like(drawn.step_type))  # nothing resets the state
    observation, mask = drawn.observation
    with tf.GradientTape() as tape:
        tape.watch(observation)
        loss, _ = agent._loss(drawn._replace(observation=(observation, mask)), training=True)
    moved = np.abs(tape.gradient(loss, observation).numpy()).sum(axis=(0, 2))
    assert (moved[: config.burn_in] == 0.0).all()
    assert (moved[config.burn_in : config.burn_in + config.sequence] > 0.0).all()


def test_what_was_seen_before_changes_the_values_until_an_episode_begins() -> None:
    agent, config = make(burn_in=0)
    drawn = sequences(config)
    step_type = np.ones(drawn.step_type.shape, np.int32)
    step_type[:, 2] = FIRST
    states = [drawn.policy_info[:, 0], drawn.policy_info[:, 1]]
    observation, _ = drawn.observation
    one, other = (
        agent._q_network.unroll(observation, tf.constant(step_type == FIRST), state, 0).numpy() for state in states
    )
    assert (np.abs(one - other)[:, :2] > 1e-4).any(axis=2).all()
    np.testing.assert_array_equal(one[:, 2:], other[:, 2:])


def test_sequences_of_another_length_are_refused() -> None:
    agent, config = make()
    drawn = experience(VECTOR, (BATCH, config.window_length + 1))
    with pytest.raises(ValueError, match=f"need {config.window_length} frames"):
        agent._loss(drawn)
