"""The learner that renews its network: when, the same after a resume, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinds import specs_of
from samples import random_sample

import pipeline
from agents import DqnConfig, R2d2Config
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.workers.team import share
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
