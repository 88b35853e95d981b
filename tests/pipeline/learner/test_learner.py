"""The learner's loops: what they are compiled with, and what they say of a run that has gone wrong."""

import os
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import DqnConfig, PpoConfig
from agents.specs import ArraySpec, Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.replay_section import ReplayConfig
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.learner import Learner
from pipeline.learner.stored_state import roll_back
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, decode
from pipeline.runtime.process import set_compiler_flags

SPECS = Specs(ArraySpec((3,), "float32"), num_actions=2, masked=False)


def test_compiler_flags_come_before_the_users_own_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # XLA takes the last of two values of a flag.
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    set_compiler_flags()
    once = os.environ["XLA_FLAGS"]
    assert once.startswith("--xla_cpu_multi_thread_eigen=false ")
    assert once.endswith(" --xla_cpu_multi_thread_eigen=true")
    set_compiler_flags()
    assert os.environ["XLA_FLAGS"] == once


@pytest.mark.parametrize("loop", ["compiled", "plain"])
def test_a_weight_that_is_not_a_number_shows_in_the_outcome(loop: str) -> None:
    config = DqnConfig(hidden_units=(8,))
    learner = Learner(Experiment(agent=config, learner=LearnerConfig(batch_size=4, steps_per_call=3, loop=loop)), SPECS)
    learner.choose_loop()
    layout = FrameLayout(SPECS)
    frames = tf.zeros((3, 4, config.window_length, layout.num_bytes), tf.uint8)
    sample = Sample(*decode(frames, layout), tf.ones((3, 4)), tf.zeros((12,), tf.uint64))
    assert not learner.learn(sample).skipped
    kernel = learner.agent.acting_model.trainable_weights[-2]  # of the head: a ReLU may hide what is before it
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    outcome = learner.learn(sample)
    assert outcome.skipped == (0, 1, 2)
    assert learner.gradient_steps == 6
    assert learner.agent.train_step_counter.numpy() == 6


def test_a_replicas_share_that_is_not_whole_minibatches_is_refused() -> None:
    experiment = Experiment(agent=PpoConfig(minibatches=3), learner=LearnerConfig(batch_size=4, steps_per_call=1))
    with pytest.raises(UsageError, match=r"agent\.minibatches=3 does not divide the 4 sequences of each of 1 replicas"):
        Learner(experiment, SPECS, devices=["CPU:0"])


def test_what_made_a_batch_bad_gets_no_priority_and_the_rest_keeps_its_own() -> None:
    config = DqnConfig(hidden_units=(8,), loss="mse")
    learner = Learner(
        Experiment(
            agent=config,
            learner=LearnerConfig(batch_size=4, steps_per_call=2),
            replay=ReplayConfig(prioritized=True),
        ),
        SPECS,
    )
    layout = FrameLayout(SPECS)
    frames = tf.zeros((2, 4, config.window_length, layout.num_bytes), tf.uint8)
    trajectory, versions = decode(frames, layout)
    reward = np.zeros((2, 4, config.window_length), np.float32)
    reward[:, :, 0] = [[3.0, 1e30, np.nan, 2.0], [3.0, 1e7, 4.0, 2.0]]
    sample = Sample(
        trajectory._replace(reward=tf.constant(reward), step_type=tf.ones_like(trajectory.step_type)),
        versions,
        tf.ones((2, 4)),
        tf.zeros((8,), tf.uint64),
    )
    outcome = learner.learn(sample)
    assert outcome.skipped == (0,)
    assert outcome.priorities is not None
    # All Q-values are 0 of observations of zeros. An error of 1e7 was learned from: the table's bound cuts it.
    np.testing.assert_allclose(outcome.priorities, [[3.0, 0.0, 0.0, 2.0], [3.0, 1e7, 4.0, 2.0]])


def state_of(learner: Learner) -> dict[str, np.ndarray]:
    return {f"{position}": variable.numpy() for position, variable in enumerate(learner.agent.variables)}


def saved_of(learner: Learner) -> dict[str, Any]:
    return {name: array.numpy() for name, array in learner.state().items()}


def test_a_rollback_restores_all_bits_but_the_count_and_the_step_size() -> None:
    experiment = Experiment(
        agent=DqnConfig(hidden_units=(8,), learning_rate=0.5, target_update_period=2),
        learner=LearnerConfig(batch_size=4, steps_per_call=3, loop="plain"),
    )
    learner, layout = Learner(experiment, SPECS), FrameLayout(SPECS)
    frames = tf.constant(np.random.default_rng(0).integers(0, 2, (3, 4, 2, layout.num_bytes)), tf.uint8)
    trajectory, versions = decode(frames, layout)
    trajectory = trajectory._replace(reward=tf.ones_like(trajectory.reward))
    sample = Sample(trajectory, versions, tf.ones((3, 4)), tf.zeros((12,), tf.uint64))
    learner.learn(sample)
    saved, good = saved_of(learner), state_of(learner)
    for rollbacks in (1, 2):  # to the same checkpoint, which has the first step size
        learner.learn(sample)
        taken = learner.gradient_steps
        assert any((value != good[name]).any() for name, value in state_of(learner).items())
        roll_back(learner.agent, dict(learner.named_variables()), saved, 0.5)
        assert learner.gradient_steps == learner.agent.train_step_counter.numpy() == taken == 3 * (1 + rollbacks)
        assert float(learner.agent.learning_rate) == pytest.approx(0.5 * 0.5**rollbacks)
        changed = [name for name, value in state_of(learner).items() if (value != good[name]).any()]
        assert len(changed) == 2  # the count and the scale
    resumed = Learner(experiment, SPECS)
    resumed.restore(saved_of(learner))
    assert float(resumed.agent.learning_rate) == pytest.approx(0.125)
    assert resumed.gradient_steps == 9
