"""Spectral norms, residual blocks, width and pooling of torsos: hand-worked numbers, and every kind's network."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import VECTOR, changed, config_of, experience, scores, specs_of
from tiers import tiered

import agents
from agents import BUILDERS, ArraySpec, DqnConfig, PpoConfig, Specs, networks
from agents.initializers import Seeds
from agents.layers.layer_norm import LayerNorm
from agents.layers.pooling import pooled
from agents.layers.spectral_norm import SpectralConv2D, SpectralDense, SpectralLayer, largest_singular_value, next_left
from pipeline.acting import network_program

DEEP = [kind for kind in BUILDERS if kind not in ("q_learning", "boot_dqn")]
"""Kinds of one network, whose hidden layers may have a norm."""
TRUE = tf.constant(True)


def norm_of(kernel: Any) -> float:
    """The largest singular value of a kernel as a matrix of its units."""
    array = np.asarray(kernel)
    return float(np.linalg.svd(array.reshape(-1, array.shape[-1]), compute_uv=False)[0])


def test_the_largest_singular_value_and_its_gradient_are_the_exact_ones() -> None:
    # diag(3, 1) has u = v = (1, 0) and sigma = 3. From (0.6, 0.8), v is (1.8, 0.8) at length 1, sigma 1.9698.
    matrix = tf.constant([[3.0, 0.0], [0.0, 1.0]])
    assert float(largest_singular_value(matrix, tf.constant([1.0, 0.0]))) == 3.0
    assert float(largest_singular_value(matrix, tf.constant([0.6, 0.8]))) == pytest.approx(1.969772, rel=1e-6)
    # W W' u = (5.4, 0.8).
    np.testing.assert_allclose(next_left(matrix, tf.constant([0.6, 0.8])), np.array([5.4, 0.8]) / 5.458938, rtol=1e-5)
    random = tf.constant(np.random.default_rng(0).normal(size=(5, 7)), tf.float32)
    left = tf.ones(5)
    for _ in range(100):
        left = next_left(random, left)
    with tf.GradientTape() as tape:
        tape.watch(random)
        value = largest_singular_value(random, left)
    u, s, v = np.linalg.svd(random.numpy())
    assert float(value) == pytest.approx(s[0], rel=1e-5)
    np.testing.assert_allclose(tape.gradient(value, random), np.outer(u[:, 0], v[0]), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 7), (2, 6, 6, 3)])
def test_a_new_layer_has_a_norm_of_1_and_keeps_it_as_its_kernel_moves(shape: tuple[int, ...]) -> None:
    make = {2: lambda: SpectralDense(Seeds(0), "relu", units=5), 4: lambda: conv(5)}[len(shape)]
    layer = make()
    inputs = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    layer(inputs)
    assert norm_of(layer.normalised()) == pytest.approx(1.0, rel=2e-2)
    layer.kernel.assign(layer.kernel * 100.0)
    assert norm_of(layer.normalised()) == pytest.approx(1.0, rel=2e-2)
    layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
    before = layer.singular_vector.numpy()
    layer.follow(tf.constant(False))
    np.testing.assert_array_equal(layer.singular_vector.numpy(), before)
    for _ in range(60):
        layer.follow(TRUE)
    assert norm_of(layer.normalised()) == pytest.approx(1.0, rel=1e-3)
    assert not [weight.name for weight in layer.trainable_weights if "vector" in weight.name]


def conv(filters: int) -> SpectralConv2D:
    return SpectralConv2D(Seeds(0), "relu", filters=filters, kernel_size=3, strides=1, padding="same")


def test_it_is_the_ordinary_layer_with_the_kernel_over_its_norm() -> None:
    image = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 3)), tf.float32)
    ours, plain = conv(4), tf.keras.layers.Conv2D(4, 3, padding="same", activation="relu")
    found = ours(image)
    plain.build(image.shape)
    plain.set_weights([ours.normalised().numpy(), ours.bias.numpy()])
    np.testing.assert_allclose(found, plain(image), rtol=1e-4, atol=1e-5)


FORMS: dict[str, dict[str, Any]] = {
    "last_hidden": {"hidden_units": (8, 8), "spectral_norm": "last_hidden"},
    "all": {"hidden_units": (8, 8), "spectral_norm": "all"},
    "residual": {"hidden_units": (8, 8), "residual": True, "spectral_norm": "residual"},
}


def spectral(model: tf.keras.Model) -> list[SpectralLayer]:
    return [layer for layer in model.submodules if isinstance(layer, SpectralLayer)]


@pytest.mark.parametrize(
    ("kind", "form"),
    tiered([(kind, form) for kind in DEEP for form in FORMS], [("dqn", "all"), ("r2d2", "all"), ("ppo", "residual")]),
)
def test_every_deep_kind_has_them_where_it_learns_and_where_it_acts(kind: str, form: str) -> None:
    specs, config = specs_of(kind), changed(config_of(kind), FORMS[form] | {"noisy": False, "target_update_period": 1})
    agent = agents.build(kind, specs, config, seed=3)
    layers = spectral(agent.acting_model)
    count = {"last_hidden": 1, "all": 2, "residual": 5}[form]  # the first block has a linear layer before it
    assert len(layers) == count
    batch = experience(specs, (8, config.window_length), state_units=config.state_units)
    before = [layer.singular_vector.numpy() for layer in layers]
    assert agent.train(batch).extra.applied
    assert all((layer.singular_vector.numpy() != old).any() for layer, old in zip(layers, before, strict=True))
    for _ in range(3):
        agent.train(batch)
    for layer in layers:
        assert norm_of(layer.normalised()) == pytest.approx(1.0, rel=0.1)
    # What is published is the acting model's weights; another that takes them acts alike.
    other = agents.build(kind, specs, config, seed=4)
    other.acting_model.set_weights(agent.acting_model.get_weights())
    observation = batch.observation[0][:, 0]
    np.testing.assert_allclose(scores(agent, observation), scores(other, observation), rtol=1e-5, atol=1e-6)


def test_the_target_network_has_the_vectors_and_the_program_that_acts_the_normalised_kernels() -> None:
    specs = Specs(ArraySpec((4,), "float32"), 3)
    config = changed(
        config_of("dqn"), FORMS["all"] | {"target_update_tau": 1.0, "target_update_period": 2, "dueling": False}
    )
    agent = agents.build("dqn", specs, config, seed=3)
    batch = experience(specs, (8, config.window_length))
    batch = batch._replace(observation=batch.observation[0])
    for _ in range(2):
        agent.train(batch)
    mine, its = (network.variables for network in (agent._q_network, agent._target_q_network))
    for one, other in zip(mine, its, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    program = network_program.convert(agent.acting_model, specs)
    weights = agent.acting_model.get_weights()
    actor = network_program.make_actor(config, specs, 8, program, weights)
    seen = batch.observation[:, 0].numpy()
    assert program
    np.testing.assert_allclose(actor.q_values({"": seen}), agent.acting_model(seen), rtol=1e-4, atol=1e-5)
    # By hand, with the norms of a decomposition.
    hidden = seen
    for k in (0, 3):
        kernel, bias = weights[k], weights[k + 1]
        hidden = np.maximum(hidden @ (kernel / norm_of(kernel)) + bias, 0.0)
    values = hidden @ weights[6] + weights[7]
    np.testing.assert_allclose(agent.acting_model(seen), values, rtol=5e-2, atol=5e-2)


def test_a_residual_network_by_its_formula() -> None:
    specs = Specs(ArraySpec((2,), "float32"), 3)
    model = networks.value_model(specs, DqnConfig(hidden_units=(4, 4), residual=True), None, seed=0)
    random = np.random.default_rng(0)
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in model.weights]
    model.set_weights(weights)
    by_layer = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    names = list(by_layer)
    assert len(names) == 1 + 2 * 3 + 1 + 1  # a linear layer, two blocks of three, the last normalisation, the head

    def of(name: str, x: np.ndarray) -> np.ndarray:
        first, second = by_layer[name]
        if first.ndim == 2:
            return x @ first + second
        centered = x - x.mean(axis=1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-6) * first + second

    x = random.normal(size=(7, 2)).astype(np.float32)
    features = of(names[0], x)
    for block in (names[1:4], names[4:7]):
        features = features + of(block[2], np.maximum(of(block[1], of(block[0], features)), 0.0))
    np.testing.assert_allclose(model(x), of(names[8], of(names[7], features)), rtol=2e-3, atol=1e-3)
    assert by_layer[names[2]][0].shape == (4, 16)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_is_adaptive_by_hand(kind: str) -> None:
    # 5 pixels to 3 cells: 0 to 2, 1 to 4, 3 to 5. The other side has 2, fewer than 3, and stays.
    row = np.float32([1, 5, 2, 3, 4])
    image = np.stack([row, 10 * row], axis=1)[np.newaxis, :, :, np.newaxis]
    one = {"max": [5.0, 5.0, 4.0], "average": [3.0, 10.0 / 3.0, 3.5]}[kind]
    found = pooled(tf.constant(image), kind, 3).numpy()[0, :, :, 0]
    np.testing.assert_allclose(found, np.stack([one, np.multiply(10, one)], axis=1), rtol=1e-6)


def test_btrs_torso_has_its_width_pooling_and_norms() -> None:
    # Clark et al. 2025: twice the filters, 6 x 6 cells before the dense layers, norms in the residual blocks alone.
    config = DqnConfig(image_torso="impala", torso_width=2, torso_pooling="max", spectral_norm="residual", noisy=True)
    model = networks.value_model(Specs(ArraySpec((84, 84, 4), "uint8", (255,)), 6), config, None, seed=0)
    convolutions = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions[::5]] == [32, 64, 64]
    assert [isinstance(layer, SpectralLayer) for layer in convolutions] == 3 * [False, True, True, True, True]
    (flat,) = (layer for layer in model.layers if isinstance(layer, tf.keras.layers.Flatten))
    assert flat.output_shape[-1] == 6 * 6 * 64


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"residual": True, "noisy": True}, "noisy layers have no form with residual=true: set noisy=false"),
        ({"spectral_norm": "all", "noisy": True}, "noisy layers have no form with spectral_norm='all'"),
        ({"spectral_norm": "residual"}, "finds no residual blocks: set image_torso='impala', or residual=true"),
        ({"spectral_norm": "last_hidden", "hidden_units": ()}, "finds no hidden layer: set hidden_units"),
        ({"spectral_norm": "last_hidden", "residual": True}, "is of no layer: set spectral_norm='residual'"),
        ({"torso": "a:b", "torso_width": 2}, "torso is in its place: leave them out"),
        ({"torso_cells": 3}, "torso_cells is read with torso_pooling alone"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(fields: dict[str, Any], sentence: str) -> None:
    for config in (DqnConfig, PpoConfig):
        if "noisy" in fields and config is PpoConfig:
            continue
        with pytest.raises(ValueError, match=sentence):
            config(**fields)


def test_masks_and_layer_norm_go_with_all_of_them() -> None:
    config = changed(config_of("dqn"), FORMS["all"] | {"layer_norm": True})
    agent = agents.build("dqn", VECTOR, config)
    assert [type(layer) for layer in agent.acting_model.layers].count(LayerNorm) == 2
    assert np.isfinite(agent.train(experience(VECTOR, (8, config.window_length))).loss)
