"""`agent.v_min` and `agent.v_max` = "auto": decided by the first rewards, then the same wherever the network goes."""

from typing import Any

import numpy as np
import pytest
from kinds import VECTOR
from samples import random_sample

from pipeline.acting.network_program import make_actor
from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.learner.divergence import ValueSentinel
from pipeline.learner.learner import Learner
from pipeline.learner.open_support import OpenSupport
from pipeline.messages.contents import Evaluation
from pipeline.records.counters import Counters
from pipeline.replay.sampling import Sample

STEPS, BATCH = 2, 8


def opened(*lines: str) -> Experiment:
    return parse(
        '[agent]\nkind = "c51"\nv_min = "auto"\nv_max = "auto"\ndiscount = 0.9\nhidden_units = [8]\nnum_atoms = 11\n'
        f'[learner]\nsteps_per_call = {STEPS}\nbatch_size = {BATCH}\nloop = "plain"\n',
        lines,
    )


def sample_of(experiment: Experiment, reward: float) -> Sample:
    """Batches in which every step earns so much."""
    sample = random_sample(experiment.agent, STEPS, BATCH, bad=0)
    trajectory = sample.trajectory
    return sample._replace(trajectory=trajectory._replace(reward=0.0 * trajectory.discount + reward))


class Begun:
    """A learner and what decides its support, of a run that begins or goes on."""

    def __init__(self, *lines: str, counters: Counters | None = None) -> None:
        self.experiment = opened(*lines)
        self.counters = counters or Counters()
        self.learner = Learner(self.experiment, VECTOR)
        self.sentinel = ValueSentinel(self.experiment, VECTOR.num_actions)
        self._open = OpenSupport(self.experiment, self.learner, self.counters, self.sentinel)

    def look(self, reward: float) -> Sample:
        sample = sample_of(self.experiment, reward)
        self._open.look(sample)
        return sample

    def learn(self, reward: float) -> None:
        self.learner.learn(self.look(reward))

    @property
    def atoms(self) -> np.ndarray:
        """Those that the learner publishes."""
        (atoms,) = (
            array.numpy()
            for weight, array in zip(
                self.learner.agent.acting_model.weights, self.learner.publication(self.counters).weights, strict=True
            )
            if weight.name.endswith("points:0")
        )
        return atoms


@pytest.fixture(scope="module")
def decided() -> Begun:
    """A run whose first rewards were 2, and then -50."""
    begun = Begun()
    begun.learn(2.0)
    assert begun.counters.support == (0.0, 20.0)  # 2 / (1 - 0.9)
    begun.learn(-50.0)
    return begun


def evaluation_of(best: float) -> Evaluation:
    values: Any = {"environment_steps": 1, "gradient_steps": 1, "mean_return": best, "std_return": 0.0}
    values |= {"min_return": best, "max_return": best, "mean_length": 1.0, "episodes": 1, "seconds": 1.0}
    return Evaluation(**values, resident_bytes=1, is_best=True, best_value=best)


def test_the_first_rewards_decide_and_later_ones_change_nothing(decided: Begun) -> None:
    assert decided.counters.support == (0.0, 20.0)
    np.testing.assert_allclose(decided.atoms, np.linspace(0.0, 20.0, 11), rtol=1e-6)


def test_returns_are_compared_with_what_it_has_become(decided: Begun) -> None:
    assert decided.sentinel.see_evaluation(evaluation_of(19.0)) == []
    (warning,) = decided.sentinel.see_evaluation(evaluation_of(45.0))
    assert "set agent.v_max to 45 or more" in warning


def test_a_run_that_goes_on_has_the_same_atoms_to_the_bit(decided: Begun) -> None:
    state = {name: array.numpy() for name, array in decided.learner.state().items()}
    resumed = Begun(counters=Counters(support=decided.counters.support, gradient_steps=STEPS))
    resumed.learner.restore(state)
    resumed.look(-9.0)
    np.testing.assert_array_equal(resumed.atoms, decided.atoms)


def test_all_who_act_have_the_atoms_with_the_weights(decided: Begun) -> None:
    published, agent = decided.learner.publication(decided.counters), decided.learner.agent
    weights = [array.numpy() for array in published.weights]
    observation = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    wanted = agent.acting_model(observation).numpy()
    assert wanted.max() > 5.0  # on the first atoms no value is so large
    for program in (published.program, b""):
        actor = make_actor(decided.experiment.agent, VECTOR, 5, program, weights)
        np.testing.assert_allclose(actor.q_values({"": observation}), wanted, rtol=1e-4)


def test_rewards_of_zero_leave_it_open_in_words_and_the_first_other_one_widens_it_around_zero() -> None:
    begun = Begun("agent.reward_clip=0.5")
    begun.learn(0.0)
    assert begun.counters.support is None
    (warning,) = begun.sentinel.warnings
    assert "all rewards learned from so far are 0" in warning
    assert begun.sentinel.see_evaluation(evaluation_of(45.0)) == []  # nothing to compare it with
    low, high = begun.atoms[[0, -1]]
    assert low == -high < 0.0
    begun.look(2.0)  # is learned from as 0.5
    assert begun.counters.support == (-5.0, 5.0)
    assert begun.sentinel.warnings == []
