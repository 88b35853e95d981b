"""Vectorised lanes that count, by themselves, the actions taken against a shield; used by import path."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from pipeline.environments.lanes.shield import namespace

ACTIONS = 5


def allowed(observation: Any) -> Any:
    """A shield: action a is allowed where digit a of the observation is even, and the largest digit's always."""
    digits = np.floor(observation * 10.0).astype(int)
    return (digits % 2 == 0) | (digits == digits.max(axis=1, keepdims=True))


def below_half(observation: Any) -> Any:
    """A shield that a graph can hold: action a is allowed where number a is at most 0.5, and the least one's always."""
    least = namespace(observation).min(observation, axis=1, keepdims=True)
    return (observation <= 0.5) | (observation == least)


def everything(observation: Any) -> Any:
    """A shield that allows all."""
    return np.ones((len(observation), ACTIONS), np.bool_)


def nothing_on_heights(observation: Any) -> Any:
    """A shield that is wrong: where the first number is above 0.9 it allows nothing."""
    return np.broadcast_to(observation[:, :1] <= 0.9, (len(observation), ACTIONS)).copy()


def one_lane_short(observation: Any) -> Any:
    """A shield that is wrong: it forgets a lane."""
    return np.ones((len(observation) - 1, ACTIONS), np.bool_)


class GuardedLanes(VectorEnv[Any, Any, Any]):
    """Observes five random numbers; checks each action against `allowed` of what it observed before.

    Args:
      num_envs: lanes.
      masks: whether it also masks actions itself: action 1 is then never allowed, but where it is the only one left.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    violations = taken = 0
    """Of all such environments of this process."""

    def __init__(self, num_envs: int = 1, masks: bool = False) -> None:
        self.num_envs, self.masks = num_envs, masks
        self.single_observation_space = spaces.Box(0.0, 1.0, (ACTIONS,), np.float32)
        self.single_action_space = spaces.Discrete(ACTIONS)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.random = np.random.default_rng(seed)
        self.ended = np.zeros(self.num_envs, np.bool_)
        return self._observe()

    def step(self, actions: Any) -> Any:
        playing = ~self.ended
        forbidden = ~self.mask[np.arange(self.num_envs), actions] & playing
        GuardedLanes.violations += int(forbidden.sum())
        GuardedLanes.taken += int(playing.sum())
        self.ended = playing & (self.random.random(self.num_envs) < 0.02)
        observation, info = self._observe()
        truncated = self.ended & (self.random.random(self.num_envs) < 0.5)
        reward = np.where(playing, actions, 0.0).astype(np.float32)
        return observation, reward, self.ended & ~truncated, truncated, info

    def _observe(self) -> Any:
        self.observation = self.random.random((self.num_envs, ACTIONS), np.float32)
        self.mask = allowed(self.observation)
        if not self.masks:
            return self.observation, {}
        own = np.ones_like(self.mask)
        own[:, 1] = self.mask.sum(axis=1) == 1
        self.mask = self.mask & own
        return self.observation, {"action_mask": own, "_action_mask": np.ones(self.num_envs, np.bool_)}


for _name, _masks in (("GuardedForTests-v0", False), ("GuardedAndMaskedForTests-v0", True)):
    gymnasium.register(_name, vector_entry_point=GuardedLanes, kwargs={"masks": _masks})
