"""Batches that repeat an entry of the table: Watkins' rule stays stable, whatever the repetition."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tf_agents.trajectories import Trajectory

import agents
from agents import ArraySpec, Specs

FIRST, LAST = 0, 2
STATES, ACTIONS, BATCH = 4, 3, 32


class Visit(NamedTuple):
    """One step that ends its episode: its reward is the target."""

    state: int
    action: int
    reward: float


def experience(visits: list[Visit]) -> Trajectory:
    """Windows of two frames [B, 2], one a visit."""
    states, actions, rewards = (np.array(column)[:, np.newaxis] for column in zip(*visits, strict=True))
    rows = np.zeros((len(visits), 2))
    return Trajectory(
        step_type=tf.constant(rows + np.array([FIRST, LAST]), tf.int32),
        observation=tf.constant(rows + states, tf.int32),
        action=tf.constant(rows + actions, tf.int64),
        policy_info=(),
        next_step_type=tf.constant(rows + np.array([LAST, FIRST]), tf.int32),
        reward=tf.constant(rows + rewards, tf.float32),
        discount=tf.constant(rows, tf.float32),
    )


class Trained(NamedTuple):
    """An agent whose table starts anew for each example, so that its gradient step is traced once."""

    agent: Any
    train: Callable[..., Any]

    def table_after(self, visits: list[Visit], rate: float, weights: list[float], steps: int = 1) -> np.ndarray:
        """The table, from zeros, after gradient steps on one batch."""
        self.agent.acting_model.set_weights([np.zeros((STATES, ACTIONS), np.float32)])
        self.agent.learning_rate_scale.assign(rate)
        for _ in range(steps):
            self.train(experience(visits), weights=tf.constant(weights, tf.float32))
        (table,) = self.agent.acting_model.get_weights()
        return table


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "compiled"])
def trained(request: pytest.FixtureRequest) -> Trained:
    config = agents.QLearningConfig(learning_rate=1.0)
    agent = agents.build("q_learning", Specs(ArraySpec((), "int32", (STATES - 1,)), ACTIONS), config)
    return Trained(agent, tf.function(agent.train, autograph=False, jit_compile=request.param))


VISITS = st.lists(
    st.builds(Visit, st.integers(0, STATES - 1), st.integers(0, ACTIONS - 1), st.floats(-100, 100, width=32)),
    min_size=BATCH,
    max_size=BATCH,
)
WEIGHTS = st.lists(st.floats(0.0, 1.0, width=32), min_size=BATCH, max_size=BATCH)


@given(visits=VISITS, rate=st.floats(0.01, 1.0), weights=WEIGHTS)
@settings(max_examples=30, deadline=None)
def test_an_entry_stays_between_its_value_and_its_targets(
    trained: Trained, visits: list[Visit], rate: float, weights: list[float]
) -> None:
    table = trained.table_after(visits, rate, weights, steps=3)
    for state, action in np.ndindex(STATES, ACTIONS):
        targets = [reward for *entry, reward in visits if entry == [state, action]]
        assert min([0.0, *targets]) - 1e-3 <= table[state, action] <= max([0.0, *targets]) + 1e-3


@given(
    copies=st.integers(1, BATCH), rate=st.floats(0.01, 1.0), weight=st.floats(0.0, 1.0), reward=st.floats(-100.0, 100.0)
)
@settings(max_examples=30, deadline=None)
def test_copies_of_a_visit_move_an_entry_as_far_as_that_many_single_updates(
    trained: Trained, copies: int, rate: float, weight: float, reward: float
) -> None:
    visits = [Visit(1, 2, reward)] * copies + [Visit(0, 0, 0.0)] * (BATCH - copies)
    expected = 0.0
    for _ in range(copies):
        expected += rate * weight * (reward - expected)
    table = trained.table_after(visits, rate, [weight] * BATCH)
    assert table[1, 2] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert np.count_nonzero(table) <= 1


def test_targets_that_differ_are_taken_as_their_mean_by_weight(trained: Trained) -> None:
    visits = [Visit(2, 0, 10.0), Visit(2, 0, 40.0)] + [Visit(0, 0, 0.0)] * (BATCH - 2)
    table = trained.table_after(visits, 0.5, [1.0, 0.5] + [1.0] * (BATCH - 2))
    # The shares that are kept are 0.5 and 0.75; the mean of the targets is 30 / 1.5.
    assert table[2, 0] == pytest.approx((1.0 - 0.5 * 0.75) * 20.0)


def test_a_repeated_batch_converges_on_its_target_at_the_default_rate(trained: Trained) -> None:
    visits = [Visit(0, 0, 1.0)] * BATCH
    table = trained.table_after(visits, agents.QLearningConfig().learning_rate, [1.0] * BATCH, steps=12)
    assert table[0, 0] == pytest.approx(1.0, abs=1e-3)
