"""Schedules: hand-worked numbers, what is refused, and gamma, n and temperature as the kinds' losses take them."""

import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from kinds import changed, config_of, experience, specs_of
from tiers import tiered

import agents
from agents import DqnConfig, PpoConfig, QLearningConfig
from agents.config_fields import Schedule
from agents.losses import n_step_return
from agents.schedules import value_at


@pytest.mark.parametrize(
    ("shape", "of_horizon", "expected"),
    [
        # From 8 to 2 in 100 steps, and on to 4 in 100 more.
        ("linear", False, {0: 8.0, 25: 6.5, 100: 2.0, 150: 3.0, 200: 4.0, 10**9: 4.0}),
        # (1 - cos(pi f)) / 2 is 0.1464 at a quarter and a half at the half.
        ("cosine", False, {0: 8.0, 25: 8.0 - 6.0 * 0.146447, 50: 5.0, 100: 2.0, 150: 3.0, 200: 4.0}),
        # 8^(1/2) 2^(1/2) = 4, 2^(1/2) 4^(1/2) = 2.8284.
        ("exponential", False, {0: 8.0, 50: 4.0, 100: 2.0, 150: 2.828427, 200: 4.0}),
        ("piecewise", False, {0: 8.0, 99: 8.0, 100: 2.0, 199: 2.0, 200: 4.0, 10**9: 4.0}),
    ],
)
def test_values_by_hand(shape: Any, of_horizon: bool, expected: dict[int, float]) -> None:
    schedule = Schedule(shape=shape, points=((100, 2.0), (200, 4.0)))
    found = [value_at(schedule, 8.0, tf.constant(count, tf.int64), of_horizon=of_horizon) for count in expected]
    np.testing.assert_allclose(found, [*expected.values()], rtol=1e-5)


def test_bbf_has_10_to_3_steps_and_0_97_to_0_997_by_factors() -> None:
    # Schwarzer et al. 2023, section 3: over 10,000 gradient steps. Halfway 10^(1/2) 3^(1/2) = 5.477 and
    # 1 - (0.03 * 0.003)^(1/2) = 0.990513.
    config = DqnConfig(
        n_step=10,
        n_step_schedule=Schedule(shape="exponential", points=((10_000, 3),)),
        discount=0.97,
        discount_schedule=Schedule(shape="exponential", points=((10_000, 0.997),)),
    )
    assert config.window_length == 11
    from agents.losses import horizon

    found = [horizon(config, tf.constant(count, tf.int64)) for count in (0, 5_000, 10_000, 20_000)]
    assert [int(n) for _, n in found] == [10, 5, 3, 3]
    np.testing.assert_allclose([gamma for gamma, _ in found], [0.97, 0.990513, 0.997, 0.997], rtol=1e-6)


def test_a_late_count_is_exact() -> None:
    # Float32 cannot tell 2^24 from 2^24 + 1: steps are compared as whole numbers.
    schedule = Schedule(shape="piecewise", points=((2**24 + 1, 1.0),))
    assert float(value_at(schedule, 0.0, tf.constant(2**24, tf.int64))) == 0.0
    assert float(value_at(schedule, 0.0, tf.constant(2**24 + 1, tf.int64))) == 1.0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_fewer_steps_of_a_longer_window_fold_as_a_shorter_window_does(n: int) -> None:
    batch = experience(specs_of("dqn"), (64, 5))
    whole = batch.step_type, batch.reward, batch.discount
    found = n_step_return(*whole, 0.9, tf.constant(n))
    expected = n_step_return(*(leaf[:, : n + 1] for leaf in whole), 0.9)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


SCHEDULED: dict[str, dict[str, Any]] = {
    "n_step_schedule": {"points": ((7, 1),)},
    "discount_schedule": {"shape": "exponential", "points": ((7, 0.5),)},
    "learning_rate_schedule": {"shape": "piecewise", "points": ((7, 0.3),)},
    "munchausen_temperature_schedule": {"shape": "cosine", "points": ((7, 3.0),)},
}
FIXED = {"n_step": 1, "discount": 0.5, "learning_rate": 0.3, "munchausen_temperature": 3.0}
CASES = [
    (kind, field)
    for kind, builder in agents.BUILDERS.items()
    for field in SCHEDULED
    if field in {known.name for known in msgspec.structs.fields(builder.config)}
]


@pytest.mark.parametrize(
    ("kind", "name"),
    tiered(
        CASES,
        [("dqn", "n_step_schedule"), ("dqn", "munchausen_temperature_schedule"), ("q_learning", "n_step_schedule")],
    ),
)
def test_every_kind_learns_by_the_present_value(kind: str, name: str) -> None:
    """After its last point a scheduled agent takes the step of one that has the last value from the start."""
    plain = {"learning_rate_decay_steps": 0}
    if name.startswith("munchausen"):
        plain |= {"munchausen": True, "double": False}
    field = name.removesuffix("_schedule")
    config = changed(config_of(kind), plain | {name: Schedule(**SCHEDULED[name])})
    fixed, specs = changed(config_of(kind), plain | {field: FIXED[field]}), specs_of(kind)
    batch = experience(specs, (8, config.window_length), state_units=config.state_units)
    shorter = tf.nest.map_structure(lambda leaf: leaf[:, : fixed.window_length], batch)
    ends = []
    for chosen, data, count in ((config, batch, 7), (fixed, shorter, 7), (config, batch, 0)):
        agent = agents.build(kind, specs, chosen, seed=1)
        agent.train_step_counter.assign(count)  # as a resumed run has it
        agent._optimizer.updates.assign(count)
        agent.train(data)
        ends.append(agent.acting_model.get_weights())
    for one, other in zip(ends[0], ends[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert any(np.abs(one - other).max() > 1e-5 for one, other in zip(ends[0], ends[2], strict=True))


def points(*pairs: tuple[int, float], shape: Any = "linear") -> Schedule:
    return Schedule(shape=shape, points=pairs)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DqnConfig(discount_schedule=points((5, 0.9), (5, 0.8))), "must rise in their gradient steps"),
        (lambda: DqnConfig(discount_schedule=points((0, 0.9))), "from above 0, and are at [0]"),
        (lambda: DqnConfig(discount_schedule=points((5, 1.5))), "the value 1.5: a number from 0 to 1 is wanted"),
        (lambda: DqnConfig(discount_schedule=points((5, math.nan))), "a number from 0 to 1 is wanted"),
        (lambda: DqnConfig(discount_schedule=points((5, 1.0), shape="exponential")), "stay below 1"),
        (lambda: PpoConfig(discount_schedule=points((5, 1.5))), "the value 1.5"),
        (lambda: DqnConfig(n_step_schedule=points((5, 2.5))), "a whole number from 1 to 100 is wanted"),
        (lambda: DqnConfig(learning_rate_schedule=points((5, 0.0))), "a number above 0 is wanted"),
        (lambda: QLearningConfig(learning_rate_schedule=points((5, 1.5))), "above 0 and at most 1 is wanted"),
        (
            lambda: DqnConfig(learning_rate_schedule=points((5, 1e-4)), learning_rate_decay_steps=5),
            "both move the step size: leave one out",
        ),
        (lambda: DqnConfig(munchausen_temperature_schedule=points((5, 1.0))), "munchausen=true, which is false"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        make()
    assert "\n" not in str(caught.value)
