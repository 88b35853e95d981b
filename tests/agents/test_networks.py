"""Q-networks: encoders by hand-set weights, the dueling identity, seeds."""

import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import ArraySpec, DqnConfig, Specs, networks
from agents.initializers import Seeds

VECTOR = Specs(ArraySpec((2,), "float32"), 3)


def linear(specs: Specs, dueling: bool = False) -> tf.keras.Model:
    """A network without hidden layers: Q-values are a linear function of the encoded observation."""
    return networks.value_model(specs, DqnConfig(hidden_units=(), dueling=dueling), None, seed=0)


def set_weights(layer: tf.keras.layers.Layer, *weights: Any) -> None:
    layer.set_weights([np.float32(weight) for weight in weights])


def outputs(model: tf.keras.Model, observation: Any) -> list[list[float]]:
    return model(tf.nest.map_structure(tf.constant, observation)).numpy().tolist()


def test_float32_observations_are_taken_as_they_are() -> None:
    model = linear(VECTOR)
    set_weights(model, [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [0.0, 0.0, 10.0])
    assert outputs(model, np.float32([[2.0, -3.0]])) == [[2.0, -3.0, 9.0]]


def test_uint8_observations_are_scaled_by_their_largest_value() -> None:
    model = linear(Specs(ArraySpec((2,), "uint8", (4,)), 2))
    set_weights(model, np.eye(2), np.zeros(2))
    assert outputs(model, np.uint8([[1, 4], [0, 2]])) == [[0.25, 1.0], [0.0, 0.5]]


def test_int32_observations_are_one_hot_an_entry() -> None:
    # Two entries of 2 and 3 categories: five features, of which two are 1. The weights name the features.
    model = linear(Specs(ArraySpec((2,), "int32", (1, 2)), 1))
    set_weights(model, [[1.0], [2.0], [10.0], [20.0], [30.0]], [0.0])
    assert outputs(model, np.int32([[0, 0], [1, 2], [0, 1]])) == [[11.0], [32.0], [21.0]]


def test_a_single_category_has_no_shape() -> None:
    model = linear(Specs(ArraySpec((), "int32", (2,)), 1))
    set_weights(model, [[1.0], [2.0], [3.0]], [0.5])
    assert outputs(model, np.int32([2, 0])) == [[3.5], [1.5]]


def test_int32_arrays_of_any_rank_take_their_bounds_in_c_order() -> None:
    # Entries (0, 0), (0, 1), (1, 0), (1, 1) have 1, 2, 1 and 3 categories: features start at 0, 1, 3 and 4.
    model = linear(Specs(ArraySpec((2, 2), "int32", (0, 1, 0, 2)), 1))
    set_weights(model, np.float32([[1], [2], [4], [8], [16], [32], [64]]), [0.0])
    assert outputs(model, np.int32([[[0, 1], [0, 2]]])) == [[1.0 + 4.0 + 8.0 + 64.0]]


def test_dict_observations_are_joined_in_the_order_of_their_names() -> None:
    model = linear(Specs({"b": ArraySpec((1,), "float32"), "a": ArraySpec((), "int32", (1,))}, 1))
    set_weights(model, [[1.0], [2.0], [10.0]], [0.0])  # a is 0, a is 1, b
    assert outputs(model, {"a": np.int32([1]), "b": np.float32([[3.0]])}) == [[32.0]]


def test_leaves_whose_names_differ_by_a_slash_are_two_inputs() -> None:
    model = linear(Specs({"a/b": ArraySpec((1,), "float32"), "a_b": ArraySpec((1,), "float32")}, 1))
    set_weights(model, [[1.0], [10.0]], [0.0])
    assert outputs(model, {"a/b": np.float32([[2.0]]), "a_b": np.float32([[3.0]])}) == [[32.0]]


def test_dueling_q_is_value_plus_advantage_minus_mean_advantage() -> None:
    model = linear(VECTOR, dueling=True)
    by_units = {layer.units: layer for layer in model.layers if isinstance(layer, tf.keras.layers.Dense)}
    set_weights(by_units[3], [[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]], [0.0, 0.0, 0.0])  # advantages
    set_weights(by_units[1], [[10.0], [20.0]], [1.0])  # value
    # x = [1, 1]: A = [1, 2, 9] with mean 4, V = 31; Q = 31 + [1, 2, 9] - 4.
    assert outputs(model, np.float32([[1.0, 1.0]])) == [[28.0, 29.0, 36.0]]


def test_dueling_q_values_have_the_state_value_as_mean() -> None:
    model = networks.value_model(VECTOR, DqnConfig(hidden_units=(16,), activation="tanh", dueling=True), None, seed=3)
    (value_layer,) = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Dense) and layer.units == 1]
    value = tf.keras.Model(model.input, value_layer.output)
    observation = tf.constant(np.random.default_rng(0).normal(size=(32, 2)), tf.float32)
    np.testing.assert_allclose(tf.reduce_mean(model(observation), axis=1), value(observation)[:, 0], atol=1e-6)


def test_hidden_layers_have_the_configured_units_and_activation() -> None:
    model = networks.value_model(VECTOR, DqnConfig(hidden_units=(5, 4), activation="tanh"), None, seed=0)
    assert [weight.shape.as_list() for weight in model.weights] == [[2, 5], [5], [5, 4], [4], [4, 3], [3]]
    random = np.random.default_rng(0)
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in model.weights]
    model.set_weights(weights)
    x = random.normal(size=(7, 2)).astype(np.float32)
    hidden = np.tanh(np.tanh(x @ weights[0] + weights[1]) @ weights[2] + weights[3])
    np.testing.assert_allclose(model(x), hidden @ weights[4] + weights[5], rtol=1e-5, atol=1e-5)


def test_images_go_through_the_nature_convolutions() -> None:
    model = networks.value_model(
        Specs(ArraySpec((84, 84, 4), "uint8", (255,)), 6), DqnConfig(hidden_units=(512,)), None, seed=0
    )
    kernels = [weight.shape.as_list() for weight in model.weights if weight.shape.rank == 4]
    assert kernels == [[8, 8, 4, 32], [4, 4, 32, 64], [3, 3, 64, 64]]


def outputs_of(torso: Any, size: int) -> list[list[int]]:
    """Shapes of each convolution's output, without the batch."""
    specs = Specs(ArraySpec((size, size, 4), "uint8", (255,)), 6)
    model = networks.value_model(specs, DqnConfig(image_torso=torso), None, seed=0)
    return [list(layer.output_shape[1:]) for layer in model.layers if isinstance(layer, tf.keras.layers.Conv2D)]


def test_torsos_have_the_published_shapes() -> None:
    assert outputs_of("nature", 84) == [[20, 20, 32], [9, 9, 64], [7, 7, 64]]
    assert outputs_of("minatar", 10) == [[8, 8, 16]]
    impala = outputs_of("impala", 84)
    assert len(impala) == 15  # three sections of one convolution and two blocks of two
    assert impala[::5] == [[84, 84, 16], [42, 42, 32], [21, 21, 32]]
    assert impala[-1] == [11, 11, 32]


def test_small_images_are_padded_for_nature() -> None:
    assert outputs_of("nature", 12) == [[3, 3, 32], [2, 2, 64], [2, 2, 64]]


@pytest.mark.parametrize("dueling", [False, True])
def test_a_seed_fixes_every_initial_weight_and_another_seed_changes_every_kernel(dueling: bool) -> None:
    specs = Specs({"image": ArraySpec((12, 12, 1), "uint8", (255,)), "vector": ArraySpec((2,), "float32")}, 3)
    one, same, other = (
        networks.value_model(specs, DqnConfig(hidden_units=(8, 8), dueling=dueling), None, seed=seed)
        for seed in (5, 5, 6)
    )
    for weight, equal, different in zip(one.get_weights(), same.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, equal)
        if weight.ndim > 1:
            assert (weight != different).any()


def test_layers_of_equal_shape_start_with_different_weights() -> None:
    model = networks.value_model(Specs(ArraySpec((8,), "float32"), 2), DqnConfig(hidden_units=(8, 8)), None, seed=0)
    first, second = (weight for weight in model.get_weights() if weight.shape == (8, 8))
    assert (first != second).any()


def test_initial_weights_do_not_depend_on_what_was_drawn_before() -> None:
    tf.random.set_seed(1)
    one = networks.value_model(VECTOR, DqnConfig(hidden_units=(8,)), None, seed=0).get_weights()
    tf.random.set_seed(2)
    tf.random.normal((3,))
    for weight, equal in zip(
        one, networks.value_model(VECTOR, DqnConfig(hidden_units=(8,)), None, seed=0).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, equal)


@pytest.mark.parametrize("batch", [3, 600])
@pytest.mark.parametrize("units", [1, 2, 4, 5])
def test_a_narrow_layer_has_the_values_and_gradients_of_a_dense_one(units: int, batch: int) -> None:
    random = np.random.default_rng(0)
    features = tf.constant(random.normal(size=(batch, 6)), tf.float32)
    weight = tf.constant(random.normal(size=(batch, units)), tf.float32)
    results = []
    for layer in (networks.NarrowDense(units), tf.keras.layers.Dense(units)):
        layer.build((batch, 6))
        layer.set_weights([np.float32(np.arange(6 * units).reshape(6, units) / 10), np.float32(np.arange(units))])
        with tf.GradientTape() as tape:
            tape.watch(features)
            values = layer(features)
            loss = tf.reduce_sum(values * weight)
        results.append([values, *tape.gradient(loss, [features, *layer.trainable_weights])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def halves(image: Any, seeds: Seeds, activation: str) -> Any:
    """A torso: every second number, and their dense features."""
    flat = tf.keras.layers.Flatten()(image)[:, ::2]
    return tf.keras.layers.Dense(5, activation, kernel_initializer=seeds.he_uniform(), name="halves")(flat)


@pytest.mark.parametrize("spec", [ArraySpec((6,), "float32"), ArraySpec((4, 4, 2), "uint8", (255,))])
def test_a_torso_of_ones_own_takes_the_place_of_ours(spec: ArraySpec) -> None:
    config = DqnConfig(torso="test_networks:halves", hidden_units=(3,))
    sys.modules["test_networks"] = sys.modules[__name__]  # tests are no package: they have no import path
    model, again = (networks.value_model(Specs(spec, 2), config, None, seed=7) for _ in range(2))
    assert not any(isinstance(layer, tf.keras.layers.Conv2D) for layer in model.layers)
    observation = np.arange(2 * np.prod(spec.shape)).reshape(2, *spec.shape).astype(spec.dtype)
    scaled = observation.reshape(2, -1) / (255.0 if spec.dtype == "uint8" else 1.0)
    kernel, bias, *rest = model.get_weights()
    hidden = np.maximum(scaled[:, ::2] @ kernel + bias, 0.0)
    expected = np.maximum(hidden @ rest[0] + rest[1], 0.0) @ rest[2] + rest[3]
    np.testing.assert_allclose(model(observation), expected, rtol=1e-4, atol=1e-4)
    for mine, its in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("path", ["no_such_module:torso", "tensorflow:no_such_function", "tensorflow"])
def test_a_torso_that_there_is_not_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=r"agent\.torso="):
        networks.value_model(Specs(ArraySpec((6,), "float32"), 2), DqnConfig(torso=path), None, seed=0)
