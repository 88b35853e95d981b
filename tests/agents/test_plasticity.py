"""Dormant units by hand, and what renewing units and layers changes and leaves."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import changed, experience

import agents
from agents import BUILDERS, ArraySpec, Specs, plasticity

VECTOR = Specs(ArraySpec((4,), "float32"), 3, masked=True)
PICTURE = Specs(ArraySpec((10, 10, 4), "uint8", (1,)), 3)


def test_dormant_units_by_hand() -> None:
    # Mean absolute activations 0, 1, 3 and 4 of a layer whose mean is 2: scores 0, 0.5, 1.5 and 2.
    activations = np.float32([[0, -2, 3, 8], [0, 0, 3, 0]])
    assert plasticity.dormant(activations, 0.0).tolist() == [True, False, False, False]
    assert plasticity.dormant(activations, 0.5).tolist() == [True, True, False, False]
    assert plasticity.dormant(np.zeros((2, 3), np.float32), 0.1).all()


def trained(specs: Specs, **fields: Any) -> Any:
    config = changed(BUILDERS["dqn"].config(hidden_units=(8, 6), image_torso="minatar"), fields)
    agent = agents.build("dqn", specs, config, seed=1)
    if specs is VECTOR:
        agent.train(experience(VECTOR, (32, 2)))
    return agent


@pytest.mark.parametrize("fields", [{}, {"dueling": True}, {"layer_norm": True}], ids=str)
def test_units_that_are_dead_begin_anew_and_change_nothing_that_is_said(fields: dict[str, Any]) -> None:
    agent = trained(VECTOR, **fields)
    first, second, *heads = [layer for layer in agent.acting_model.layers if hasattr(layer, "kernel")]
    if not fields.get("layer_norm"):  # else nothing that a dense layer does makes a unit silent for ever
        first.bias.assign(np.float32([-1e3, 0, 0, 0, -1e3, 0, 0, 0]))
    observation = tf.constant(np.random.default_rng(0).normal(size=(64, 4)), tf.float32)
    before, old = agent.acting_model(observation).numpy(), [weight.numpy() for weight in agent.acting_model.weights]
    number = plasticity.Plasticity(agent).recycle(observation, 0.0, seed=5)
    np.testing.assert_allclose(agent.acting_model(observation), before, rtol=1e-4, atol=1e-5)
    if fields.get("layer_norm"):
        return
    kernel, slots = first.kernel.numpy(), agent._optimizer.first_moments
    assert number >= 2
    assert (kernel[:, [0, 4]] != old[0][:, [0, 4]]).all()
    assert first.bias.numpy()[[0, 4]].tolist() == [0.0, 0.0]
    assert not second.kernel.numpy()[[0, 4]].any()
    assert not slots[0].numpy()[:, [0, 4]].any()
    assert not slots[2].numpy()[[0, 4]].any()
    assert slots[0].numpy().any()
    bound = np.sqrt(6.0 / 4.0)  # He's
    assert np.abs(kernel[:, [0, 4]]).max() <= bound
    if fields.get("dueling"):
        assert len(plasticity.followed_layers(agent._q_network.model)[1].takers) == len(heads) == 2


def test_channels_of_convolutions_are_units_of_every_pixel() -> None:
    agent = trained(PICTURE)
    (convolution, _, _) = followed = [of.layer for of in plasticity.followed_layers(agent._q_network.model)]
    assert len(followed) == 3
    convolution.bias.assign(np.where(np.arange(16) == 3, -1e3, convolution.bias))
    seen = tf.constant(np.random.default_rng(0).integers(0, 2, (8, 10, 10, 4)), tf.uint8)
    before = agent.acting_model(seen).numpy()
    assert plasticity.Plasticity(agent).recycle(seen, 0.0, seed=5) >= 1
    np.testing.assert_allclose(agent.acting_model(seen), before, rtol=1e-4, atol=1e-5)
    taker = plasticity.followed_layers(agent._q_network.model)[0].takers[0]
    rows = taker.kernel.numpy().reshape(-1, 16, taker.units)
    assert not rows[:, 3].any()
    assert rows[:, 2].any()


@pytest.mark.parametrize("keep", [0.0, 0.75])
def test_a_reset_mixes_new_weights_in_and_forgets_moments(keep: float) -> None:
    agent = trained(VECTOR)
    old = agent.acting_model.get_weights()
    plasticity.Plasticity(agent).reset(keep, seed=7)
    new, target = agent.acting_model.get_weights(), agent._target_q_network.model.get_weights()
    for position, (fresh, stale, follows) in enumerate(zip(new, old, target, strict=True)):
        np.testing.assert_array_equal(fresh, follows)
        if position % 2 == 1:
            np.testing.assert_allclose(fresh, keep * stale, atol=1e-7)
        else:
            assert np.abs(fresh - keep * stale).max() > 0.05
    assert not any(slot.numpy().any() for slots in agent._optimizer._slots() for slot in slots)


def test_layers_where_units_meet_are_left_alone() -> None:
    entry = tf.keras.Input((4,))
    first = tf.keras.layers.Dense(5, "relu", name="first")(entry)
    second = tf.keras.layers.Dense(5, "relu", name="second")(first)
    joined = tf.keras.layers.Add()([first, second])
    model = tf.keras.Model(entry, tf.keras.layers.Dense(2, name="head")(joined))
    assert [of.layer.name for of in plasticity.followed_layers(model)] == []
