"""PQN: its targets and losses by slow loops, its minibatches, and what it has no need of."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import VECTOR, changed, config_of, experience
from slow_returns import by_recursion

import agents
from agents import ArraySpec, PqnConfig, Specs, minibatches
from agents.optimizers import optimizer_of

FIRST, MID, LAST = 0, 1, 2
PLAIN = Specs(ArraySpec((4,), "float32"), 3)


def small(**more: Any) -> PqnConfig:
    plain = {"learning_rate_decay_steps": 0, "gradient_clip_norm": 10.0}
    return changed(config_of("pqn"), plain | more)


def unmasked(shape: tuple[int, ...], step_type: int | None = None) -> Any:
    """Experience of `PLAIN`."""
    batch = experience(PLAIN, shape)
    batch = batch._replace(observation=batch.observation[0])
    return batch if step_type is None else batch._replace(step_type=tf.fill(shape, step_type))


def weights_of(agent: Any) -> list[np.ndarray]:
    return [weight.numpy() for weight in agent.acting_model.trainable_weights]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_loss_and_figures_equal_slow_ones(loss: str) -> None:
    config = small(loss=loss, reward_clip=0.7, q_lambda=0.6)
    agent: Any = agents.build("pqn", VECTOR, config, seed=1)
    batch = experience(VECTOR, (6, 5))
    seen, mask = batch.observation
    q = agent.acting_model(tf.reshape(seen, (-1, 4))).numpy().reshape(6, 5, 3)
    value = np.where(mask, q, -np.inf).max(axis=2)
    reward = np.clip(batch.reward.numpy(), -0.7, 0.7)
    total, errors, told = 0.0, np.zeros(6), []
    for b in range(6):
        goal = by_recursion(batch.step_type[b], reward[b], batch.discount[b], value[b], config.discount, 0.6)
        for t in range(4):
            if batch.step_type[b, t] == LAST:
                continue
            error = abs(goal[t] - q[b, t, batch.action[b, t]])
            total += 0.5 * error**2 if loss == "mse" or error <= 1.0 else error - 0.5
            errors[b] += error / 4
            told.extend(q[b, t][mask[b, t].numpy()])
    found, extra = agent.loss(batch)
    np.testing.assert_allclose(found, total / 24, rtol=1e-4)
    np.testing.assert_allclose(extra.td_error, errors, rtol=1e-4)
    np.testing.assert_allclose(extra.q_max, max(told), rtol=1e-5)
    assert not extra.priority.numpy().any()


def test_a_batch_of_one_minibatch_and_one_epoch_takes_one_update_of_radam() -> None:
    config = small(epochs=1, minibatches=1)
    agent: Any = agents.build("pqn", VECTOR, config, seed=1)
    other: Any = agents.build("pqn", VECTOR, config, seed=1)
    batch = experience(VECTOR, (6, 5))
    variables = other.acting_model.trainable_weights
    with tf.GradientTape() as tape:
        loss = other.loss(batch, training=True).loss
    optimizer_of(variables, config).apply(tape.gradient(loss, variables), loss)
    info = agent.train(batch)
    assert info.extra.applied
    np.testing.assert_allclose(info.loss, loss, rtol=1e-6)
    for one, two in zip(weights_of(agent), weights_of(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_the_goals_are_of_the_weights_before_the_first_update() -> None:
    # With a step size that changes everything at once, goals of later weights would move the loss's minimum away.
    agent: Any = agents.build("pqn", PLAIN, small(epochs=3, minibatches=2, learning_rate=0.05), seed=1)
    batch = unmasked((4, 5), MID)
    before = agent.loss(batch)
    frames, _ = agent._frames(batch)
    q = tf.reduce_max(tf.reshape(agent.acting_model(tf.reshape(batch.observation, (-1, 4))), (4, 5, 3)), axis=2)
    for b in range(4):
        goal = by_recursion(batch.step_type[b], batch.reward[b], batch.discount[b], q[b].numpy(), 0.99, 0.65)
        np.testing.assert_allclose(frames.goal[b], goal, rtol=1e-4, atol=1e-5)
    assert agent.train(batch).extra.applied
    assert agent._optimizer.updates.numpy() == 6
    assert agent.train_step_counter.numpy() == 1
    assert abs(float(before.loss - agent.loss(batch).loss)) > 1e-3


def test_minibatches_of_an_epoch_hold_each_example_once_and_one_of_each_group() -> None:
    order = minibatches.shuffled(3, tf.constant(7, tf.int64), 24, 5, 4).numpy()
    assert order.shape == (20, 6)
    for epoch in order.reshape(5, 4, 6):
        assert sorted(epoch.ravel()) == list(range(24))
        for part in epoch:
            assert sorted(part // 4) == list(range(6))
    assert len({tuple(epoch.ravel()) for epoch in order.reshape(5, 4, 6)}) == 5
    later = minibatches.shuffled(3, tf.constant(8, tf.int64), 24, 5, 4).numpy()
    assert (later != order).any()
    again = minibatches.shuffled(3, tf.constant(7, tf.int64), 24, 5, 4).numpy()
    np.testing.assert_array_equal(again, order)


def test_the_end_of_an_episode_teaches_nothing() -> None:
    agent: Any = agents.build("pqn", PLAIN, small(minibatches=1), seed=1)
    batch = unmasked((4, 5), LAST)
    before = weights_of(agent)
    assert agent.train(batch).loss == 0.0
    for one, two in zip(before, weights_of(agent), strict=True):
        np.testing.assert_array_equal(one, two)


def test_there_is_no_target_network() -> None:
    agent: Any = agents.build("pqn", PLAIN, small())
    weights = sum(weight.shape.num_elements() for weight in agent.acting_model.trainable_weights)
    floats = sum(variable.shape.num_elements() for variable in agent.variables if variable.dtype == tf.float32)
    assert floats == 3 * weights + 1, "weights, two moments and the scale of the step size"


def test_what_does_not_fit_is_refused() -> None:
    agent: Any = agents.build("pqn", PLAIN, small(rollout=3, minibatches=2))
    with pytest.raises(ValueError, match="sequences of 4 frames"):
        agent.train(unmasked((4, 6)))
    batch = unmasked((3, 4))
    with pytest.raises(ValueError, match="9 frames does not divide into minibatches=2"):
        agent.train(batch)
    with pytest.raises(ValueError, match="importance weights"):
        agent.train(batch, weights=tf.ones(3))


@pytest.mark.parametrize(("minibatches", "rollout", "parts"), [(4, 32, 1), (32, 32, 1), (24, 32, 3), (5, 4, 5)])
def test_sequences_have_to_make_whole_minibatches_of_frames(minibatches: int, rollout: int, parts: int) -> None:
    assert PqnConfig(minibatches=minibatches, rollout=rollout).batch_parts == parts
