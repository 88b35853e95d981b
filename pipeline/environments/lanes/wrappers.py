"""Wrappers of one lane's environment: frame skip, observations held against their space, an end with the collector.

Imported where the config asks for one of them, or an observation looks unusual.
"""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline.environments.lanes.spaces import KINDS
from pipeline.runtime.process import die_with_parent


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action and adds up the rewards; an end within cuts the repetition short.

    Gymnasium's own wrapper for it, MaxAndSkipObservation, merges the last two observations: right for the flicker of an
    Atari, wrong for a speed or a price.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], frames: int) -> None:
        super().__init__(env)
        self._frames = frames
        if rate := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": rate / frames}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes the action for as many frames; observation and info are the last one's."""
        total = 0.0
        for _ in range(self._frames):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class ContractCheck(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises ValueError where an observation is not of its space: shared memory would silently repeat or cast it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._checked(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._checked(observation), reward, terminated, truncated, info

    def _checked(self, observation: Any) -> Any:
        if wrong := misfit(self.observation_space, observation):
            raise ValueError(wrong)
        return observation


def misfit(space: spaces.Space[Any], observation: Any) -> str | None:
    """What is wrong with one observation of a space: its parts, shape or dtype; None if it can be taken.

    Numbers of another size of the same kind are taken, integers as floats too; floats as integers are not. Values are
    not compared with the space's bounds.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            try:
                value = observation[key]
            except (KeyError, IndexError, TypeError) as error:
                return f"the observation lacks {key!r} ({error!r})"
            if wrong := misfit(part, value):
                return f"{key}: {wrong}"
        return None
    values = np.asarray(observation)
    if values.shape != space.shape:
        return f"an observation of shape {values.shape} in a space of {space.shape}"
    if space.dtype is None or values.dtype.kind not in KINDS[space.dtype.kind]:
        return f"an observation of dtype {values.dtype} in a space of {space.dtype}"
    return None


def ending_with_collector(environment: Any) -> Any:
    """Has the worker's process, in which this runs, end with the one that started it, however that ends."""
    die_with_parent()
    return environment
