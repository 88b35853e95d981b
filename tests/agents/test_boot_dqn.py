"""Bootstrapped DQN against a slow reference, head by head: values, priors, masks, acting, and its layers."""

from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import VECTOR, changed, config_of, experience, observations
from tf_agents.trajectories import time_step

import agents
from agents import ArraySpec, BootDqnConfig, Specs, boot_dqn
from agents.layers.ensemble import EnsembleDense

HEADS, ACTIONS, BATCH = 3, 3, 40
LAST = 2


def make(**fields: Any) -> tuple[Any, Any]:
    """An agent with random weights, others in the target network, and its configuration."""
    config = msgspec.structs.replace(config_of("boot_dqn"), **fields)
    agent = agents.build("boot_dqn", VECTOR, config, seed=1)
    random = np.random.default_rng(0)
    for network in (agent._q_network, agent._target_q_network):
        for weight in network.model.weights:
            weight.assign(random.normal(scale=0.6, size=weight.shape))
    return agent, config


def stored(config: BootDqnConfig, seed: int = 0) -> Any:
    """Windows with states as a collector draws them."""
    drawn = experience(VECTOR, (BATCH, config.window_length), seed, 2)
    state, random = np.zeros((BATCH * config.window_length, 2), np.float32), np.random.default_rng(seed)
    config.begin_states(state, np.ones(len(state), np.bool_), random)
    return drawn._replace(policy_info=tf.constant(state.reshape(BATCH, -1, 2)))


def hashed(number: float, head: int) -> float:
    """`bootstrap_mask`'s draw for one head, with Python's integers."""
    x = (int(np.float32(number).view(np.uint32)) + (head + 1) * 0x1E3779B1) % 2**32
    x = (x ^ (x >> 16)) * 0x21F0AAAD % 2**32
    x = (x ^ (x >> 15)) * 0x735A2D97 % 2**32
    return float(((x ^ (x >> 16)) >> 8) / 2**24)


def test_masks_are_those_of_a_slow_hash() -> None:
    numbers = 1.0 - np.random.default_rng(1).random(200, np.float32)
    expected = [[float(hashed(number, head) < 0.3) for head in range(7)] for number in numbers]
    np.testing.assert_array_equal(boot_dqn.bootstrap_mask(tf.constant(numbers), 7, 0.3), expected)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_heads_learn_from_shares_of_their_own(probability: float) -> None:
    numbers = 1.0 - np.random.default_rng(0).random(50_000, np.float32)
    mask = boot_dqn.bootstrap_mask(tf.constant(numbers), 10, probability).numpy()
    np.testing.assert_allclose(mask.mean(axis=0), probability, atol=0.01)
    if probability < 1.0:
        np.testing.assert_allclose(np.corrcoef(mask.T), np.eye(10), atol=0.02)
    assert boot_dqn.bootstrap_mask(tf.zeros(3), 4, probability).numpy().tolist() == [[1.0] * 4] * 3


def slow_rows(agent: Any, config: BootDqnConfig, drawn: Any) -> Any:
    """Loss, TD error and priority of each window, one head after the other."""
    observation, allowed = drawn.observation
    rows = []
    for b in range(BATCH):
        step_type, reward, discount = (leaf[b].numpy() for leaf in (drawn.step_type, drawn.reward, drawn.discount))
        if step_type[0] == LAST:
            rows.append((0.0, 0.0, 0.0))
            continue
        total, product, t = 0.0, 1.0, 0
        while t < config.n_step and step_type[t] != LAST:
            total += product * reward[t]
            product *= config.discount * discount[t]
            t += 1
        q_tm1 = agent._q_network.model(observation[b : b + 1, 0])[0].numpy()
        q_t, selector = (
            network.model(observation[b : b + 1, t])[0].numpy()
            for network in (agent._target_q_network, agent._q_network if config.double else agent._target_q_network)
        )
        errors = []
        for head in range(HEADS):
            best = int(np.where(allowed[b, t], selector[head], -np.inf).argmax())
            errors.append(total + product * q_t[head, best] - q_tm1[head, int(drawn.action[b, 0])])
        number = float(drawn.policy_info[b, 0, 1])
        learns = [hashed(number, head) < config.bootstrap_probability for head in range(HEADS)]
        losses = [0.5 * e * e if abs(e) <= 1.0 else abs(e) - 0.5 for e in errors]
        rows.append(
            (
                sum(loss for loss, does in zip(losses, learns, strict=True) if does) / HEADS,
                np.mean(errors),
                np.mean(np.abs(errors)),
            )
        )
    return np.array(rows).T


@pytest.mark.parametrize("fields", [{}, {"double": False, "dueling": False, "shared_layers": 1}, {"n_step": 1}])
def test_losses_errors_and_priorities_are_those_of_the_reference(fields: dict[str, Any]) -> None:
    agent, config = make(**fields)
    drawn = stored(config)
    loss, td_error, priority = slow_rows(agent, config, drawn)
    weights = tf.constant(np.random.default_rng(1).random(BATCH), tf.float32)
    found, extra = agent.loss(drawn, weights=weights)
    assert found.numpy() == pytest.approx(np.mean(weights * loss), rel=1e-4)
    np.testing.assert_allclose(extra.td_error, td_error, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(extra.priority, priority, rtol=1e-4, atol=2e-5)


def test_a_head_learns_from_its_own_frames_alone() -> None:
    agent, config = make(prior_scale=0.0, dueling=False, hidden_units=(), gradient_clip_norm=0.0)
    drawn = stored(config)
    number = next(
        n / 1000 for n in range(1, 1000) if [hashed(n / 1000, h) < 0.5 for h in range(3)] == [True, False, True]
    )
    state = np.array(drawn.policy_info)
    state[..., 1] = number
    (kernel, _) = agent._q_network.trainable_weights
    before = kernel.numpy()
    agent.train(drawn._replace(policy_info=tf.constant(state)))
    assert [bool((kernel.numpy()[head] != before[head]).any()) for head in range(3)] == [True, False, True]


def test_priors_keep_their_weights_and_are_part_of_what_is_learned() -> None:
    agent, config = make(prior_scale=2.0)
    network = agent._q_network
    kernels = {id(weight) for weight in network.trainable_weights}
    priors = [weight for weight in network.model.weights if id(weight) not in kernels]
    assert len(priors) == len(network.trainable_weights)
    before, seen = [weight.numpy() for weight in priors], tf.ones((1, 4))
    agent.train(stored(config))
    assert all((weight.numpy() == old).all() for weight, old in zip(priors, before, strict=True))
    whole = network.model(seen).numpy()
    for weight in priors:
        weight.assign(tf.zeros_like(weight))
    alone = network.model(seen).numpy()
    assert np.abs(whole - alone).max() > 0.1
    for weight, old in zip(priors, before, strict=True):
        weight.assign(old)
    for weight in network.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(network.model(seen), whole - alone, atol=1e-4)


def test_heads_and_priors_begin_differently_and_the_target_begins_alike() -> None:
    config = BootDqnConfig(heads=4, hidden_units=(8,))
    agent = agents.build("boot_dqn", Specs(ArraySpec((4,), "float32"), 2), config, seed=3)
    kernels = [weight.numpy() for weight in agent._q_network.model.weights if "kernel" in weight.name]
    slices = [kernel[head].tobytes() for kernel in kernels for head in range(4)]
    assert len(set(slices)) == len(slices) == 16
    pairs = zip(agent._q_network.model.weights, agent._target_q_network.model.weights, strict=True)
    assert all((one.numpy() == other.numpy()).all() for one, other in pairs)


def test_acting_scores_by_hand() -> None:
    q = tf.constant([[[1.0, 0.0, 0.0], [0.0, 5.0, 0.0], [2.0, 0.0, 1.0]]] * 5)
    head = tf.constant([[0.0], [1.0], [2.0], [3.0], [0.0]])
    mean = boot_dqn.acting_scores(q, head, "mean")
    np.testing.assert_allclose(mean, [[1, 5 / 3, 1 / 3], [1, 0, 0], [0, 5, 0], [2, 0, 1], [1, 5 / 3, 1 / 3]], rtol=1e-6)
    votes = boot_dqn.acting_scores(q, head, "majority")
    np.testing.assert_allclose(votes[1:4], mean[1:4])
    assert tf.argmax(votes, axis=1).numpy().tolist() == [0, 0, 1, 0, 0]  # two heads of three prefer the first action
    even = boot_dqn.acting_scores(tf.constant([[[1.0, 0.0], [0.0, 3.0]]]), tf.zeros((1, 1)), "majority")
    assert tf.argmax(even, axis=1).numpy().tolist() == [1]  # of equals the one of the larger mean


def test_a_collector_draws_heads_by_episodes_and_numbers_by_steps() -> None:
    config, random = BootDqnConfig(heads=5), np.random.default_rng(0)
    state = np.zeros((1000, 2), np.float32)
    config.begin_states(state, np.ones(1000, np.bool_), random)
    assert set(state[:, 0]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    before, begins = state.copy(), np.arange(1000) < 300
    config.begin_states(state, begins, random)
    assert (state[300:, 0] == before[300:, 0]).all()
    assert 0.1 < (state[:300, 0] == before[:300, 0]).mean() < 0.3
    assert (state[:, 1] > 0.0).all()
    assert (state[:, 1] <= 1.0).all()
    assert (state[:, 1] != before[:, 1]).mean() > 0.99


@pytest.mark.parametrize("policy", ["mean", "majority"])
def test_the_acting_model_hands_its_state_on(policy: str) -> None:
    agent, _ = make(ensemble_policy=policy)
    seen, _ = observations(VECTOR, (6,), np.random.default_rng(0))
    state = tf.constant([[0.0, 0.1], [1.0, 0.2], [2.0, 0.3], [3.0, 0.4], [0.0, 0.5], [1.0, 0.6]])
    both = agent.acting_model([seen, state])
    q = agent._q_network.model(seen)
    np.testing.assert_allclose(both[:, :ACTIONS], boot_dqn.acting_scores(q, state[:, :1], policy), rtol=1e-6)
    np.testing.assert_array_equal(both[:, ACTIONS:], state)


def test_the_collect_policy_of_tf_agents_keeps_a_head_for_an_episode() -> None:
    config = BootDqnConfig(heads=8, hidden_units=(8,), prior_scale=10.0)
    agent = agents.build("boot_dqn", Specs(ArraySpec((4,), "float32"), 5), config, epsilon=0.0)
    seen, policy = tf.random.stateless_normal((64, 4), (0, 1)), agent.collect_policy
    first = policy.action(time_step.restart(seen, 64), policy.get_initial_state(64))
    heads = first.state.numpy()[:, 0]
    assert len(set(heads.tolist())) > 4
    chosen = agent._q_network.model(seen).numpy()[np.arange(64), heads.astype(int) - 1].argmax(axis=1)
    assert first.action.numpy().tolist() == chosen.tolist()
    later = policy.action(time_step.transition(seen, tf.zeros(64)), first.state)
    assert (later.state.numpy() == first.state.numpy()).all()
    assert later.action.numpy().tolist() == chosen.tolist()


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 4)])
def test_a_layer_of_an_ensemble_is_as_many_dense_layers(shape: tuple[int, ...]) -> None:
    layer = EnsembleDense(3, "relu", [tf.keras.initializers.HeUniform(seed=seed) for seed in range(2)])
    inputs = tf.random.stateless_normal(shape, (1, 2))
    found = layer(inputs)
    layer.bias.assign(tf.random.stateless_normal((2, 3), (3, 4)))
    found = layer(inputs)
    for head in range(2):
        own = inputs if len(shape) == 2 else inputs[:, head]
        np.testing.assert_allclose(
            found[:, head], tf.nn.relu(own @ layer.kernel[head] + layer.bias[head]), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"residual": True},
        {"layer_norm": True},
        {"residual": True, "shared_layers": 1},
        {"normalize_observations": True},
    ],
)
def test_heads_do_not_meet_in_any_form_of_network(fields: dict[str, Any]) -> None:
    config = changed(config_of("boot_dqn"), {"hidden_units": (16, 16), "shared_layers": 0} | fields)
    model = agents.build("boot_dqn", VECTOR, config, seed=0)._q_network.model
    seen = tf.random.stateless_normal((5, 4), (1, 2))
    before = model(seen).numpy()
    for weight in model.weights:
        if weight.shape.rank > 1 and weight.shape[0] == HEADS:
            value = weight.numpy()
            value[1] += 0.5
            weight.assign(value)
    after = model(seen).numpy()
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], rtol=1e-4, atol=1e-5)
    assert np.abs(after[:, 1] - before[:, 1]).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"noisy": True}, "noisy=false"),
        ({"shared_layers": 3}, "needs as many hidden_units, which are 2"),
        ({"reset_period": 10}, "reset_period=0"),
        ({"spectral_norm": "all"}, "leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BootDqnConfig(**fields)
