"""The forms in which gradient steps run end with the same weights: eager, tf.function, and the learner's loops."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import FEW, VARIANTS, experience, specs_of
from tf_agents.trajectories import Trajectory

import agents
from agents import losses
from pipeline.experiment.sections import Experiment, LearnerConfig, ReplayConfig
from pipeline.learner.learner import Learner
from pipeline.replay.sampling import Sample

STEPS, BATCH, SEED = 20, 16, 1
PLAIN = ("dqn", "r2d2", "q_learning", "ppo")
BAD = 7
"""The step whose batch is poisoned."""


def start(config: Any) -> Any:
    return agents.build(config.kind, specs_of(config.kind), config, seed=SEED)


def state_of(agent: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in agent.variables]


@pytest.fixture(scope="module", params=list(VARIANTS))
def config(request: pytest.FixtureRequest) -> Any:
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def trajectory(config: Any) -> Trajectory:
    """Windows with boundaries anywhere, [STEPS, BATCH, T, ...]."""
    return experience(specs_of(config.kind), (STEPS, BATCH, config.window_length), state_units=config.state_units)


@pytest.fixture(scope="module")
def reference(config: Any, trajectory: Trajectory) -> list[np.ndarray]:
    """The agent's state after STEPS gradient steps, each a call of `tf.function(agent.train)`."""
    agent = start(config)
    train = tf.function(agent.train)
    for k in range(STEPS):
        train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
    return state_of(agent)


def assert_equal_states(state: list[np.ndarray], reference: list[np.ndarray]) -> None:
    for one, other in zip(state, reference, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


def test_training_changes_the_weights_by_more_than_the_tolerance(config: Any, reference: list[np.ndarray]) -> None:
    agent = start(config)
    weights = {id(weight) for weight in agent.acting_model.trainable_weights}
    before_and_after = zip(agent.variables, reference, strict=True)
    largest = [np.abs(after - before).max() for before, after in before_and_after if id(before) in weights]
    assert sorted(largest)[len(largest) // 2] > 1e-2


def test_eager_steps_agree(config: Any, trajectory: Trajectory, reference: list[np.ndarray]) -> None:
    if config not in FEW.values():
        pytest.skip("slow tests take every kind and few of its switches: kinds.FEW")
    agent = start(config)
    for k in range(STEPS):
        agent.train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
    assert_equal_states(state_of(agent), reference)


def learner_of(config: Any, loop: str, **replay: Any) -> Learner:
    experiment = Experiment(
        seed=0,
        agent=config,
        learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS, loop=loop),
        replay=ReplayConfig(**replay),
    )
    learner = Learner(experiment, specs_of(config.kind), devices=["CPU:0"])
    learner.agent._seed = SEED  # of the draws within gradient steps; the weights are set by the tests
    learner.choose_loop()
    assert learner.loop == loop
    put(learner.agent, state_of(start(config)))
    return learner


def put(agent: Any, state: list[np.ndarray]) -> None:
    for variable, value in zip(agent.variables, state, strict=True):
        variable.assign(value)


def sample_of(trajectory: Trajectory) -> Sample:
    return Sample(trajectory, tf.zeros((STEPS, BATCH), tf.int32), tf.ones((STEPS, BATCH)), tf.zeros((1,), tf.uint64))


def poisoned(config: Any, trajectory: Trajectory, steps: Any = BAD) -> Trajectory:
    """With a reward that is no number in some batches; cloning, which reads no rewards, sees an observation of them."""
    step_type, reward = trajectory.step_type.numpy(), trajectory.reward.numpy()
    observation, mask = trajectory.observation
    seen = observation.numpy()
    step_type[steps, 0], step_type[steps, 0, -1] = 1, 2
    reward[steps, 0] = np.nan
    if config.kind == "behaviour_cloning":
        seen[steps, 0] = np.nan
        step_type[steps, 0] = 1
    return trajectory._replace(
        step_type=tf.constant(step_type), reward=tf.constant(reward), observation=(tf.constant(seen), mask)
    )


@pytest.fixture(scope="module")
def without_the_bad_one(config: Any, trajectory: Trajectory) -> list[np.ndarray]:
    """The agent's state after all batches but one, which only counts."""
    agent = start(config)
    train = tf.function(agent.train)
    for k in range(STEPS):
        if k == BAD:
            agent.train_step_counter.assign_add(1)
        else:
            train(tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory))
    return state_of(agent)


@pytest.fixture(params=["compiled", "plain"])
def loop(request: pytest.FixtureRequest, config: Any) -> str:
    """The plain loop differs in how the same program runs: one of each family is enough for it."""
    form: str = request.param
    if form == "plain" and config not in [VARIANTS[name] for name in PLAIN]:
        pytest.skip("the compiled loop is tried with this one")
    return form


def test_the_learners_loop_agrees(
    loop: str,
    config: Any,
    trajectory: Trajectory,
    reference: list[np.ndarray],
    without_the_bad_one: list[np.ndarray],
) -> None:
    learner = learner_of(config, loop)
    outcome = learner.learn(sample_of(trajectory))
    assert not outcome.skipped
    assert outcome.priorities is None
    assert_equal_states(state_of(learner.agent), reference)
    put(learner.agent, state_of(start(config)))
    outcome = learner.learn(sample_of(poisoned(config, trajectory)))
    assert outcome.skipped == (BAD,)
    assert np.isfinite(outcome[:5]).all()
    assert_equal_states(state_of(learner.agent), without_the_bad_one)

    before = state_of(learner.agent)  # a call of bad batches changes no bit but the count
    outcome = learner.learn(sample_of(poisoned(config, trajectory, slice(None))))
    assert outcome[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert (outcome.skipped, outcome.priorities) == (tuple(range(STEPS)), None)
    for variable, value in zip(learner.agent.variables, before, strict=True):
        expected = 2 * STEPS if variable is learner.agent.train_step_counter else value
        np.testing.assert_array_equal(variable.numpy(), expected)


def test_a_prioritised_loop_weighs_by_the_global_batch_and_returns_priorities(
    loop: str, config: Any, trajectory: Trajectory
) -> None:
    if config not in FEW.values():
        pytest.skip("slow tests take every kind and few of its switches: kinds.FEW")
    if config.on_policy:
        pytest.skip("what is used once, by its own policy, has neither priorities nor importance weights")
    relative = tf.constant(np.random.default_rng(1).uniform(0.1, 10.0, (STEPS, BATCH)), tf.float32)
    agent, priorities = start(config), []
    train = tf.function(agent.train)
    for k in range(STEPS):
        beta = 0.4 + min(k / 10, 1.0) * 0.5
        weights = losses.importance_weights(relative[k], tf.constant(beta, tf.float32))
        batch = tf.nest.map_structure(lambda leaf, k=k: leaf[k], trajectory)
        extra = train(batch, weights=weights).extra
        priorities.append(extra.priority.numpy())
    learner = learner_of(
        config,
        loop,
        prioritized=True,
        importance_exponent=0.4,
        importance_exponent_final=0.9,
        importance_exponent_steps=10,
    )
    sample = Sample(trajectory, tf.zeros((STEPS, BATCH), tf.int32), relative, tf.zeros((1,), tf.uint64))
    outcome = learner.learn(sample)
    assert_equal_states(state_of(learner.agent), state_of(agent))
    assert outcome.priorities is not None
    np.testing.assert_allclose(outcome.priorities, priorities, atol=1e-4)
    np.testing.assert_allclose(outcome.td_errors, extra.td_error, atol=1e-4)  # of the last step
    np.testing.assert_allclose(outcome.q_values, extra.q, atol=1e-4)
    if config.stride > 1 or config.offline_only:  # a sequence has one wherever it begins, a forbidden action has none
        return
    starts = trajectory.step_type[:, :, 0].numpy() != 2
    assert (outcome.priorities[~starts] == 0.0).all()
    assert (outcome.priorities[starts] > 0.0).mean() > 0.9
