"""Walks through a period: of a policy, of a constant position, of a coin; all paid by the environment itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.exploration import greedy
from pipeline import environments
from pipeline.acting.policy_files import Policy
from pipeline.environments import LaneEnvironment
from pipeline.evaluator.evaluator import PolicyActor
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment

PERIODS = ("training", "held-out")

Decide = Callable[[dict[str, NDArray[Any]]], NDArray[np.int64]]
"""Actions int64 [lanes] of observations by leaf name, called once a step."""


class Decisions(msgspec.Struct, frozen=True):
    """What one trained policy decides, a digit a step: 0 sells, 1 buys.

    Attributes:
      config: that was trained.
      seed: of the run.
      training: over the period that was trained on.
      held_out: over the later one.
    """

    config: str
    seed: int
    training: str
    held_out: str

    def of(self, period: str) -> str:
        """Those of one of `PERIODS`."""
        return self.training if period == "training" else self.held_out


@dataclass(frozen=True)
class Walk:
    """A period, walked from its beginning to its end.

    Attributes:
      actions: int64 [steps, lanes].
      equity: float64 [steps + 1, lanes], as a multiple of the first.
      trades: int64 [lanes], changes of the position; a change from owing to holding is one.
    """

    actions: NDArray[np.int64]
    equity: NDArray[np.float64]
    trades: NDArray[np.int64]

    @property
    def returns(self) -> NDArray[np.float64]:
        """float64 [lanes], by what share equity has grown in the end."""
        final: NDArray[np.float64] = self.equity[-1]
        return final - 1.0

    @property
    def drawdowns(self) -> NDArray[np.float64]:
        """float64 [lanes], the largest share that was lost of what equity had been before."""
        losses = 1.0 - self.equity / np.maximum.accumulate(self.equity)
        largest: NDArray[np.float64] = losses.max(axis=0)
        return largest


def period_environment(experiment: Experiment, period: str, lanes: int = 1) -> LaneEnvironment:
    """The environment of one of `PERIODS`, whole, with rewards that are logs of equity."""
    config = experiment.environment if period == "training" else experiment.evaluation_environment
    kwargs = {**config.kwargs, "episode": 0, "reward_scale": 1.0}
    return environments.make(msgspec.structs.replace(config, kwargs=kwargs), lanes)


def walk(experiment: Experiment, period: str, decide: Decide, lanes: int = 1) -> Walk:
    """Walks through a period with a policy."""
    environment = period_environment(experiment, period, lanes)
    seen, actions, growth, held = environment.reset(0), [], [np.zeros(lanes)], [np.zeros(lanes)]
    while not environment.any_resetting:
        actions.append(decide(seen.observation))
        seen = environment.step(actions[-1])
        growth.append(seen.reward.astype(np.float64))
        held.append(seen.observation[""][:, -1].copy())
    environment.close()
    trades = np.count_nonzero(np.diff(np.stack(held), axis=0), axis=0)
    return Walk(np.stack(actions), np.exp(np.cumsum(growth, axis=0)), trades)


def constant(action: int) -> Decide:
    """Takes one action always."""
    return lambda observation: np.full(len(observation[""]), action, np.int64)


def coin(turning: float, lanes: int, seed: int = 0) -> Decide:
    """Turns with this probability at each step, from an action drawn with equal chances; 0.5 draws each anew."""
    random = np.random.default_rng(seed)
    newest = random.integers(0, 2, lanes)

    def decide(_: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        np.bitwise_xor(newest, random.random(lanes) < turning, out=newest)
        return newest.copy()

    return decide


def replayed(decisions: str) -> Decide:
    """Takes the actions that were kept.

    Raises:
      UsageError: there are fewer than steps.
    """
    left = iter(decisions)

    def decide(_: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        action = next(left, "")
        if not action:
            raise UsageError("the file of results is of other periods than the config: move it away and run again")
        return np.array([int(action)])

    return decide


def greedily(experiment: Experiment, policy: Policy) -> Decide:
    """Takes the greedy action of a saved policy, over one period from its beginning; one lane."""
    actor = PolicyActor(experiment, environments.describe(experiment.environment), policy, lanes=1)
    begins = np.ones(1, np.bool_)

    def decide(observation: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        scores = actor.scores(observation, begins)
        begins[:] = False
        return greedy(scores, None)

    return decide


def decisions_of(experiment: Experiment, policy: Policy, period: str) -> str:
    """What a saved policy decides in a period."""
    actions = walk(experiment, period, greedily(experiment, policy)).actions
    return "".join(map(str, actions[:, 0].tolist()))
