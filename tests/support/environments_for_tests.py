"""Environments whose every frame says where it comes from, and ones that do one thing wrong; used by import path."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

EPISODE_LENGTHS = (3, 1, 5, 2, 4)
LANES_APART = 1000
"""Seeds modulo this number name lanes: float32 observations hold it exactly."""


def episode_length(lane: int, episode: int) -> int:
    """Steps of an episode of `Counting`."""
    return EPISODE_LENGTHS[(lane + episode) % len(EPISODE_LENGTHS)]


def is_truncation(episode: int) -> bool:
    """Whether an episode of `Counting` is cut off rather than terminated."""
    return episode % 2 == 1


def reward_of(lane: int, episode: int, step: int, action: int) -> float:
    """Of the action taken after `step` steps of an episode of `Counting`; exact in float32."""
    return lane + 100.0 * episode + step + 0.25 * action


class Counting(gymnasium.Env[Any, Any]):
    """Observes [lane, episode, steps taken in it, last action]; lanes are told apart by their seeds."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.lane = self.step_number = 0
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.lane, self.episode = seed % LANES_APART, -1
        self.episode += 1
        self.step_number = 0
        return self._observation(-1), {}

    def step(self, action: Any) -> Any:
        reward = reward_of(self.lane, self.episode, self.step_number, int(action))
        self.step_number += 1
        ended = self.step_number >= episode_length(self.lane, self.episode)
        truncated = ended and is_truncation(self.episode)
        return self._observation(int(action)), reward, ended and not truncated, truncated, {}

    def _observation(self, action: int) -> Any:
        return np.array([self.lane, self.episode, self.step_number, action], np.float32)


class Masked(Counting):
    """Allows only the action `step % 3`, and raises at any other.

    Args:
      form: of the masks: "array" (int8, as gymnasium's own environments) or "list".
      at: step of an episode at which `fault` happens in lane 1; -1 never.
      fault: "missing", "forbids_all" or "too_long".
      at_end: whether the last observation of an episode has a mask; it allows action 0 only.
    """

    def __init__(self, form: str = "array", at: int = -1, fault: str = "", at_end: bool = True) -> None:
        super().__init__()
        self.form, self.at, self.fault, self.at_end = form, at, fault, at_end

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, _ = super().reset(seed=seed, options=options)
        return observation, self._info(ended=False)

    def step(self, action: Any) -> Any:
        if int(action) != self.step_number % 3:
            raise ValueError(f"action {action} is forbidden at step {self.step_number}")
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, self._info(terminated or truncated)

    def _info(self, ended: bool) -> dict[str, Any]:
        mask = np.zeros(3, np.int8)
        mask[0 if ended else self.step_number % 3] = 1
        if ended and not self.at_end:
            return {}
        if self.step_number == self.at and self.lane % LANES_APART == 1:
            if self.fault == "missing":
                return {}
            mask = np.zeros(3, np.int8) if self.fault == "forbids_all" else np.ones(4, np.int8)
        return {"action_mask": mask if self.form == "array" else mask.tolist()}


class Faulty(Counting):
    """Breaks in one lane at the second step of an episode.

    Args:
      fault: "nan_observation", "inf_observation", "nan_reward", "huge_reward" or "raises".
      lane: which one.
      episode: the first one that breaks.
    """

    def __init__(self, fault: str, lane: int = 1, episode: int = 0) -> None:
        super().__init__()
        self.fault, self.faulty_lane, self.first_faulty = fault, lane % LANES_APART, episode

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.lane == self.faulty_lane and self.episode >= self.first_faulty and self.step_number == 2:
            if self.fault == "raises":
                raise RuntimeError("the simulator crashed")
            if self.fault.endswith("observation"):
                observation[2] = np.nan if self.fault.startswith("nan") else np.inf
            else:
                reward = np.nan if self.fault.startswith("nan") else 1e300
        return observation, reward, terminated, truncated, info


SPACES: dict[str, spaces.Space[Any]] = {
    "float": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "double": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (12, 12, 2), np.uint8),
    "bytes": spaces.Box(0, 7, (5,), np.uint8),
    "discrete": spaces.Discrete(4),
    "discrete_from": spaces.Discrete(4, start=-2),
    "binary": spaces.MultiBinary(6),
    "multi_discrete": spaces.MultiDiscrete([2, 5]),
    "multi_discrete_from": spaces.MultiDiscrete([2, 5], start=[3, -1]),
    "multi_discrete_table": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "dict": spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,), np.float32), "gear": spaces.Discrete(5, start=1)}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
    "nested": spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "car": spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.Box(0.0, 1.0, (), np.float32)}))),
        }
    ),
    "text": spaces.Text(5),
    "integers": spaces.Box(0, 1000, (2,), np.int64),
    "sequence": spaces.Sequence(spaces.Discrete(2)),
}


class Observing(gymnasium.Env[Any, Any]):
    """Observes random samples of one of `SPACES`; episodes of four steps. With `masks` it allows all, and says so."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind: str, masks: bool = False) -> None:
        self.observation_space = copy.deepcopy(SPACES[kind])
        self._info = {"action_mask": np.ones(2, np.int8)} if masks else {}
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._step = 0
        return self.observation_space.sample(), self._info

    def step(self, action: Any) -> Any:
        self._step += 1
        return self.observation_space.sample(), 1.0, self._step == 4, False, self._info


class ObservingPreviousReward(Counting):
    """Has a part of the name that `environment.previous_step` gives its own."""

    observation_space = spaces.Dict({"previous_reward": spaces.Box(-1.0, 1.0, (), np.float32)})  # type: ignore[assignment]


class ShiftedActions(Counting):
    """Its actions are 5, 6 and 7."""

    action_space = spaces.Discrete(3, start=5)

    def step(self, action: Any) -> Any:
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        return super().step(int(action) - 5)


class Continuous(Counting):
    """Takes a continuous action."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class WithArguments(Counting):
    """Observes as many numbers as asked."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        if size < 0:
            raise ValueError("size must be positive")
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def _observation(self, action: int) -> Any:
        return np.zeros(self.observation_space.shape, np.float32)


class Noisy(gymnasium.Env[Any, Any]):
    """Random observations, rewards and episode lengths, all from the generator that the seed makes."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        observation = self.np_random.normal(size=2).astype(np.float32)
        end = self.np_random.random()
        return observation, float(self.np_random.normal()), bool(end < 0.1), bool(end > 0.9), {}


def counting_vector(num_envs: int) -> Any:
    """`Counting` as an environment that vectorises itself."""
    return SyncVectorEnv([Counting] * num_envs)


def same_step_vector(num_envs: int) -> Any:
    """One that resets within the step that ends an episode."""
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


gymnasium.register("CountingForTests-v0", entry_point=Counting, vector_entry_point=counting_vector)
gymnasium.register("VectorOnlyForTests-v0", entry_point=None, vector_entry_point=counting_vector)
gymnasium.register("SameStepForTests-v0", entry_point=Counting, vector_entry_point=same_step_vector)
gymnasium.register("NoisyForTests-v0", entry_point=Noisy, max_episode_steps=20)
gymnasium.register("WithArgumentsForTests-v0", entry_point=WithArguments)


class Succeeding(gymnasium.Env[Any, Any]):
    """Three steps, in each of which action 1 is right; `info` says at the end whether all were, and a score."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = self._right = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps, self._right = self._steps + 1, self._right + int(action == 1)
        ended = self._steps == 3
        info = {"is_success": self._right == 3, "episode": {"score": 2.0 * self._right}} if ended else {}
        return np.full(1, self._steps / 3, np.float32), float(action == 1), ended, False, info
