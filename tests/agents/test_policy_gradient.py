"""Policy gradients: their mathematics by hand and against slow loops, and what an update does."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import VECTOR, changed, config_of, experience
from tf_agents.trajectories import Trajectory

import agents
from agents import ArraySpec, PpoConfig, ReinforceConfig, Specs, policy_losses

FIRST, MID, LAST = 0, 1, 2
PLAIN = Specs(ArraySpec((4,), "float32"), 3)
KINDS = ("reinforce", "ppo")


def row(*numbers: float, dtype: Any = tf.float32) -> tf.Tensor:
    return tf.constant([numbers], dtype)


def slow_advantages(
    step_type: Any, reward: Any, discount: Any, value: Any, gamma: float, gae_lambda: float
) -> np.ndarray:
    """The sum of equation 16, term by term, in double precision."""
    found = np.zeros(np.shape(reward))[:, :-1]
    for b in range(found.shape[0]):
        for t in range(found.shape[1]):
            weight = 1.0
            for s in range(t, found.shape[1]):
                if step_type[b, s] == LAST:
                    break
                error = reward[b, s] + gamma * discount[b, s] * value[b, s + 1] - value[b, s]
                found[b, t] += weight * error
                weight *= gamma * gae_lambda * discount[b, s]
    return found


def test_advantages_by_hand() -> None:
    # delta = 1 + 0.5 * 4 - 2 = 1 and 3 + 0.5 * 6 - 4 = 2; A_1 = 2, A_0 = 1 + 0.5 * 0.5 * 2.
    found = policy_losses.generalised_advantages(
        row(FIRST, MID, MID, dtype=tf.int32), row(1, 3, 99), row(1, 1, 1), row(2, 4, 6), 0.5, 0.5
    )
    np.testing.assert_allclose(found, [[1.5, 2.0]])


def test_a_termination_bootstraps_from_nothing_and_a_truncation_from_the_last_frame() -> None:
    step_type, value = row(MID, MID, LAST, FIRST, MID, dtype=tf.int32), row(2, 4, 6, 8, 10)
    reward = row(1, 3, 77, 5, 99)
    # Terminated: A_1 = 3 - 4, A_0 = 1 + 0.5 * 4 - 2 + 0.5 * A_1. The reset's own reward counts nowhere.
    ended = policy_losses.generalised_advantages(step_type, reward, row(1, 0, 1, 1, 1), value, 0.5, 1.0)
    np.testing.assert_allclose(ended, [[0.5, -1.0, 0.0, 5.0 + 5.0 - 8.0]])
    # Truncated: A_1 = 3 + 0.5 * 6 - 4.
    cut = policy_losses.generalised_advantages(step_type, reward, row(1, 1, 1, 1, 1), value, 0.5, 1.0)
    np.testing.assert_allclose(cut, [[2.0, 2.0, 0.0, 2.0]])


def test_lambda_1_is_the_return_and_lambda_0_the_td_error() -> None:
    step_type, ones = row(MID, MID, MID, MID, dtype=tf.int32), row(1, 1, 1, 1)
    reward, value = row(1, 2, 4, 99), row(3, 5, 7, 16)
    returns = policy_losses.generalised_advantages(step_type, reward, ones, value, 0.5, 1.0) + value[:, :-1]
    np.testing.assert_allclose(returns, [[1 + 1 + 1 + 2, 2 + 2 + 4, 4 + 8]])
    errors = policy_losses.generalised_advantages(step_type, reward, ones, value, 0.5, 0.0)
    np.testing.assert_allclose(errors, [[1 + 2.5 - 3, 2 + 3.5 - 5, 4 + 8 - 7]])
    alone = policy_losses.generalised_advantages(step_type, reward, ones, tf.zeros_like(value), 0.5, 1.0)
    np.testing.assert_allclose(alone, [[3.0, 4.0, 4.0]])


@pytest.mark.parametrize("length", [2, 3, 4, 5, 9, 33])
def test_advantages_equal_the_slow_sum(length: int) -> None:
    random = np.random.default_rng(length)
    shape = (50, length)
    step_type = random.choice([FIRST, MID, LAST], shape, p=[0.1, 0.8, 0.1])
    discount, (reward, value) = (random.random(shape) < 0.9) * 1.0, random.normal(size=(2, *shape))
    tensors = [tf.constant(array, tf.float32) for array in (reward, discount, value)]
    found = policy_losses.generalised_advantages(tf.constant(step_type, tf.int32), *tensors, 0.97, 0.9)
    assert found.shape == (50, length - 1)
    np.testing.assert_allclose(found, slow_advantages(step_type, reward, discount, value, 0.97, 0.9), atol=1e-5)


def test_an_episode_ends_within_its_window_where_a_last_frame_follows() -> None:
    step_type = tf.constant([[MID, LAST, FIRST, MID, MID], [MID, MID, MID, MID, LAST]])
    found = policy_losses.ends_within(step_type).numpy().tolist()
    assert found == [[True, False, False, False], [True, True, True, True]]


def test_the_clipped_surrogate_by_hand() -> None:
    ratio = tf.constant([0.5, 0.9, 1.1, 1.5] * 2)
    advantage = tf.constant([2.0] * 4 + [-2.0] * 4)
    found = policy_losses.clipped_surrogate(ratio, advantage, 0.2)
    np.testing.assert_allclose(found, [1.0, 1.8, 2.2, 2.4, -1.6, -1.8, -2.2, -3.0], rtol=1e-6)


def test_what_is_clipped_has_no_gradient() -> None:
    ratio = tf.Variable([0.5, 1.5, 0.5, 1.5])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(policy_losses.clipped_surrogate(ratio, tf.constant([2.0, 2.0, -2.0, -2.0]), 0.2))
    np.testing.assert_allclose(tape.gradient(total, ratio), [2.0, 0.0, 0.0, -2.0])


def test_log_probabilities_and_entropy_are_of_the_allowed_actions() -> None:
    logits = tf.constant([[0.0, np.log(3.0), 50.0], [1e4, -1e4, 0.0]], tf.float32)
    mask = tf.constant([[True, True, False], [True, True, True]])
    policy, log_policy = policy_losses.soft_policy(logits, mask, 1.0)
    np.testing.assert_allclose(policy, [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(
        policy_losses.log_probability(log_policy, tf.constant([1, 0])), [np.log(0.75), 0.0], atol=1e-5
    )
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    np.testing.assert_allclose(policy_losses.entropy(policy, log_policy), [expected, 0.0], atol=1e-5)


def test_the_entropy_of_a_masked_policy_has_a_finite_gradient() -> None:
    logits = tf.Variable([[0.0, 1.0, 2.0]])
    with tf.GradientTape() as tape:
        policy, log_policy = policy_losses.soft_policy(logits, tf.constant([[True, True, False]]), 1.0)
        total = policy_losses.entropy(policy, log_policy) + policy_losses.log_probability(log_policy, tf.constant([1]))
    gradient = tape.gradient(total, logits).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[0, 2] == 0.0
    assert gradient[0, :2].any()


def small(kind: str, **values: Any) -> Any:
    plain = {"learning_rate_decay_steps": 0, "entropy_bonus": 0.0, "normalize_advantages": False, "minibatches": 1}
    return changed(config_of(kind), plain | values)


def gradient_of_loss(agent: Any, batch: Trajectory) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = agent.loss(batch).loss
    return [gradient.numpy() for gradient in tape.gradient(loss, agent.acting_model.trainable_weights)]


def policy_gradient(agent: Any, batch: Trajectory, advantage: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
    """- grad of the mean of log pi(a|s) A, from the logits by TensorFlow's own cross-entropy."""
    frames = advantage.shape[1]
    observation = tf.reshape(batch.observation[:, :frames], (-1, 4))
    with tf.GradientTape() as tape:
        logits = agent.acting_model(observation)
        surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(batch.action[:, :frames], (-1,)), logits)
        loss = tf.reduce_mean(surprise * tf.constant((advantage * valid).ravel(), tf.float32))
    return [gradient.numpy() for gradient in tape.gradient(loss, agent.acting_model.trainable_weights)]


def values_of(agent: Any, batch: Trajectory) -> np.ndarray:
    _, value = agent._network.evaluate(tf.reshape(batch.observation, (-1, 4)))
    return value.numpy().reshape(batch.reward.shape)


def plain_experience(config: Any, batch: int = 8, seed: int = 0) -> Trajectory:
    found = experience(VECTOR, (batch, config.window_length), seed)
    return found._replace(observation=found.observation[0])


@pytest.mark.parametrize(("kind", "gae_lambda"), [("reinforce", 1.0), ("ppo", 0.95), ("ppo", 0.5)])
def test_before_an_update_the_loss_has_the_plain_policy_gradient(kind: str, gae_lambda: float) -> None:
    config = small(kind, gae_lambda=gae_lambda)
    agent, batch = agents.build(kind, PLAIN, config), plain_experience(config)
    arrays = [leaf.numpy() for leaf in (batch.step_type, batch.reward, batch.discount)]
    advantage = slow_advantages(*arrays, values_of(agent, batch), config.discount, gae_lambda)
    wanted = policy_gradient(agent, batch, advantage, arrays[0][:, :-1] != LAST)
    for one, other in zip(gradient_of_loss(agent, batch), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_without_a_baseline_only_frames_whose_episode_ends_in_time_teach() -> None:
    config = small("reinforce", baseline=False, rollout=6)
    agent = agents.build("reinforce", PLAIN, config)
    batch = plain_experience(config)
    step_type = np.full((8, 7), MID)
    step_type[:4, 3], step_type[:4, 4] = LAST, FIRST
    batch = batch._replace(step_type=tf.constant(step_type, tf.int32), discount=tf.ones((8, 7)))
    reward, returns = batch.reward.numpy(), np.zeros((8, 6))
    for t in (2, 1, 0):
        returns[:4, t] = reward[:4, t] + config.discount * returns[:4, t + 1]
    extra = agent.loss(batch).extra
    np.testing.assert_allclose(extra.td_error, np.abs(returns).mean(axis=1), atol=1e-6)
    assert (extra.q.numpy().mean(), extra.q_max.numpy()) == (0.0, 0.0)
    for one, other in zip(
        gradient_of_loss(agent, batch), policy_gradient(agent, batch, returns, np.ones(1)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_learn_the_returns(kind: str) -> None:
    config = small(kind, gradient_clip_norm=0.0, discount=0.5, rollout=4)
    agent, batch = agents.build(kind, PLAIN, config), plain_experience(config)
    shape = batch.reward.shape
    batch = batch._replace(step_type=tf.fill(shape, MID), discount=tf.ones(shape), reward=tf.ones(shape))
    train = tf.function(agent.train, autograph=False)
    for _ in range(400):
        extra = train(batch).extra
    np.testing.assert_allclose(values_of(agent, batch), 2.0, atol=0.3)  # 1 + 0.5 + 0.25 + ...
    assert extra.q.numpy().mean() == pytest.approx(2.0, abs=0.1)
    assert extra.priority.numpy().tolist() == [0.0] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_normalised_over_the_frames_that_teach(kind: str) -> None:
    config = small(kind, normalize_advantages=True)
    agent, batch = agents.build(kind, VECTOR, config), experience(VECTOR, (8, config.window_length))
    frames, _ = agent._frames(batch)
    advantage = frames.advantage.numpy()[frames.valid.numpy()]
    assert 8 < advantage.size < frames.valid.numpy().size
    assert advantage.mean() == pytest.approx(0.0, abs=1e-5)
    assert advantage.std() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_forbidden_actions_and_of_episode_ends_change_nothing(kind: str) -> None:
    config = small(kind)
    batch = experience(VECTOR, (8, config.window_length))
    _, mask = batch.observation
    teaches = batch.step_type.numpy() != LAST
    teaches &= np.take_along_axis(mask.numpy(), batch.action.numpy()[..., np.newaxis], axis=2)[..., 0]
    agent = agents.build(kind, VECTOR, config)
    frames, _ = agent._frames(batch)
    assert frames.valid.numpy().tolist() == teaches[:, :-1].tolist()
    assert 0 < teaches.sum() < teaches.size
    weights = agent.acting_model.get_weights()
    nothing = batch._replace(step_type=tf.fill(batch.step_type.shape, LAST))
    loss = agent.train(nothing).loss
    assert loss.numpy() == 0.0
    assert all((old == new).all() for old, new in zip(weights, agent.acting_model.get_weights(), strict=True))


def sequences_of_updates(agent: Any, frames: Any) -> list[np.ndarray]:
    """The first actions of the sequences of each update."""
    count, part = agent._parts(frames)
    return [part(k).action.numpy()[:, 0] for k in range(count)]


def test_every_epoch_uses_each_sequence_once_and_in_another_order() -> None:
    config = small("ppo", minibatches=4, epochs=3)
    agent, batch = agents.build("ppo", PLAIN, config), plain_experience(config, batch=16)
    batch = batch._replace(
        action=tf.constant(np.arange(16)[:, np.newaxis] + np.zeros((1, config.window_length)), tf.int64)
    )
    frames, _ = agent._frames(batch._replace(action=tf.zeros_like(batch.action)))
    frames = frames._replace(action=batch.action[:, :-1])
    parts = sequences_of_updates(agent, frames)
    assert len(parts) == 12
    epochs = [parts[start : start + 4] for start in (0, 4, 8)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(16))
        for part in epoch:  # one of each four successive ones
            assert sorted(part // 4) == [0, 1, 2, 3]
    assert len({tuple(np.concatenate(epoch)) for epoch in epochs}) == 3
    agent.train_step_counter.assign_add(1)
    later = sequences_of_updates(agent, frames)
    assert [list(part) for part in later] != [list(part) for part in parts]


def test_the_ratio_is_to_the_policy_before_the_first_update() -> None:
    config = small("ppo", value_loss_weight=0.0)
    agent, batch = agents.build("ppo", PLAIN, config), plain_experience(config)
    frames, _ = agent._frames(batch)
    observation, action = tf.reshape(frames.observation, (-1, 4)), frames.action.numpy().ravel()

    def probability() -> np.ndarray:
        policy: np.ndarray = tf.nn.softmax(agent.acting_model(observation)).numpy()
        return policy[np.arange(len(action)), action]

    old = probability()
    head = agent.acting_model.trainable_weights[-2]
    head.assign(tf.constant(np.random.default_rng(0).normal(size=head.shape), tf.float32))
    ratio, advantage = probability() / old, frames.advantage.numpy().ravel()
    assert (np.abs(ratio - 1.0) > 0.2).mean() > 0.3
    worst = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    wanted = -(worst * frames.valid.numpy().ravel()).mean()
    assert agent._mean_loss(frames, training=True).numpy() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_step_counts_one_and_its_updates_count_all(kind: str) -> None:
    config = small(kind, epochs=3, minibatches=2)
    agent = agents.build(kind, PLAIN, config)
    agent.train(plain_experience(config))
    assert agent.train_step_counter.numpy() == 1
    assert agent._optimizer.updates.numpy() == (6 if kind == "ppo" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_entropy_bonus_keeps_a_policy_uniform(kind: str) -> None:
    config = small(kind, entropy_bonus=10.0, value_loss_weight=0.0)
    agent, batch = agents.build(kind, PLAIN, config), plain_experience(config)
    head = agent.acting_model.trainable_weights[-2]
    head.assign(tf.ones_like(head) * tf.constant([1.0, 0.0, -1.0]))
    train = tf.function(agent.train, autograph=False)
    for _ in range(300):
        train(batch)
    teaches = batch.step_type[:, 0] != LAST
    policy = tf.nn.softmax(agent.acting_model(batch.observation[:, 0][teaches]))
    np.testing.assert_allclose(policy, 1 / 3, atol=0.1)


def test_what_an_agent_cannot_learn_from_is_refused() -> None:
    agent = agents.build("ppo", PLAIN, PpoConfig(rollout=4, minibatches=3))
    with pytest.raises(ValueError, match="rollout=4 learns from sequences of 5 frames"):
        agent.train(plain_experience(PpoConfig(rollout=5)))
    with pytest.raises(ValueError, match="8 sequences does not divide into minibatches=3"):
        agent.train(plain_experience(PpoConfig(rollout=4)))
    with pytest.raises(ValueError, match="importance weights"):
        agent.train(plain_experience(PpoConfig(rollout=4), batch=6), weights=tf.ones((6,)))


def test_policy_and_baseline_share_no_layer_but_the_encoder() -> None:
    agent = agents.build("reinforce", PLAIN, ReinforceConfig(hidden_units=(8,)))
    assert len(agent.acting_model.trainable_weights) == 4
    assert len(agent._network.learned) == 8
    image = Specs(ArraySpec((12, 12, 1), "uint8", (255,)), 3)
    agent = agents.build("reinforce", image, ReinforceConfig(hidden_units=(8,)))
    assert len(agent.acting_model.trainable_weights) == 6 + 4
    assert len(agent._network.learned) == 6 + 8
    alone = agents.build("reinforce", PLAIN, ReinforceConfig(hidden_units=(8,), baseline=False))
    assert len(alone._network.learned) == 4


def test_policies_are_those_of_tf_agents() -> None:
    from tf_agents.policies import greedy_policy, q_policy

    agent: Any = agents.build("ppo", PLAIN, PpoConfig())
    assert isinstance(agent.collect_policy, q_policy.QPolicy)
    assert isinstance(agent.policy, greedy_policy.GreedyPolicy)
