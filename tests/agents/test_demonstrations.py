"""DQfD's parts of the loss, against numbers worked by hand and against the losses that they are made of."""

from typing import Any

import msgspec
import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import Trajectory

from agents import ArraySpec, Specs, build
from agents.configs.dqn import DqnConfig
from agents.demonstrations import large_margin_loss

SPECS = Specs(ArraySpec((3,), "float32"), 2)
PLAIN = DqnConfig(n_step=3, hidden_units=(4,), loss="mse", double=False)


def test_the_margin_loss_of_hand_worked_numbers() -> None:
    # max(1, 2 + 0.8, 0.5 + 0.8) - 1; the demonstrated action leads by more than the margin; by less: 0.5 + 0.8 - 1.
    q = tf.constant([[1.0, 2.0, 0.5], [3.0, 2.0, 1.0], [1.0, 0.5, 0.0]])
    found = large_margin_loss(q, tf.constant([0, 0, 0], tf.int64), 0.8)
    np.testing.assert_allclose(found, [1.8, 0.0, 0.3], atol=1e-6)


def test_forbidden_actions_have_no_margin_to_keep() -> None:
    q = tf.constant([[1.0, 9.0, 0.5], [1.0, 9.0, 0.5]])
    mask = tf.constant([[True, False, True], [False, False, True]])  # the demonstrated one counts in any case
    found = large_margin_loss(q, tf.constant([0, 0], tf.int64), 0.8, mask)
    np.testing.assert_allclose(found, [0.3, 0.3], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_margin_loss_equals_a_loop_over_actions(seed: int) -> None:
    random = np.random.default_rng(seed)
    q, action = random.normal(size=(20, 5)).astype(np.float32), random.integers(5, size=20)
    expected = [
        max(row[a] + (0.8 if a != taken else 0.0) for a in range(5)) - row[taken]
        for row, taken in zip(q, action, strict=True)
    ]
    np.testing.assert_allclose(large_margin_loss(tf.constant(q), tf.constant(action), 0.8), expected, atol=1e-6)


def windows(batch: int, frames: int, marks: Any = ()) -> Trajectory:
    random = np.random.default_rng(0)
    step_type = np.ones((batch, frames), np.int32)
    step_type[0, 1] = 2  # an episode ends there
    step_type[-1, 0] = 2  # nothing is learned from this window
    return Trajectory(
        step_type=tf.constant(step_type),
        observation=tf.constant(random.normal(size=(batch, frames, 3)).astype(np.float32)),
        action=tf.constant(random.integers(2, size=(batch, frames))),
        policy_info=marks,
        next_step_type=tf.constant(np.roll(step_type, -1, axis=1)),
        reward=tf.constant(random.normal(size=(batch, frames)).astype(np.float32)),
        discount=tf.ones((batch, frames)),
    )


def loss_of(experience: Trajectory, weights: Any = None, **fields: Any) -> float:
    config = msgspec.structs.replace(PLAIN, **fields)
    return float(build("dqn", SPECS, config, seed=1)._loss(experience, weights).loss)  # type: ignore[attr-defined]


def test_demonstrations_alone_have_the_margin_loss() -> None:
    marks = np.array([1.0, 0.0, 1.0, 0.0, 1.0], np.float32)
    marked, plain = windows(5, 4, tf.constant(marks)), windows(5, 4)
    agent: Any = build("dqn", SPECS, PLAIN, seed=1)
    q = agent._q_network.raw(plain.observation[:, 0])
    each = large_margin_loss(q, plain.action[:, 0], 0.8).numpy() * np.array([1, 1, 1, 1, 0])  # the last has no loss
    without = loss_of(plain)
    assert loss_of(marked, margin=0.8) == pytest.approx(without + (marks * each).mean(), rel=1e-5)
    assert loss_of(marked, margin=0.8, margin_weight=2.0) == pytest.approx(
        without + 2 * (marks * each).mean(), rel=1e-5
    )
    assert loss_of(plain, margin=0.8) == pytest.approx(without + each.mean(), rel=1e-5), (
        "offline all are demonstrations"
    )
    weights = np.array([0.5, 1.0, 0.25, 1.0, 1.0], np.float32)
    weighed = loss_of(plain, weights) + (weights * marks * each).mean()
    assert loss_of(marked, tf.constant(weights), margin=0.8) == pytest.approx(weighed, rel=1e-5)


def test_the_loss_of_one_step_is_that_of_an_agent_of_one_step() -> None:
    experience = windows(6, 4)
    first_two = tf.nest.map_structure(lambda leaf: leaf[:, :2], experience)
    one, several = loss_of(first_two, n_step=1), loss_of(experience)
    assert loss_of(experience, one_step_weight=0.5) == pytest.approx(several + 0.5 * one, rel=1e-5)


def test_the_squares_of_all_weights_are_added() -> None:
    agent: Any = build("dqn", SPECS, PLAIN, seed=1)
    squares = sum(float(np.square(weight.numpy()).sum()) for weight in agent._q_network.trainable_weights)
    experience = windows(4, 4)
    assert loss_of(experience, l2_weight=0.1) == pytest.approx(loss_of(experience) + 0.1 * squares, rel=1e-5)


@pytest.mark.parametrize("kind", ["c51", "qr_dqn", "iqn", "rainbow"])
def test_each_kind_with_values_of_actions_takes_a_step(kind: str) -> None:
    from agents import BUILDERS

    config = BUILDERS[kind].config(n_step=3, hidden_units=(4,), margin=0.8, one_step_weight=1.0, l2_weight=1e-5)
    agent: Any = build(kind, SPECS, config, seed=1)
    before = [weight.numpy() for weight in agent._q_network.trainable_weights]
    found = agent.train(windows(4, 4, tf.constant([1.0, 0.0, 1.0, 0.0])))
    assert bool(found.extra.applied)
    assert any((a != b.numpy()).any() for a, b in zip(before, agent._q_network.trainable_weights, strict=True))


def test_actions_of_several_dimensions_have_no_margin() -> None:
    specs = Specs(ArraySpec((3,), "float32"), 4, action_sizes=(2, 2))
    with pytest.raises(ValueError, match="margin, one_step_weight and l2_weight are of one dimension"):
        build("dqn", specs, msgspec.structs.replace(PLAIN, margin=0.8))
