"""The learner's loops: what they are compiled with, and what they say of a run that has gone wrong."""

import os

import numpy as np
import pytest
import tensorflow as tf

from agents.configs import DqnConfig, PpoConfig
from agents.specs import ArraySpec, Specs
from pipeline.config import UsageError
from pipeline.frames import FrameLayout
from pipeline.learner import Learner, _set_compiler_flags
from pipeline.replay import Sample, decode
from pipeline.sections import Experiment, LearnerConfig

SPECS = Specs(ArraySpec((3,), "float32"), num_actions=2, masked=False)


def test_compiler_flags_come_before_the_users_own_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # XLA takes the last of two values of a flag.
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    _set_compiler_flags()
    once = os.environ["XLA_FLAGS"]
    assert once.startswith("--xla_cpu_multi_thread_eigen=false ")
    assert once.endswith(" --xla_cpu_multi_thread_eigen=true")
    _set_compiler_flags()
    assert os.environ["XLA_FLAGS"] == once


@pytest.mark.parametrize("loop", ["compiled", "plain"])
def test_a_weight_that_is_not_a_number_shows_in_the_outcome(loop: str) -> None:
    config = DqnConfig(hidden_units=(8,))
    learner = Learner(Experiment(agent=config, learner=LearnerConfig(batch_size=4, steps_per_call=3, loop=loop)), SPECS)
    learner.choose_loop()
    layout = FrameLayout(SPECS)
    frames = tf.zeros((3, 4, config.window_length, layout.num_bytes), tf.uint8)
    sample = Sample(*decode(frames, layout), tf.ones((3, 4)), tf.zeros((12,), tf.uint64))
    assert learner.learn(sample).finite
    kernel = learner.agent.acting_model.trainable_weights[-2]  # of the head: a ReLU may hide what is before it
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    outcome = learner.learn(sample)
    assert not outcome.finite
    assert learner.gradient_steps == 6
    assert learner.agent.train_step_counter.numpy() == 6


def test_a_replicas_share_that_is_not_whole_minibatches_is_refused() -> None:
    experiment = Experiment(agent=PpoConfig(minibatches=3), learner=LearnerConfig(batch_size=4, steps_per_call=1))
    with pytest.raises(UsageError, match=r"agent\.minibatches=3 does not divide the 4 sequences of each of 1 replicas"):
        Learner(experiment, SPECS, devices=["CPU:0"])
