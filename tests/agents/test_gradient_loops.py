"""The forms in which gradient steps run end with the same weights: eager, tf.function, and the learner's loops."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import FEW, VARIANTS, experience, specs_of
from tf_agents.trajectories import Trajectory
from tiers import tiered

import agents
from agents import BUILDERS, importance
from pipeline.experiment.replay_section import ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.replay.sampling import Sample

STEPS, BATCH, SEED = 20, 16, 1
BAD = 7
"""The step whose batch is poisoned."""
GROUP = "gradient loops"
COMPILED = [name for name in VARIANTS if name not in ("iqn normalized", "r2d2 normalized", "iqn munchausen")]
"""Those without are long to compile, and of parts that others have."""
PLAIN = ("dqn", "r2d2", "q_learning", "ppo")
"""The plain loop differs in how the same program runs: one of each family is enough for it."""
OFF_POLICY = [name for name, config in FEW.items() if not config.on_policy]
"""What is used once, by its own policy, has neither priorities nor importance weights."""


def start(config: Any) -> Any:
    return agents.build(config.kind, specs_of(config.kind), config, seed=SEED)


def state_of(agent: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in agent.variables]


def put(agent: Any, state: list[np.ndarray]) -> None:
    for variable, value in zip(agent.variables, state, strict=True):
        variable.assign(value)


def batch_of(trajectory: Trajectory, k: int) -> Trajectory:
    return tf.nest.map_structure(lambda leaf: leaf[k], trajectory)


class Reference:
    """An agent that takes gradient steps, each a call of `tf.function(agent.train)`, always from the same start."""

    def __init__(self, config: Any) -> None:
        self.agent = start(config)
        self.start = state_of(self.agent)
        self._train = tf.function(self.agent.train, autograph=False)
        # Weights of ones change nothing, and one program serves the tests that weigh and those that do not.
        self._equal = None if config.on_policy else tf.ones((STEPS, BATCH))

    def after(
        self, trajectory: Trajectory, weights: Any = None, without: int | None = None, steps: int = STEPS
    ) -> tuple[list[np.ndarray], list[Any]]:
        """The agent's state after so many batches but for `without`, which only counts, and what each step said."""
        put(self.agent, self.start)
        weights, extras = self._equal if weights is None else weights, []
        for k in range(steps):
            if k == without:
                self.agent.train_step_counter.assign_add(1)
                continue
            of_step = None if weights is None else weights[k]
            extras.append(self._train(batch_of(trajectory, k), weights=of_step).extra)
        return state_of(self.agent), extras


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> Any:
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def trajectory(config: Any) -> Trajectory:
    """Windows with boundaries anywhere, [STEPS, BATCH, T, ...]."""
    return experience(specs_of(config.kind), (STEPS, BATCH, config.window_length), state_units=config.state_units)


@pytest.fixture(scope="module")
def reference(config: Any) -> Reference:
    return Reference(config)


@pytest.fixture(scope="module")
def trained(reference: Reference, trajectory: Trajectory) -> list[np.ndarray]:
    """The state of an agent that has learned from all batches, unweighted."""
    return reference.after(trajectory)[0]


def assert_equal_states(state: list[np.ndarray], reference: list[np.ndarray]) -> None:
    for one, other in zip(state, reference, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", tiered(VARIANTS, BUILDERS, GROUP), indirect=True, scope="module")
def test_training_changes_the_weights_by_more_than_the_tolerance(
    reference: Reference, trained: list[np.ndarray]
) -> None:
    weights = {id(weight) for weight in reference.agent.acting_model.trainable_weights}
    states = zip(reference.agent.variables, reference.start, trained, strict=True)
    largest = [np.abs(after - before).max() for variable, before, after in states if id(variable) in weights]
    assert sorted(largest)[len(largest) // 2] > 1e-2


@pytest.mark.parametrize("config", tiered(FEW, BUILDERS, GROUP), indirect=True, scope="module")
def test_eager_steps_agree(config: Any, trajectory: Trajectory, reference: Reference) -> None:
    agent, steps = start(config), 8  # the target network moves at the sixth
    for k in range(steps):
        agent.train(batch_of(trajectory, k))
    assert_equal_states(state_of(agent), reference.after(trajectory, steps=steps)[0])


def learner_of(config: Any, loop: str, state: list[np.ndarray], **replay: Any) -> Learner:
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
    put(learner.agent, state)
    return learner


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


def forms(compiled: Iterable[str], plain: Iterable[str], first: set[tuple[str, str]]) -> Any:
    """Agents, each with a form of the learner's loop; those that are not among `first` are slow."""
    pairs = [*((name, "compiled") for name in compiled), *((name, "plain") for name in plain)]
    parameters = tiered(pairs, first, GROUP)
    return pytest.mark.parametrize(("config", "loop"), parameters, indirect=["config"], scope="module")


@forms(COMPILED, PLAIN, {(name, "compiled") for name in ("dqn", "reinforce", "ppo")} | {("ppo", "plain")})
def test_the_learners_loop_agrees(
    config: Any, loop: str, trajectory: Trajectory, reference: Reference, trained: list[np.ndarray]
) -> None:
    learner = learner_of(config, loop, reference.start)
    outcome = learner.learn(sample_of(trajectory))
    assert not outcome.skipped
    assert outcome.priorities is None
    assert_equal_states(state_of(learner.agent), trained)
    put(learner.agent, reference.start)
    outcome = learner.learn(sample_of(poisoned(config, trajectory)))
    assert outcome.skipped == (BAD,)
    assert np.isfinite(outcome[:5]).all()
    assert_equal_states(state_of(learner.agent), reference.after(trajectory, without=BAD)[0])

    before = state_of(learner.agent)  # a call of bad batches changes no bit but the count
    outcome = learner.learn(sample_of(poisoned(config, trajectory, slice(None))))
    assert outcome[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert (outcome.skipped, outcome.priorities) == (tuple(range(STEPS)), None)
    for variable, value in zip(learner.agent.variables, before, strict=True):
        expected = 2 * STEPS if variable is learner.agent.train_step_counter else value
        np.testing.assert_array_equal(variable.numpy(), expected)


WEIGHED_FIRST = {(name, "compiled") for name in ("rainbow", "r2d2", "iqn", "q_learning")} | {("dqn", "plain")}
"""Losses are weighed in four places: of values, of distributions, of sequences and of tables."""


@forms(OFF_POLICY, [name for name in PLAIN if name in OFF_POLICY], WEIGHED_FIRST)
def test_a_prioritised_loop_weighs_by_the_global_batch_and_returns_priorities(
    config: Any, loop: str, trajectory: Trajectory, reference: Reference
) -> None:
    relative = tf.constant(np.random.default_rng(1).uniform(0.1, 10.0, (STEPS, BATCH)), tf.float32)
    exponents = [tf.constant(0.4 + min(k / 10, 1.0) * 0.5, tf.float32) for k in range(STEPS)]
    learned = tf.reduce_any(trajectory.step_type[:, :, config.learned_frames] != 2, axis=2)
    relative = tf.where(learned, relative, 1e-6)  # as a window that has no priority is drawn
    assert config.window_length == 1 or config.stride > 1 or not tf.reduce_all(learned)
    weights = [importance.weights_of(relative[k], beta, learned[k]) for k, beta in enumerate(exponents)]
    state, extras = reference.after(trajectory, weights)
    priorities = [extra.priority.numpy() for extra in extras]
    learner = learner_of(
        config,
        loop,
        reference.start,
        prioritized=True,
        importance_exponent=0.4,
        importance_exponent_final=0.9,
        importance_exponent_steps=10,
    )
    sample = sample_of(trajectory)._replace(relative_probability=relative)
    outcome = learner.learn(sample)
    assert_equal_states(state_of(learner.agent), state)
    assert outcome.priorities is not None
    np.testing.assert_allclose(outcome.priorities, priorities, atol=1e-4)
    np.testing.assert_allclose(outcome.td_errors, extras[-1].td_error, atol=1e-4)  # of the last step
    np.testing.assert_allclose(outcome.q_values, extras[-1].q, atol=1e-4)

    put(learner.agent, reference.start)
    bad = learner.learn(sample._replace(trajectory=poisoned(config, trajectory)))
    assert bad.skipped == (BAD,)
    assert bad.priorities is not None
    assert np.isfinite(bad.priorities).all()
    assert_equal_states(state_of(learner.agent), reference.after(trajectory, weights, without=BAD)[0])
    if config.stride > 1 or config.offline_only:  # a sequence has one wherever it begins, a forbidden action has none
        return
    starts = trajectory.step_type[:, :, 0].numpy() != 2
    assert (outcome.priorities[~starts] == 0.0).all()
    assert (outcome.priorities[starts] > 0.0).mean() > 0.9
