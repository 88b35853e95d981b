"""Optimizers beside Adam, weight decay and clipping by value: hand-worked updates, and slow loops in NumPy."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import changed, config_of, experience, specs_of
from tiers import tiered

import agents
from agents import BUILDERS, DqnConfig
from agents.config_fields import Schedule
from agents.optimizers import Adam, Optimizer, optimizer_of
from agents.radam import RAdam
from agents.rmsprop import RmsProp

LOSS = tf.constant(1.0)
RATE, DECAY = 1e-2, 0.1
Make = dict[str, Any]


def slow_adam(gradients: list[np.ndarray], weight: np.ndarray, rates: list[float], weight_decay: float) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, with epsilon beside the uncorrected root."""
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t) * first / (np.sqrt(second) + 1e-7)
        weight = weight - rate * (step + weight_decay * weight)
    return weight


def slow_rmsprop(
    gradients: list[np.ndarray], weight: np.ndarray, rates: list[float], weight_decay: float
) -> np.ndarray:
    """The loop of the program that Mnih et al. 2015 published: g, g2, and sqrt(g2 - g * g + 0.01)."""
    g, g2 = np.zeros_like(weight), np.zeros_like(weight)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = 0.95 * g + 0.05 * gradient
        g2 = 0.95 * g2 + 0.05 * gradient * gradient
        weight = weight - rate * (gradient / np.sqrt(g2 - g * g + 0.01) + weight_decay * weight)
    return weight


def linear(count: int) -> list[float]:
    return [RATE + min(t / 10, 1.0) * (1e-3 - RATE) for t in range(count)]


@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
@pytest.mark.parametrize(
    ("moves", "rates"),
    [
        ({}, [RATE] * 40),
        ({"learning_rate_final": 1e-3, "decay_steps": 10}, linear(40)),
        ({"schedule": Schedule(points=((10, 1e-3),))}, linear(40)),
        ({"schedule": Schedule(shape="piecewise", points=((20, 1e-4),))}, [RATE] * 20 + [1e-4] * 20),
    ],
    ids=["constant", "linear decay", "linear schedule", "piecewise"],
)
@pytest.mark.parametrize("slow", [slow_adam, slow_rmsprop])
def test_updates_are_those_of_a_slow_loop(slow: Any, moves: Make, rates: list[float], weight_decay: float) -> None:
    random = np.random.default_rng(0)
    start = random.normal(size=(3, 2))
    gradients = [10.0 ** random.uniform(-3, 1) * random.normal(size=(3, 2)) for _ in rates]
    weight = tf.Variable(start.astype(np.float32), name="kernel")
    if slow is slow_adam:
        optimizer: Optimizer = Adam([weight], RATE, weight_decay=weight_decay, **moves)
    else:
        optimizer = RmsProp([weight], RATE, decay=0.95, epsilon=0.01, weight_decay=weight_decay, **moves)
    apply = tf.function(optimizer.apply, autograph=False)
    for gradient in gradients:
        apply([tf.constant(gradient, tf.float32)], LOSS)
    np.testing.assert_allclose(weight, slow(gradients, start, rates, weight_decay), rtol=2e-4, atol=2e-5)


def test_the_first_updates_of_rmsprop_by_hand() -> None:
    # Of g = 2 with a decay of 1/2: m = 1, s = 2, and 2 / sqrt(2 - 1 + 3) = 1. Then m = 1.5, s = 3: 2 / sqrt(3.75).
    weight = tf.Variable([1.0])
    rmsprop = RmsProp([weight], 0.1, decay=0.5, epsilon=3.0)
    rmsprop.apply([tf.constant([2.0])], LOSS)
    np.testing.assert_allclose(weight, [0.9], rtol=1e-6)
    rmsprop.apply([tf.constant([2.0])], LOSS)
    np.testing.assert_allclose(weight, [0.9 - 0.1 * 2.0 / 3.75**0.5], rtol=1e-6)


@pytest.mark.parametrize("kind", [Adam, RAdam, RmsProp])
def test_only_kernels_decay(kind: Any) -> None:
    names = ("dense/kernel", "lstm_cell/recurrent_kernel", "dense/bias", "layer_norm/gain", "noisy/kernel_sigma")
    weights = [tf.Variable([2.0], name=name) for name in names]
    more = {"decay": 0.95, "epsilon": 0.01} if kind is RmsProp else {}
    kind(weights, 0.1, weight_decay=0.5, **more).apply([tf.zeros(1)] * len(weights), LOSS)
    # Without a gradient, 2 less 0.1 * 0.5 * 2.
    np.testing.assert_allclose([float(weight[0]) for weight in weights], [1.9, 1.9, 2.0, 2.0, 2.0], rtol=1e-6)


def test_values_are_clipped_before_the_norm_and_the_norm_that_is_told_is_of_neither() -> None:
    weight = tf.Variable([0.0, 0.0, 0.0])
    # Clipped to [3, -3, 0.5] by value, of norm 4.2720, and then to a norm of 1.
    adam = Adam([weight], 0.1, clip_value=3.0, clip_norm=1.0)
    assert float(adam.apply([tf.constant([30.0, -40.0, 0.0])], LOSS).norm) == 50.0
    np.testing.assert_allclose(adam.first_moments[0], [0.1 * 0.5**0.5, -0.1 * 0.5**0.5, 0.0], rtol=1e-5)
    adam = Adam([weight], 0.1, clip_value=3.0)
    adam.apply([tf.constant([30.0, -2.0, 0.5])], LOSS)
    np.testing.assert_allclose(adam.first_moments[0], [0.3, -0.2, 0.05], rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_update_that_is_not_finite_changes_no_bit(poison: float) -> None:
    weight = tf.Variable([1.0, -2.0], name="kernel")
    more = {"clip_value": 1.0, "weight_decay": 0.1, "schedule": Schedule(points=((5, 1e-3),))}
    optimizer = RmsProp([weight], RATE, decay=0.95, epsilon=0.01, **more)
    optimizer.apply([tf.constant([0.3, 0.4])], LOSS)
    before = [variable.numpy() for variable in (weight, *optimizer.variables)]
    assert not optimizer.apply([tf.constant([poison, 0.4])], LOSS).applied
    for variable, value in zip((weight, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


CHOSEN: dict[str, Make] = {
    "rmsprop": {"optimizer": "rmsprop", "rmsprop_epsilon": 0.1, "weight_decay": 0.01, "gradient_clip_value": 0.5},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "radam": {"optimizer": "radam", "adam_epsilon": 1e-6, "weight_decay": 0.01},
}
DEEP = [kind for kind in BUILDERS if kind != "q_learning"]


@pytest.mark.parametrize(
    ("kind", "name"), tiered([(kind, name) for kind in DEEP for name in CHOSEN], [("dqn", "rmsprop"), ("ppo", "adamw")])
)
def test_every_deep_kind_trains_with_it_and_goes_on_from_its_variables(kind: str, name: str) -> None:
    specs, config = specs_of(kind), changed(config_of(kind), CHOSEN[name])
    one, other = (agents.build(kind, specs, config, seed=1) for _ in range(2))
    batches = [experience(specs, (8, config.window_length), seed, config.state_units) for seed in (0, 1)]
    one.train(batches[0])
    for target, source in zip(other.variables, one.variables, strict=True):  # as a resumed run has them
        target.assign(source)
    for agent in (one, other):
        assert agent.train(batches[1]).extra.applied
    for mine, its in zip(one.acting_model.get_weights(), other.acting_model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("adamw", Adam), ("radam", RAdam), ("rmsprop", RmsProp)])
def test_the_field_chooses(name: str, kind: type[Optimizer]) -> None:
    config = DqnConfig(optimizer=name, weight_decay=0.0 if name == "adam" else 0.01)  # type: ignore[arg-type]
    assert type(optimizer_of([tf.Variable([1.0])], config)) is kind


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"weight_decay": 0.1}, "optimizer='adam' reads no weight_decay: leave it at 0, or set optimizer='adamw'"),
        ({"optimizer": "adamw"}, "optimizer='adamw' without weight_decay is Adam"),
        (
            {"optimizer": "rmsprop", "adam_epsilon": 1e-3},
            "optimizer='rmsprop' reads no adam_epsilon: leave it at 1e-07",
        ),
        (
            {"rmsprop_decay": 0.9},
            "optimizer='adam' reads no rmsprop_decay: leave it at 0.95, or set optimizer='rmsprop'",
        ),
        ({"optimizer": "radam", "rmsprop_epsilon": 1.0}, "optimizer='radam' reads no rmsprop_epsilon"),
    ],
)
def test_fields_that_nothing_reads_are_refused(fields: Make, sentence: str) -> None:
    for kind in ("dqn", "ppo"):
        if "1e-07" in sentence and kind == "ppo":
            continue
        with pytest.raises(ValueError, match=sentence):
            BUILDERS[kind].config(**fields)
