"""Layer normalisation: hand-worked numbers, Keras' own layer, and where it stands in each kind's network."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import changed, config_of, experience, scores, specs_of
from tiers import tiered

import agents
from agents import BUILDERS, ArraySpec, DqnConfig, Specs, networks
from agents.layers.layer_norm import LayerNorm

DEEP = [kind for kind in BUILDERS if kind != "q_learning"]


def test_features_are_shifted_and_scaled_by_their_own_statistics() -> None:
    # [1, 3, 5, 7] has mean 4 and variance 5; the second row is the first one times 100 and has the same result.
    layer = LayerNorm()
    layer.build((None, 4))
    layer.set_weights([np.float32([1, 2, 1, 1]), np.float32([0, 0, 10, 0])])
    expected = np.float32([-3, -1 * 2, 1, 3]) / np.sqrt(5.0) + np.float32([0, 0, 10, 0])
    found = layer(np.float32([[1, 3, 5, 7], [100, 300, 500, 700]]))
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 6), (3, 4, 5, 6)])
def test_values_and_gradients_are_those_of_keras_layer(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(3.0, 2.0, shape), tf.float32)
    upstream = tf.constant(random.normal(size=shape), tf.float32)
    weights = [np.float32(random.normal(size=6)) for _ in range(2)]
    results = []
    for layer in (LayerNorm(), tf.keras.layers.LayerNormalization(epsilon=1e-6)):
        layer.build(shape)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            values = layer(inputs)
            loss = tf.reduce_sum(values * upstream)
        results.append([values, *tape.gradient(loss, [inputs, *layer.trainable_weights])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_hidden_layers_are_normalised_before_their_activation_and_the_head_is_not() -> None:
    config = DqnConfig(hidden_units=(5, 4), activation="tanh", layer_norm=True)
    model = networks.value_model(Specs(ArraySpec((2,), "float32"), 3), config, None, seed=0)
    random = np.random.default_rng(0)
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in model.weights]
    model.set_weights(weights)
    features = x = random.normal(size=(7, 2)).astype(np.float32)
    for kernel, bias, gain, offset in (weights[:4], weights[4:8]):
        linear = features @ kernel + bias
        centered = linear - linear.mean(axis=1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-6)
        features = np.tanh(scaled * gain + offset)
    np.testing.assert_allclose(model(x), features @ weights[8] + weights[9], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("torso", "count"), [("nature", 4), ("impala", 14), ("minatar", 2)])
def test_each_activation_of_a_torso_has_one_before_it(torso: Any, count: int) -> None:
    # IMPALA's three sections of two blocks have two activations each, and one is behind them; one dense layer follows.
    specs = Specs(ArraySpec((10, 10, 4), "uint8", (255,)), 6)
    config = DqnConfig(image_torso=torso, hidden_units=(8,), layer_norm=True)
    model = networks.value_model(specs, config, None, seed=0)
    before = [layer.input.node.layer for layer in model.layers if isinstance(layer, tf.keras.layers.Activation)]
    assert [type(layer) for layer in before] == [LayerNorm] * count


@pytest.mark.parametrize("kind", tiered(DEEP, ["iqn"]))
def test_every_deep_kind_learns_with_it(kind: str) -> None:
    more = {"layer_norm": True, "noisy": kind not in ("r2d2", "c51", "boot_dqn")}
    specs, config = specs_of(kind), changed(config_of(kind), more)
    agent = agents.build(kind, specs, config)
    layers = [layer for layer in agent.acting_model.submodules if isinstance(layer, LayerNorm)]
    (layer,) = (layer for layer in layers if layer.trainable)  # of an ensemble the priors have one, too
    batch = experience(specs, (8, config.window_length), state_units=config.state_units)
    assert np.isfinite(agent.train(batch).loss)
    assert (layer.gain.numpy() != 1.0).any()
    assert np.isfinite(scores(agent, batch.observation[0][:, 0])).all()
