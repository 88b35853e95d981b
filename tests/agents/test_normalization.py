"""Running normalisation of observations against NumPy, and where its statistics go."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import VECTOR, experience

from agents import ArraySpec, DqnConfig, Specs, build
from agents.normalization import RunningNormalization


def layer_of(width: int) -> RunningNormalization:
    layer = RunningNormalization("")
    layer(tf.zeros((1, width)))  # creates its weights
    return layer


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(0, 2**31),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 1e3),
)
def test_statistics_are_those_of_all_batches_together(sizes: list[int], seed: int, shift: float, scale: float) -> None:
    random, layer = np.random.default_rng(seed), layer_of(3)
    batches = [(shift + scale * random.normal(size=(size, 3))).astype(np.float32) for size in sizes]
    for batch in batches:
        layer.observe(tf.constant(batch))
    everything = np.concatenate(batches).astype(np.float64)
    magnitude = np.abs(everything).max()
    np.testing.assert_allclose(layer.mean, everything.mean(axis=0), atol=1e-4 * magnitude)
    np.testing.assert_allclose(layer.variance, everything.var(axis=0), rtol=2e-3, atol=1e-5 * magnitude**2)
    assert layer.count.numpy() == len(everything)


def test_a_feature_is_shifted_and_scaled_by_what_was_seen() -> None:
    layer = layer_of(2)
    layer.observe(tf.constant([[1.0, 10.0], [3.0, 10.0]]))
    # Means 2 and 10, deviations 1 and 0: the second feature never moved, so its first move is far out, and clipped.
    np.testing.assert_allclose(layer(tf.constant([[4.0, 10.0], [2.0, 11.0]])), [[2.0, 0.0], [0.0, 10.0]], atol=1e-5)


def test_before_the_first_batch_nothing_is_changed() -> None:
    np.testing.assert_allclose(layer_of(2)(tf.constant([[0.5, -3.0]])), [[0.5, -3.0]], rtol=1e-6)


def test_old_observations_fade_once_a_million_were_seen() -> None:
    layer = layer_of(1)
    layer.mean.assign([5.0])
    layer.count.assign(1e6)
    layer.observe(tf.fill((1_000, 1), 6.0))
    assert layer.count.numpy() == 1e6
    np.testing.assert_allclose(layer.mean, [5.0 + 1_000 / 1_001_000], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_a_batch_that_is_not_finite_is_not_observed(poison: float) -> None:
    layer = layer_of(2)
    layer.observe(tf.constant([[1.0, 10.0], [3.0, 10.0]]))
    before = [weight.numpy() for weight in layer.weights]
    layer.observe(tf.constant([[1.0, 10.0], [3.0, poison]]))
    layer.observe(tf.constant([[7.0, 7.0], [8.0, 8.0]]), tf.constant(False))
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("spec", [ArraySpec((4,), "uint8", (9,)), ArraySpec((4,), "int32", (3, 3, 3, 3))])
def test_only_float_observations_are_normalised(spec: ArraySpec) -> None:
    agent = build("dqn", Specs(spec, 3), DqnConfig(normalize_observations=True))
    assert not any(isinstance(layer, RunningNormalization) for layer in agent.acting_model.layers)


def test_each_part_of_an_observation_has_statistics_of_its_own() -> None:
    specs = Specs({"a": ArraySpec((2,), "float32"), "b/c": ArraySpec((3,), "float32")}, 2)
    agent = build("dqn", specs, DqnConfig(normalize_observations=True))
    layers = [layer for layer in agent.acting_model.layers if isinstance(layer, RunningNormalization)]
    assert {layer.leaf: layer.mean.shape[0] for layer in layers} == {"a": 2, "b/c": 3}


def test_training_moves_the_statistics_and_the_target_network_follows() -> None:
    agent = build("dqn", VECTOR, DqnConfig(normalize_observations=True, target_update_period=1, hidden_units=(8,)))
    windows = experience(VECTOR, (32, 2))
    for _ in range(3):
        agent.train(windows)
    seen = windows.observation[0].numpy().reshape(-1, 4)
    means = [weight.numpy() for weight in agent.acting_model.non_trainable_weights]
    np.testing.assert_allclose(means[0], seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(means[1], seen.var(axis=0), rtol=1e-4)
    assert means[2] == 3 * len(seen)
    target = agent._target_q_network.model.non_trainable_weights
    for own, theirs in zip(means, target, strict=True):
        np.testing.assert_array_equal(own, theirs)
