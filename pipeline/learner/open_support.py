"""What is seen of rewards in samples: the support that a config leaves open is decided by the first of them."""

import logging
from typing import Any

import msgspec
import numpy as np
from tf_agents.trajectories import StepType

from agents import support
from pipeline.experiment.sections import Experiment
from pipeline.learner.divergence import ValueSentinel
from pipeline.learner.learner import Learner
from pipeline.records.counters import Counters
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample

log = logging.getLogger(__name__)

_ALL_ZERO = 'all rewards learned from so far are 0: agent.v_min or v_max = "auto" is decided by the first other one'


def largest_reward(sample: Sample, layout: FrameLayout) -> float:
    """The largest absolute reward of a sample's frames, which are of the layout."""
    rewards = getattr(sample.trajectory, "reward", None)
    if rewards is None:  # packed
        rewards = sample.trajectory.numpy().view(layout.dtype)["reward"]
    return float(np.abs(rewards).max())


class OpenSupport:
    """Looks at what the learner is to learn from until the ends are decided; then they stay, also after a resume.

    They are decided before the first gradient step, by what its call draws of the `replay.min_size` windows that the
    replay holds by then, or of a dataset: rewards as they are learned from, with bonuses and clipping. As long as these
    are 0 the run learns on a support around 0, and the first other reward moves both open ends.

    Its points are weights of the acting network: publications, policies, checkpoints and exports carry them.

    Args:
      experiment: the run, whose agent has an open support.
      learner: whose agent it is.
      counters: that keep the ends with the checkpoints.
      sentinel: that compares returns with them.
    """

    def __init__(self, experiment: Experiment, learner: Learner, counters: Counters, sentinel: ValueSentinel) -> None:
        self._agent: Any = experiment.agent
        self._learner, self._counters, self._sentinel = learner, counters, sentinel
        if counters.support is not None:
            self._tell(*counters.support)

    def look(self, sample: Sample) -> None:
        """Takes what the next call learns from."""
        if self._counters.support is not None:
            return
        agent, trajectory = self._agent, self._learner.trajectory(sample)
        rewards = trajectory.reward.numpy()[trajectory.step_type.numpy() != StepType.LAST]
        if agent.reward_clip:
            rewards = np.clip(rewards, -agent.reward_clip, agent.reward_clip)
        if not rewards.any():
            self._sentinel.see_support(agent, _ALL_ZERO)
            return
        has_learned = self._learner.gradient_steps > 0  # that everything is worth 0
        low, high = support.ends(rewards, agent.discount, agent.v_min, agent.v_max, is_symmetric=has_learned)
        self._learner.set_support(low, high)
        self._counters.support = low, high
        self._tell(low, high)
        log.info("the support is from %g to %g, by rewards from %g to %g", low, high, rewards.min(), rewards.max())

    def _tell(self, low: float, high: float) -> None:
        self._sentinel.see_support(msgspec.structs.replace(self._agent, v_min=low, v_max=high))
