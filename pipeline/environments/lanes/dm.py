"""Environments with dm_env's interface (dm_control, bsuite, and others), as gymnasium's."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline.experiment.config import UsageError


def is_dm_env(environment: Any) -> bool:
    """Whether an environment has dm_env's interface and not gymnasium's."""
    return hasattr(environment, "observation_spec") and not hasattr(environment, "observation_space")


class DmEnvironment(gymnasium.Env[Any, Any]):
    """A `dm_env.Environment` with gymnasium's interface.

    A last time step of discount 0 is a terminal state, any other is a truncation. dm_env has no seeds for episodes:
    where the environment has a method `seed`, a reset's seed goes there, else it decides its chance itself.

    Raises:
      UsageError: the actions are not one integer, or an observation is no bounded integer or float.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        action = environment.action_spec()
        if tuple(action.shape) != () or not np.issubdtype(action.dtype, np.integer) or not hasattr(action, "maximum"):
            raise UsageError(f"the action spec is {action}: agents need one bounded integer")
        first = int(action.minimum)
        self.action_space = spaces.Discrete(int(action.maximum) - first + 1, start=first)
        self.observation_space = _space(environment.observation_spec())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed, options=options)
        if seed is not None and hasattr(self._environment, "seed"):
            self._environment.seed(seed)
        return self._environment.reset().observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes an action of the space, which begins where the action spec does."""
        step = self._environment.step(int(action))
        ended = bool(step.last())
        terminated = ended and not np.any(step.discount)
        return step.observation, float(step.reward or 0.0), terminated, ended and not terminated, {}

    def close(self) -> None:
        """Releases the environment."""
        self._environment.close()


def _space(spec: Any) -> spaces.Space[Any]:
    if isinstance(spec, Mapping):
        return spaces.Dict({str(name): _space(part) for name, part in spec.items()})
    if isinstance(spec, (list, tuple)):
        return spaces.Tuple([_space(part) for part in spec])
    bounded = hasattr(spec, "minimum") and hasattr(spec, "maximum")
    if np.issubdtype(spec.dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, spec.shape, np.dtype(spec.dtype).type)
    if bounded and spec.dtype == np.uint8:
        return spaces.Box(0, np.broadcast_to(spec.maximum, spec.shape), spec.shape, np.uint8)
    if bounded and np.issubdtype(spec.dtype, np.integer):
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        if spec.shape == ():
            return spaces.Discrete(int(high) - int(low) + 1, start=int(low))
        return spaces.MultiDiscrete(high - low + 1, start=low)
    raise UsageError(f"observations of {spec} are not supported: use float arrays, or bounded integer ones")
