"""Ends of a categorical support that a config leaves open, by hand-worked numbers, and the agent that has them."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import VECTOR, changed, config_of, experience, scores

import agents
from agents import C51Config, support

OPEN = ("auto", "auto")


@pytest.mark.parametrize(
    ("rewards", "discount", "v_min", "v_max", "ends"),
    [
        ([1.0, 1.0, 1.0], 0.99, *OPEN, (0.0, 100.0)),  # 1 in every step: the bound
        ([-1.0, -1.0], 0.99, *OPEN, (-100.0, 0.0)),
        ([0.0, 0.0, 0.0, 1.0], 0.99, *OPEN, (0.0, 50.0)),  # in a quarter of the steps: half of the bound
        ([0.0] * 999 + [1.0], 0.99, *OPEN, (0.0, 10.0)),  # once: as if once in 100 steps
        ([0.0] * 999 + [-1.0], 0.99, *OPEN, (-10.0, 0.0)),
        ([-0.1] * 99 + [10.0], 0.99, *OPEN, (-110.0, 110.0)),  # sqrt(100.99 / 100) * 100 = 100.5, rounded up
        ([3.0, 1.0], 0.0, *OPEN, (0.0, 3.0)),  # no horizon: one reward
        ([1.0, 1.0], 0.99, 0.0, "auto", (0.0, 100.0)),
        ([1.0, 1.0], 0.99, -5.0, "auto", (-5.0, 100.0)),
        ([1.0, 1.0], 0.99, "auto", 20.0, (0.0, 20.0)),
        ([-1.0, -1.0], 0.99, 0.0, "auto", (0.0, 100.0)),  # what is given stays, and an end lies beyond it
        ([1.0, 1.0], 0.99, "auto", 0.0, (-100.0, 0.0)),
    ],
)
def test_ends_by_hand(rewards: list[float], discount: float, v_min: Any, v_max: Any, ends: tuple[float, float]) -> None:
    assert support.ends(np.array(rewards, np.float32), discount, v_min, v_max) == pytest.approx(ends)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0.0 or abs(x) > 1e-3), min_size=1, max_size=30),
    st.floats(0.0, 0.999),
)
def test_ends_hold_any_reward_and_no_more_than_there_can_be(rewards: list[float], discount: float) -> None:
    values = np.array(rewards, np.float32)
    if not values.any():
        return
    low, high = support.ends(values, discount, *OPEN)
    bound = float(np.abs(values).max()) / (1.0 - discount)
    assert low < high
    slack = 1e-5 * float(np.abs(values).max())  # of rounding: 0.1 is a little more in float32
    assert low <= min(0.0, float(values.min())) + slack
    assert max(0.0, float(values.max())) - slack <= high
    assert max(-low, high) <= 1.1 * bound * (1.0 + 1e-6)  # rounded up to two digits


def test_a_first_support_lies_around_zero_and_grows_from_it() -> None:
    assert support.provisional(0.99, *OPEN) == pytest.approx((-10.0, 10.0))
    assert support.provisional(0.99, 0.0, "auto") == pytest.approx((0.0, 10.0))
    assert support.provisional(1.0, -3.0, 7.0) == (-3.0, 7.0)
    rewards = np.array([0.0] * 999 + [5.0], np.float32)
    assert support.ends(rewards, 0.99, *OPEN, is_symmetric=True) == pytest.approx((-50.0, 50.0))


@pytest.mark.parametrize("given", [{"v_min": "auto"}, {"v_max": "auto"}, {"v_min": "auto", "v_max": "auto"}])
def test_an_open_support_needs_a_discount_below_one(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a discount below 1"):
        C51Config(discount=1.0, **given)


def test_an_agent_without_a_run_refuses_an_open_support_in_one_line() -> None:
    with pytest.raises(ValueError, match=r'v_max="auto" is decided by pipeline.train') as caught:
        agents.build("c51", VECTOR, C51Config(v_max="auto"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "more"), [("c51", {"num_atoms": 7}), ("dqn", {"hl_gauss": True, "num_bins": 7})])
def test_a_support_that_was_decided_is_as_one_that_was_given(kind: str, more: dict[str, Any]) -> None:
    closed = changed(config_of(kind), {"v_min": -2.0, "v_max": 3.0, **more})
    opened = msgspec.structs.replace(closed, v_min="auto", v_max="auto")
    given_agent = agents.build(kind, VECTOR, closed, seed=3)
    agent: Any = agents.build(kind, VECTOR, opened, seed=3, open_fields=True)
    agent.set_support(-2.0, 3.0)
    batch = experience(VECTOR, (8, closed.window_length))
    for each in (given_agent, agent):
        for _ in range(2):
            each.train(batch)
    observation = batch.observation[0][:, 0]
    np.testing.assert_array_equal(scores(given_agent, observation), scores(agent, observation))
    (points,) = (weight for weight in agent.acting_model.weights if "points" in weight.name)
    assert not points.trainable
    assert float(points[0]) == -2.0
    assert float(points[-1]) == 3.0


def test_an_open_support_without_a_support_is_refused() -> None:
    with pytest.raises(ValueError, match="set hl_gauss=true"):
        agents.DqnConfig(v_max="auto")
