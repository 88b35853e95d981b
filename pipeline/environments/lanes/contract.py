"""Holds an environment's observations against its space, where the vector environment around it would hide a misfit."""

from typing import Any, SupportsFloat

import gymnasium

from pipeline.environments.lanes.spaces import misfit


class ContractCheck(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises ValueError where an observation is not of its space: shared memory repeats or casts it without a word."""

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
