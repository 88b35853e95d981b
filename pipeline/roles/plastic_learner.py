"""A learner whose network is renewed now and then, between two calls."""

import logging

import tensorflow as tf

from agents import Specs
from agents.configs.value import DeepConfig
from agents.plasticity import Plasticity
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner, Outcome
from pipeline.replay.sampling import Sample

log = logging.getLogger(__name__)


class PlasticLearner(Learner):
    """A `Learner` that recycles dormant units and resets dense layers; see `agents.plasticity`.

    What is due follows from the count of gradient steps, so that a run that resumes goes on as it would have.

    Args:
      experiment: the run.
      specs: of its environment.
      devices: see `Learner`.
    """

    def __init__(self, experiment: Experiment, specs: Specs, devices: list[str] | None = None) -> None:
        super().__init__(experiment, specs, devices)
        assert isinstance(experiment.agent, DeepConfig)
        self._config, self._plasticity = experiment.agent, Plasticity(self.agent)

    def learn(self, sample: Sample) -> Outcome:
        """See `Learner.learn`; renews afterwards what is due."""
        before, config = self.gradient_steps, self._config
        outcome = super().learn(sample)

        def is_due(period: int) -> bool:
            return period > 0 and before // period < self.gradient_steps // period

        seed = self._experiment.seed_of(5, self.gradient_steps)
        if is_due(config.reset_period):
            self._plasticity.reset(config.reset_keep, seed)
            log.info("gradient step %d: the dense layers begin anew", self.gradient_steps)
        elif is_due(config.redo_period):
            observation = tf.nest.map_structure(lambda leaf: leaf[0, :, 0], self.trajectory(sample).observation)
            network_input = observation[0] if self._layout.agent_specs.masked else observation
            number = self._plasticity.recycle(network_input, config.redo_threshold, seed)
            log.info("gradient step %d: %d dormant units begin anew", self.gradient_steps, number)
        return outcome
