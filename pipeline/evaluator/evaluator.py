"""The evaluator: greedy episodes with fixed seeds, and the best policy. No TensorFlow."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from agents import Specs
from agents.exploration import epsilon_greedy
from pipeline import environments
from pipeline.acting.network_program import make_actor
from pipeline.acting.policy_files import MadeFor, Policy
from pipeline.environments import EnvironmentFault, LaneStep, ShieldFault
from pipeline.evaluator.judge import Judge, means
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation, Variables

if TYPE_CHECKING:
    from pipeline.acting.frame_stacks import FrameStack

log = logging.getLogger(__name__)

_MOST_LANES = 64


class Episodes(NamedTuple):
    """What full episodes gave, in raw reward."""

    returns: list[float]
    lengths: list[int]
    """In environment steps."""
    shielded_share: float
    """Of the steps, those in which the shield forbade what would have been the best action."""
    values: tuple[float, float]
    """Smallest and largest discounted return from any of the states seen; 0 of an agent without a discount below 1."""
    unfinished: int = 0
    """Of the episodes, those that had not ended at the limit and are scored as they stood: the last ones."""
    is_whole: bool = True
    """Whether none was cut short before the limit."""
    infos: Sequence[Mapping[str, float]] = ()
    """Of each episode, the numbers of `collect.info_keys` that it has."""


class Moment(NamedTuple):
    """What all lanes have come to, and what the policy makes of it. Arrays are valid until the next one."""

    seen: LaneStep
    """Of a lane whose episode has ended, its last observation: its action here will be ignored."""
    begins: NDArray[np.bool_]
    """bool [lanes]: the observation begins an episode."""
    scores: NDArray[np.float32]
    """float32 [lanes, actions]: Q-values or logits."""
    actions: NDArray[np.int64]
    """int64 [lanes], or [lanes, D]: chosen, not taken yet."""


class Values:
    """Discounted returns from every state of the lanes' episodes, of rewards as an agent learns from them.

    What follows a truncation, or the end of the recording, is taken to go on with the episode's mean reward for ever.

    Args:
      discount: gamma, below 1.
      reward_clip: bound of the rewards; 0 does not clip.
    """

    def __init__(self, discount: float, reward_clip: float) -> None:
        self._discount, self._clip = discount, reward_clip
        self._steps: list[tuple[NDArray[Any], ...]] = []

    def add(self, reward: NDArray[np.float32], terminated: NDArray[np.bool_], begins: NDArray[np.bool_]) -> None:
        """Takes one vector step: bool [lanes] of whether it ended all that is earned, or began an episode instead."""
        clipped = np.clip(reward, -self._clip, self._clip) if self._clip else reward
        self._steps.append((clipped.astype(np.float64), terminated.copy(), begins.copy()))

    def range(self) -> tuple[float, float]:
        """The smallest and the largest discounted return from any state."""
        least, best, horizon = np.inf, -np.inf, 1.0 / (1.0 - self._discount)
        lanes = len(self._steps[0][0])
        total, count = np.zeros((2, lanes))  # of the rewards of each lane's episode, found on a way forwards
        means: list[NDArray[Any]] = []
        for reward, _, begins in self._steps:
            total, count = np.where(begins, 0.0, total + reward), np.where(begins, 0.0, count + 1.0)
            means.append(total / np.maximum(count, 1.0))
        value, ended = np.zeros(lanes), np.ones(lanes, np.bool_)
        for (reward, terminated, begins), mean in zip(reversed(self._steps), reversed(means), strict=True):
            follows = np.where(terminated, 0.0, np.where(ended, mean * horizon, value))
            value = reward + self._discount * follows
            ended = begins  # the step before it was an episode's last
            best = max(best, float(np.max(value, where=~begins, initial=-np.inf)))
            least = min(least, float(np.min(value, where=~begins, initial=np.inf)))
        return least, best


class PolicyActor:
    """Scores by a saved policy, with what its lanes have seen: their frame stacks and recurrent states.

    Args:
      experiment: the run.
      specs: of its environment, of one observation.
      policy: whose program and weights are run.
      lanes: environments in lockstep.
    """

    def __init__(self, experiment: Experiment, specs: Specs, policy: Policy, lanes: int) -> None:
        frames = experiment.environment.frame_stack
        weights = [array.numpy() for array in policy.weights]
        self._stack: FrameStack | None = None
        if frames > 1:
            from pipeline.acting import frame_stacks

            self._stack = frame_stacks.FrameStack(specs, frames, lanes)
            specs = frame_stacks.stacked(specs, frames)
        self._actor = make_actor(experiment.agent, specs, lanes, policy.program, weights)

    def use(self, policy: Policy) -> None:
        """Takes the weights of another policy of the same network."""
        self._actor.set_weights([array.numpy() for array in policy.weights])

    def scores(self, observation: dict[str, NDArray[Any]], begins: NDArray[np.bool_]) -> NDArray[np.float32]:
        """float32 [lanes, actions] of observations [lanes, ...] by leaf name; `begins` where they begin an episode."""
        if self._stack is not None:
            observation = self._stack.push(observation, begins)
        self._actor.state[begins] = 0.0
        return self._actor.q_values(observation)


class GreedyRunner:
    """Plays full episodes with the greedy policy, the same ones for the same seed and weights.

    An episode cut off by a fault is none; its lane plays another. With `evaluation.epsilon` a share of the actions is
    drawn uniformly instead.

    Args:
      experiment: the run.
      specs: of its environment.
      policy: whose program is run.
      episodes: of each `run`.
      render: whether the environments will be looked at.

    Raises:
      UsageError: see `environments.make`.
    """

    def __init__(
        self, experiment: Experiment, specs: Specs, policy: Policy, episodes: int, *, render: bool = False
    ) -> None:
        self._lanes = min(episodes, _MOST_LANES)
        # A fixed number of episodes a lane: taking the first ones to end would favour short ones.
        self._quota = np.full(self._lanes, episodes // self._lanes) + (np.arange(self._lanes) < episodes % self._lanes)
        share, keys = experiment.collect.faulty_episodes, experiment.collect.info_keys
        self.environment = environments.make(
            experiment.evaluation_environment, self._lanes, share, render=render, masked=specs.masked, info_keys=keys
        )
        self.made_for = MadeFor.of(self.environment.observation_space, self.environment.vector.single_action_space)
        """What a policy for this environment is made for."""
        if policy.made_for is not None:
            from pipeline.acting.stored_policies import refuse_other

            try:
                refuse_other(policy.made_for, self.made_for)
            except UsageError:
                self.environment.close()
                raise
        self._actor = PolicyActor(experiment, specs, policy, self._lanes)
        self.limit = max(experiment.evaluation.max_episode_steps, _declared_limit(self.environment))
        """Steps after which an episode that has not ended is scored as it stands."""
        self._epsilon = experiment.evaluation.epsilon
        self._agent = experiment.agent

    def run(
        self,
        policy: Policy,
        seed: int,
        beat: Callable[[], None] = lambda: None,
        is_late: Callable[[], bool] = lambda: False,
    ) -> Episodes:
        """Plays the episodes with the weights of a policy.

        Args:
          policy: whose weights.
          seed: of the episodes.
          beat: called at every step.
          is_late: asked at every step: True scores all episodes as they stand.

        Raises:
          EnvironmentFault: more of them had a fault than `collect.faulty_episodes` allows.
        """
        environment, left = self.environment, self._quota.copy()
        returns: list[float] = []
        lengths: list[int] = []
        infos: list[Mapping[str, float]] = []
        steps = shielded = unfinished = 0
        is_whole, values = True, self._values()
        for number, moment in enumerate(self.moments(policy, seed)):
            beat()
            seen = moment.seen
            if seen.cut is not None:
                steps -= int(np.count_nonzero(seen.cut))
            if values is not None:
                values.add(seen.reward, seen.terminated, moment.begins)
            for lane, episode_return, length in zip(*environment.episode_ends(), strict=True):
                if left[lane]:
                    left[lane] -= 1
                    returns.append(episode_return)
                    lengths.append(length)
                    infos.append(environment.ended_infos.get(lane, {}))
            is_cut = is_late()
            if is_cut or number >= self.limit:
                is_whole = not (is_cut and left.any())
                stand = environment.under_way(1 if is_cut else self.limit)
                for lane, episode_return, length in zip(*stand, strict=True):
                    if left[lane]:
                        left[lane] = 0
                        unfinished += 1
                        returns.append(episode_return)
                        lengths.append(length)
                        infos.append({})
            if not left.any() or (is_cut and returns):
                break
            steps += self._lanes - int(np.count_nonzero(environment.resetting))
            shielded += environment.overruled(moment.scores)
        found = (0.0, 0.0) if values is None else values.range()
        return Episodes(returns, lengths, shielded / max(1, steps), found, unfinished, is_whole, infos)

    def moments(self, policy: Policy, seed: int) -> Iterator[Moment]:
        """Plays on and on with the weights of a policy: each moment comes before its actions are taken.

        Raises:
          EnvironmentFault: see `run`.
        """
        self._actor.use(policy)
        environment = self.environment
        seen = environment.reset(seed)
        random, begins = np.random.default_rng(seed), np.ones(self._lanes, np.bool_)
        while True:
            scores = self._actor.scores(seen.observation, begins)
            actions = epsilon_greedy(scores, self._epsilon, random, seen.mask, environment.specs.action_sizes)
            yield Moment(seen, begins, scores, actions)
            begins = environment.resetting  # what these lanes see next begins an episode
            seen = environment.step(actions)
            if seen.cut is not None:
                begins = begins | seen.cut

    def _values(self) -> Values | None:
        agent = self._agent
        return Values(agent.largest_discount, agent.reward_clip) if agent.largest_discount < 1.0 else None

    def close(self) -> None:
        """Releases the environments."""
        self.environment.close()


class Evaluator(Judge):
    """Evaluates the newest weights by episodes of its own; see `Judge` for when, and for the policies that it keeps.

    Args:
      experiment: the run.
      specs: of its environment.
      folder: of the policies.
      evaluated_at: environment and gradient steps of the newest evaluation of an evaluator before this one.
      beat: called at every step of an evaluation.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        folder: Path,
        evaluated_at: tuple[int, int] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(experiment, folder, evaluated_at)
        self._specs, self._beat = specs, beat
        self._runner: GreedyRunner | None = None
        self._process_info = psutil.Process()

    def is_due(self, variables: Variables) -> bool:
        """Whether this publication is to be evaluated."""
        if variables.stopping:
            return self._may_be_judged(variables.gradient_steps) and variables.evaluate_last
        return self.is_due_at(variables.environment_steps, variables.gradient_steps)

    def is_last(self, variables: Variables) -> bool:
        """Whether no evaluation follows that of this publication."""
        return self._solved or variables.stopping

    def evaluate(self, variables: Variables, is_late: Callable[[], bool] = lambda: False) -> Evaluation | None:
        """Plays the episodes with these weights and saves the policy.

        Args:
          variables: the weights.
          is_late: asked at every step: True scores all episodes as they stand.

        Returns:
          None where faults of the environment left no result; the log has the last one.

        Raises:
          ShieldFault: the shield failed.
        """
        started = time.monotonic()
        evaluation = self._experiment.evaluation
        policy = self.begin(variables)
        if self._runner is None:
            self._runner = GreedyRunner(self._experiment, self._specs, policy, evaluation.episodes)
        try:
            played = self._runner.run(policy, evaluation.seed, self._beat, is_late)
        except ShieldFault:  # it is there for safety: without it no run goes on
            raise
        except EnvironmentFault as fault:
            log.error("no evaluation of gradient step %d: %s", variables.gradient_steps, fault)
            self.close()  # the next one begins with new environments
            return None
        policy = msgspec.structs.replace(policy, made_for=self._runner.made_for)
        info = means(played.infos)
        is_best = self.keep(policy, float(np.mean(played.returns)), played.is_whole, info)
        return self._evaluation(
            variables,
            played.returns,
            played.lengths,
            is_best,
            seconds=time.monotonic() - started,
            resident_bytes=self._process_info.memory_info().rss,
            shielded_share=played.shielded_share,
            worst_value=played.values[0],
            best_value=played.values[1],
            unfinished=played.unfinished,
            info=info,
            is_whole=played.is_whole,
        )

    def close(self) -> None:
        """Releases the environments."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def _declared_limit(environment: environments.LaneEnvironment) -> int:
    """Steps after which an environment itself says that it ends an episode; 0 where it does not say."""
    one = getattr(environment.vector, "envs", (environment.vector,))[0]
    spec = getattr(one, "spec", None)
    return int(getattr(spec, "max_episode_steps", None) or 0)
