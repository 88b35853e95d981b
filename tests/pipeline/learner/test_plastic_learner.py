"""The learner that renews its network: when, the same after a resume, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from kinds import specs_of
from samples import random_sample
from tf_agents.trajectories import Trajectory

import pipeline
from agents import ArraySpec, DqnConfig, R2d2Config, Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.workers.team import share
from pipeline.replay.sampling import Sample
from pipeline.roles.plastic_learner import PlasticLearner

SMALL: Any = {"hidden_units": (8, 6), "target_update_period": 1_000, "learning_rate": 0.01}


def learner_of(**fields: Any) -> PlasticLearner:
    agent = DqnConfig(**SMALL, **fields)
    settings = LearnerConfig(batch_size=8, steps_per_call=4, loop="plain")
    return PlasticLearner(Experiment(agent=agent, learner=settings), specs_of("dqn"), ["CPU:0"])


def target_of(learner: PlasticLearner) -> np.ndarray:
    return learner.agent._target_q_network.model.get_weights()[0]  # type: ignore[attr-defined]


def test_layers_are_reset_in_the_call_that_reaches_the_period_and_the_same_after_a_resume() -> None:
    learner, sample = learner_of(reset_period=6), random_sample(DqnConfig(), 4, 8, bad=1)
    first = target_of(learner)
    learner.learn(sample)
    np.testing.assert_array_equal(target_of(learner), first)  # 4 gradient steps
    state = {name: array.numpy() for name, array in learner.state().items()}
    learner.learn(sample)  # 8
    renewed = target_of(learner)
    assert np.abs(renewed - first).max() > 0.1
    np.testing.assert_array_equal(learner.agent.acting_model.get_weights()[0], renewed)
    resumed = learner_of(reset_period=6)
    resumed.restore(state)
    resumed.learn(sample)
    np.testing.assert_allclose(target_of(resumed), renewed)


def test_dormant_units_are_renewed_between_resets() -> None:
    learner, sample = learner_of(redo_period=4, redo_threshold=0.0), random_sample(DqnConfig(), 4, 8, bad=1)
    dense = learner.agent.acting_model.layers[-2]
    dense.bias.assign(np.float32([-1e3, 0, 0, 0, 0, 0]))
    learner.learn(sample)
    assert dense.bias.numpy()[0] == 0.0
    assert not learner.agent.acting_model.layers[-1].kernel.numpy()[0].any()


@pytest.mark.slow
def test_a_run_renews_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ("agent.redo_period=40", "agent.reset_period=100", "agent.hidden_units=[16]", "learner.steps_per_call=20")
    budget = ("stop.target_return=1e9", "replay.min_size=100", "stop.environment_steps=1500")
    experiment = pipeline.load("cartpole", (*lines, *budget))
    with caplog.at_level("INFO", logger="pipeline.roles.plastic_learner"):
        summary = pipeline.train(experiment, tmp_path / "run", launcher="inline")
    assert summary.stop_reason == "environment_steps"
    assert summary.skipped_updates == 0
    assert "the dense layers begin anew" in caplog.text
    assert "dormant units begin anew" in caplog.text


def test_what_is_not_renewed_is_refused() -> None:
    with pytest.raises(ValueError, match="set noisy=false"):
        DqnConfig(noisy=True, redo_period=10)
    for agent in (DqnConfig(redo_period=10), R2d2Config(reset_period=10)):
        with pytest.raises(UsageError, match="one learner renews its network"):
            share(Experiment(agent=agent), 2)


def error_after_tasks(**fields: Any) -> float:
    """Mean absolute error at the end of the last three of eight tables of rewards, learned one after another."""
    steps, batch, states = 50, 32, 64
    agent = DqnConfig(hidden_units=(32, 32), discount=0.0, learning_rate=0.01, loss="mse", double=False, **fields)
    settings = LearnerConfig(batch_size=batch, steps_per_call=steps, loop="compiled")
    learner = PlasticLearner(Experiment(agent=agent, learner=settings), Specs(ArraySpec((8,), "float32"), 3), ["CPU:0"])
    random = np.random.default_rng(0)
    seen, errors = random.normal(size=(states, 8)).astype(np.float32), []
    for _ in range(8):
        rewards = 3.0 * random.normal(size=(states, 3)).astype(np.float32)
        for _ in range(8):
            state, action = random.integers(0, states, (steps, batch, 2)), random.integers(0, 3, (steps, batch, 2))
            middle = tf.ones((steps, batch, 2), tf.int32)
            trajectory = Trajectory(
                step_type=middle,
                observation=tf.constant(seen[state]),
                action=tf.constant(action),
                policy_info=(),
                next_step_type=middle,
                reward=tf.constant(rewards[state, action]),
                discount=tf.ones((steps, batch, 2)),
            )
            relative, keys = tf.ones((steps, batch)), tf.zeros((steps * batch,), tf.uint64)
            outcome = learner.learn(Sample(trajectory, tf.zeros((steps, batch), tf.int32), relative, keys))
        errors.append(outcome.td_error)
    return float(np.mean(errors[-3:]))


@pytest.mark.slow
def test_a_network_that_is_renewed_learns_its_eighth_task_where_another_has_lost_the_ability() -> None:
    lost = error_after_tasks()
    assert error_after_tasks(redo_period=200) < 0.5 * lost
    assert error_after_tasks(reset_period=400) < 0.5 * lost
