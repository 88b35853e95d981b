"""Plays episodes of one lane as evaluations do, and shows each step with the policy's Q-values."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.dimensions import begins, split
from pipeline import environments
from pipeline.acting.policy_files import Policy
from pipeline.environments.lanes.rendering import picture, pictures_a_second
from pipeline.evaluator.action_names import action_names
from pipeline.evaluator.displays import Screen
from pipeline.evaluator.evaluator import GreedyRunner, Moment
from pipeline.evaluator.overlay import StepView, overlaid
from pipeline.experiment.sections import Experiment

_SPANNED = 100
"""How many of the newest steps set the scale of the bars: over an episode, Q-values vary more than between actions."""
_LAST_SECONDS = 1.0
"""How long an episode's last picture stays."""


class EpisodeResult(NamedTuple):
    """An episode that was played."""

    episode_return: float
    length: int
    """In environment steps."""


def show(runner: GreedyRunner, policy: Policy, seed: int, experiment: Experiment, screen: Screen) -> EpisodeResult:
    """Plays an episode on a screen: the one that an evaluation of one episode plays with this seed.

    Args:
      runner: of one lane, made with `render=True`.
      policy: what plays.
      seed: of the episode.
      experiment: the run.
      screen: shows it.

    Raises:
      EnvironmentFault: see `GreedyRunner.run`.
      UsageError: the environment's drawing failed.
      WindowClosed: nobody looks on any more.
    """
    environment = runner.environment
    rate = pictures_a_second(environment)
    reader = _Reader(experiment, action_names(environment), environment.specs.action_sizes)
    for number, moment in enumerate(runner.moments(policy, seed)):
        reading = reader.read(moment, ended=environment.any_resetting)
        pixels = overlaid(picture(environment), reading)
        screen.show(pixels, rate)
        ends = environment.episode_ends()
        if number >= runner.limit and not ends.lanes:
            ends = environment.under_way(1)
        for _, episode_return, length in zip(*ends, strict=True):
            for _ in range(round(rate * _LAST_SECONDS)):
                screen.show(pixels, rate)
            return EpisodeResult(episode_return, length)
    raise AssertionError("moments go on for ever")


class _Reader:
    """Makes the view of each step from what the lane observed and the policy computed."""

    def __init__(self, experiment: Experiment, names: tuple[str, ...], sizes: tuple[int, ...]) -> None:
        self._is_policy = experiment.agent.learns_policy
        self._names, self._sizes = names, sizes
        self._steps, self._return = 0, 0.0
        self._tried: deque[tuple[float, float]] = deque(maxlen=_SPANNED)

    def read(self, moment: Moment, ended: bool) -> StepView:
        seen = moment.seen
        allowed = None if seen.mask is None else seen.mask[0]
        reward = float(seen.reward[0])
        if moment.begins[0]:
            self._steps, self._return = 0, 0.0
        else:
            self._steps, self._return = self._steps + 1, self._return + reward
        scores = moment.scores[0]
        if self._is_policy:
            scores, span = probabilities(scores, allowed, self._sizes), (0.0, 1.0)
        else:
            if not ended:  # what would follow an end is learned by no one, and what is forbidden by few
                tried = scores if allowed is None else scores[allowed]
                self._tried.append((float(tried.min()), float(tried.max())))
            span = (min(low for low, _ in self._tried), max(high for _, high in self._tried))
        return StepView(
            scores=scores,
            title="probabilities" if self._is_policy else "Q-values",
            names=self._names,
            allowed=allowed,
            chosen=() if ended else _places(moment.actions[0], self._sizes),
            span=span,
            step=self._steps,
            reward=reward,
            episode_return=self._return,
        )


def _places(action: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where an action's scores are."""
    return tuple((action + begins(sizes)).tolist()) if sizes else (int(action),)


def probabilities(
    logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None, sizes: tuple[int, ...] = ()
) -> NDArray[np.float32]:
    """A softmax over the allowed actions: float32 [actions], 0 where one is forbidden; each dimension has its own."""
    kept = logits if allowed is None else np.where(allowed, logits, -np.inf)
    if sizes:
        return np.concatenate([probabilities(part, None) for part in split(kept, sizes)])
    weights = np.exp(kept - kept.max())
    shares: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return shares


def runner_of_one_lane(experiment: Experiment, policy: Policy, *, render: bool) -> GreedyRunner:
    """Makes the runner that plays single episodes of a run's policy.

    Raises:
      UsageError: see `environments.make`.
      NotRendered: pictures are wanted, and the environment draws none.
    """
    specs = environments.describe(experiment.environment)
    return GreedyRunner(experiment, specs, policy, episodes=1, render=render)
