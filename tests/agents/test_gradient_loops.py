"""The forms in which gradient steps run end with the same weights: eager, tf.function, and the learner's loops."""

import numpy as np
import pytest
import tensorflow as tf
from tf_agents.trajectories import Trajectory

import agents
from agents import ArraySpec, DqnConfig, Specs
from agents.dqn import DqnAgent
from pipeline.config import Experiment, LearnerConfig
from pipeline.learner import Learner
from pipeline.replay import Sample

STEPS, BATCH = 20, 16
SPECS = Specs(ArraySpec((4,), "float32"), 3, masked=True)
CONFIG = DqnConfig(
    hidden_units=(16,),
    dueling=True,
    n_step=3,
    target_update_period=6,
    target_update_tau=0.5,
    learning_rate=0.01,
    learning_rate_decay_steps=15,
    gradient_clip_norm=0.1,
)


def start() -> DqnAgent:
    return agents.build("dqn", SPECS, CONFIG, seed=1)


def state_of(agent: DqnAgent) -> list[np.ndarray]:
    return [variable.numpy() for variable in agent.variables]


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    """Windows with boundaries anywhere, [STEPS, BATCH, T, ...]."""
    random = np.random.default_rng(0)
    shape = (STEPS, BATCH, CONFIG.window_length)
    step_type = tf.constant(random.integers(0, 3, shape), tf.int32)
    mask = random.random((*shape, 3)) < 0.6
    mask[..., 1] |= ~mask.any(axis=-1)
    return Trajectory(
        step_type=step_type,
        observation=(tf.constant(random.normal(size=(*shape, 4)), tf.float32), tf.constant(mask)),
        action=tf.constant(random.integers(0, 3, shape)),
        policy_info=(),
        next_step_type=tf.roll(step_type, -1, axis=2),
        reward=tf.constant(random.normal(size=shape), tf.float32),
        discount=tf.constant(random.random(shape) < 0.8, tf.float32),
    )


@pytest.fixture(scope="module")
def eager(trajectory: Trajectory) -> list[np.ndarray]:
    """The agent's state after STEPS eager gradient steps."""
    agent = start()
    for k in range(STEPS):
        agent.train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
    return state_of(agent)


def assert_equal_states(state: list[np.ndarray], reference: list[np.ndarray]) -> None:
    for one, other in zip(state, reference, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


def test_training_changes_the_weights_by_more_than_the_tolerance(eager: list[np.ndarray]) -> None:
    largest = [np.abs(after - before).max() for after, before in zip(eager, state_of(start()), strict=True)]
    assert sorted(largest)[len(largest) // 2] > 1e-2


def test_tf_function_agrees_with_eager(trajectory: Trajectory, eager: list[np.ndarray]) -> None:
    agent = start()
    train = tf.function(agent.train)
    for k in range(STEPS):
        train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
    assert_equal_states(state_of(agent), eager)


@pytest.mark.parametrize("loop", ["compiled", "plain"])
def test_the_learners_loop_agrees_with_eager(loop: str, trajectory: Trajectory, eager: list[np.ndarray]) -> None:
    learner = Learner(
        Experiment(agent=CONFIG, learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS, loop=loop)),
        SPECS,
        devices=["CPU:0"],
    )
    before = state_of(learner.agent)
    learner.choose_loop()
    assert learner.loop == loop
    assert_equal_states(state_of(learner.agent), before)
    for variable, value in zip(learner.agent.variables, state_of(start()), strict=True):
        variable.assign(value)
    outcome = learner.learn(Sample(trajectory, tf.zeros((STEPS, BATCH), tf.int32)))
    assert outcome.finite
    assert_equal_states(state_of(learner.agent), eager)
