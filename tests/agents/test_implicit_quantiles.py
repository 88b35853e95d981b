"""IQN's network: against a slow reference, and how often each of its layers runs."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from agents import ArraySpec, Specs, build
from agents.configs.quantile import IqnConfig
from agents.quantile import cosines_of, implicit_quantile_model

SPECS = Specs(ArraySpec((3,), "float32"), 2)
UNITS = (6, 5)
BATCH, FRACTIONS = 3, 7


def test_cosines_of_fractions_are_cosines() -> None:
    fractions = np.concatenate([np.linspace(0.0, 1.0, 257), np.random.default_rng(0).uniform(size=500)])[:, np.newaxis]
    actual = cosines_of(tf.constant(fractions, tf.float32), 64)
    exact = np.cos(np.pi * np.arange(64) * np.float32(fractions).astype(np.float64))
    np.testing.assert_allclose(actual, exact, atol=1.5e-5)


@functools.cache
def model_of(layers_per_fraction: int) -> tf.keras.Model:
    config = IqnConfig(hidden_units=UNITS, embedding_cosines=4, layers_per_fraction=layers_per_fraction)
    return implicit_quantile_model(SPECS, config, seed=0)


def expected(weights: list[np.ndarray], observation: np.ndarray, tau: float, layers_per_fraction: int) -> np.ndarray:
    """The quantile of each action at one fraction of one observation (Dabney et al. 2018b, section 3.1 and equation 4).

    Kernels and biases come in the order in which they act, the embedding's where it multiplies.
    """

    def relu(kernel: np.ndarray, bias: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return np.maximum(inputs @ kernel + bias, 0.0)

    layers = list(zip(weights[::2], weights[1::2], strict=True))
    shared = len(UNITS) - layers_per_fraction
    features = observation
    for layer in layers[:shared]:
        features = relu(*layer, features)
    features = features * relu(*layers[shared], np.array([np.cos(np.pi * i * tau) for i in range(4)]))
    for layer in layers[shared + 1 : -1]:
        features = relu(*layer, features)
    kernel, bias = layers[-1]
    return features @ kernel + bias


@pytest.mark.parametrize("layers_per_fraction", [0, 1, 2])
def test_so_many_hidden_layers_are_behind_the_product_with_a_fraction(layers_per_fraction: int) -> None:
    model, random = model_of(layers_per_fraction), np.random.default_rng(0)
    weights = [random.normal(size=weight.shape) for weight in model.get_weights()]
    model.set_weights(weights)
    observation, fractions = random.normal(size=(BATCH, 3)), random.uniform(size=(BATCH, FRACTIONS))
    quantiles = model([tf.constant(observation, tf.float32), tf.constant(fractions, tf.float32)]).numpy()
    assert quantiles.shape == (BATCH, 2, FRACTIONS)
    for row in range(BATCH):
        for column, tau in enumerate(fractions[row]):
            by_hand = expected(weights, observation[row], tau, layers_per_fraction)
            np.testing.assert_allclose(quantiles[row, :, column], by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers_per_fraction", [0, 1, 2])
def test_layers_before_the_product_run_once_an_observation(layers_per_fraction: int) -> None:
    model = model_of(layers_per_fraction)
    traced = tf.function(lambda *inputs: model(list(inputs)), autograph=False).get_concrete_function(
        tf.TensorSpec((BATCH, 3)), tf.TensorSpec((BATCH, FRACTIONS))
    )
    products = [op for op in traced.graph.get_operations() if op.type == "MatMul"]
    rows = {tuple(op.inputs[1].shape): op.outputs[0].shape[0] for op in products}
    hidden = [(3, 6), (6, 5)]
    assert [rows[shape] for shape in hidden[: 2 - layers_per_fraction]] == [BATCH] * (2 - layers_per_fraction)
    # Where the number of fractions is a tensor, the graph does not know how many rows there are.
    assert all(rows[shape] != BATCH for shape in hidden[2 - layers_per_fraction :])


def test_more_layers_behind_the_product_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="layers_per_fraction=3 needs as many hidden_units, which are 2"):
        build("iqn", SPECS, IqnConfig(hidden_units=UNITS, layers_per_fraction=3))
