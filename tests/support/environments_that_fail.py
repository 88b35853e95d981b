"""Environments that break runs, each in one way; used by import path."""

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np


class _Walk(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        return np.full(2, 0.1, np.float32), 1.0, self._step % 10 == 0, False, {}


class SlowEnvironment(_Walk):
    """Takes half a second a step."""

    def step(self, action: Any) -> Any:
        time.sleep(0.5)
        return super().step(action)


class SlowlyEvaluated(_Walk):
    """Takes its time for a step where its arguments ask for that, as those of evaluations may."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self._pause = pause

    def step(self, action: Any) -> Any:
        time.sleep(self._pause)
        return super().step(action)


class NanEnvironment(_Walk):
    """Its twentieth step returns an observation that is not a number."""

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return (observation * np.nan if self._step == 20 else observation), *rest


class HugeRewardEnvironment(_Walk):
    """Rewards whose square is infinite in float32."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1e30, *rest


class Recorded(NamedTuple):
    """What a step of `Unreliable` returned in good order."""

    reward: float
    following: int
    """Number of the observation that followed."""
    terminated: bool


class Unreliable(gymnasium.Env[Any, Any]):
    """Breaks its contract now and then, and remembers what it did in good order, for tests in its own process.

    Args:
      kinds: of faults, one of which is drawn at each.
      chance: of a fault, at each step and each reset without a seed.
      calm: steps and resets of an instance without one, before the others.
    """

    observation_space: Any = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    taken: ClassVar[dict[int, Recorded]] = {}
    """By the number of the observation that the step was taken from."""
    faults = 0
    observations = 0

    def __init__(self, kinds: tuple[str, ...] = ("raises",), chance: float = 0.1, calm: int = 0) -> None:
        self._kinds, self._chance, self._calm = kinds, chance, calm
        self._number = self._length = 0

    @classmethod
    def forget(cls) -> None:
        """Begins a new record."""
        cls.taken.clear()
        cls.faults = cls.observations = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        fault = self._fault() if seed is None else ""
        fault = "" if fault.endswith("reward") else fault
        self._length = 0
        return self._broken(self._observe(), fault), {}

    def step(self, action: Any) -> Any:
        before, fault = self._number, self._fault()
        self._length += 1
        observation = self._observe()
        reward: Any = float(before % 7)
        ended = self.np_random.random() < 0.2
        terminated = ended and bool(self.np_random.random() < 0.5)
        if not fault:
            Unreliable.taken[before] = Recorded(reward, self._number, terminated)
        if fault.endswith("reward"):
            return observation, {"nan_reward": np.nan, "text_reward": "much"}[fault], terminated, ended, {}
        return self._broken(observation, fault), reward, terminated, ended and not terminated, {}

    def _fault(self) -> str:
        self._calm -= 1
        if self._calm >= 0:
            return ""
        if self.np_random.random() >= self._chance:
            return ""
        Unreliable.faults += 1
        return str(self._kinds[int(self.np_random.integers(len(self._kinds)))])

    def _observe(self) -> Any:
        Unreliable.observations += 1
        self._number = Unreliable.observations
        return np.array([self._number, self._length], np.float32)

    def _broken(self, observation: Any, fault: str) -> Any:
        if fault == "raises":
            raise RuntimeError("the simulator crashed")
        values = {"nan": observation * np.nan, "shape": observation[:1], "dtype": observation.astype(str)}
        return values.get(fault, observation)


class UnreliableParts(Unreliable):
    """The same, observed as a dict."""

    observation_space = gymnasium.spaces.Dict({"all": Unreliable.observation_space})

    def _broken(self, observation: Any, fault: str) -> Any:
        return {} if fault == "missing" else {"all": super()._broken(observation, fault)}


class Hanging(_Walk):
    """Hangs for good at its fiftieth step, but in the process that finds `marker` there already.

    Args:
      marker: a file.
    """

    def __init__(self, marker: str) -> None:
        super().__init__()
        self._marker = Path(marker)

    def step(self, action: Any) -> Any:
        if self._step == 50 and not self._marker.exists():
            self._marker.touch()
            time.sleep(1e6)
        return super().step(action)


class Leaving(_Walk):
    """Ends its process at its twentieth step."""

    def step(self, action: Any) -> Any:
        if self._step == 20:
            print("this environment leaves", file=sys.stderr, flush=True)
            os._exit(7)
        return super().step(action)


class Tallied(_Walk):
    """Counts its steps and resets in a file that outlives its process.

    Args:
      folder: of the files.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        Path(folder).mkdir(exist_ok=True)
        self._file = os.open(Path(folder) / f"{os.getpid()}-{id(self)}", os.O_RDWR | os.O_CREAT)
        self._counts = np.zeros(2, np.int64)

    def _count(self, which: int) -> None:
        self._counts[which] += 1
        os.pwrite(self._file, self._counts.tobytes(), 0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._count(1)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self._count(0)
        return super().step(action)


class PassingHugeRewardEnvironment(_Walk):
    """As `HugeRewardEnvironment`, from its 200th to its 400th step alone."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        self._taken += 1
        return observation, 1e30 if 200 <= self._taken < 400 else reward, *rest
