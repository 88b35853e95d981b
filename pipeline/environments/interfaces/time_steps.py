"""Environments that return time steps and have specs, dm_env's and TF-Agents' `PyEnvironment`, as gymnasium's."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline.environments.interfaces.action_spaces import sizes_of
from pipeline.environments.interfaces.tuples import say_once
from pipeline.experiment.config import UsageError

_MOST_CATEGORIES = 1_024
"""Values of an integer that are told apart; one with more is a quantity."""
_MASKS = ("mask", "action_mask", "constraint")
"""Names of the part of a Dict that is an action mask, where it has that form."""
Split = Callable[[Any], tuple[Any, Any]]


class TimeSteps(gymnasium.Env[Any, Any]):
    """A `dm_env.Environment` or a TF-Agents `PyEnvironment` with gymnasium's interface.

    A last time step of discount 0 is a terminal state, any other is a truncation. Neither interface has seeds for
    episodes: where the environment has a method `seed`, a reset's seed goes there, else it decides its chance itself.

    Action masks come by TF-Agents' convention, which agents there know as `observation_and_action_constraint_splitter`:
    by an attribute of that name, as the second of a pair, or as a part of a Dict named `mask`, `action_mask` or
    `constraint`. They go into info.

    Args:
      environment: either.
      name: its, for messages.
      splits: whether parts of a Dict are masks by their names.

    Raises:
      UsageError: the actions are not bounded integers, an observation is no number, or it is several in one.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, environment: Any, name: str, splits: bool = True) -> None:
        self._name, self._splits = name, splits
        if hasattr(environment, "pyenv"):  # TFPyEnvironment
            environment = environment.pyenv
        elif any(kind.__name__ == "TFEnvironment" for kind in type(environment).__mro__):
            raise self._refusal("it is a TF-Agents TFEnvironment, of tensors: give a PyEnvironment")
        self._environment = environment
        self._batched = bool(getattr(environment, "batched", False))
        if self._batched and environment.batch_size != 1:
            raise self._refusal(f"it is {environment.batch_size} in one (batched): give what makes one of them")
        action = environment.action_spec()
        dtype = _dtype(action)
        size = int(np.prod(action.shape)) if dtype is not None else 0
        if dtype is None or size == 0 or not np.issubdtype(dtype, np.integer) or not hasattr(action, "maximum"):
            raise self._refusal(f"the action spec is {action}: agents need one bounded integer, or an array of them")
        self._action: np.ndarray[Any, Any] = np.zeros(((1,) if self._batched else ()) + tuple(action.shape), dtype)
        first, last = int(np.min(action.minimum)), int(np.max(action.maximum))
        if last - first >= np.iinfo(np.int32).max:
            raise self._refusal(f"the action spec is {action}: give its minimum and maximum")
        self.action_space: Any = spaces.Discrete(last - first + 1, start=first)
        if size > 1:
            low, high = (np.broadcast_to(bound, action.shape) for bound in (action.minimum, action.maximum))
            counts = high.astype(np.int64) - low.astype(np.int64) + 1
            self.action_space = spaces.MultiDiscrete(counts, start=low.astype(np.int64))
        seen = environment.observation_spec()
        self._split = self._splitter(seen)
        self.observation_space = self._space(seen if self._split is None else self._split(seen)[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._seed(seed)
        return self._seen(self._environment.reset().observation)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes an action of the space, which begins where the action spec does."""
        taken = self._action
        taken[...] = action
        step = self._environment.step(taken.copy() if taken.ndim else taken[()])
        ended = bool(np.all(step.is_last() if hasattr(step, "is_last") else step.last()))
        terminated = ended and not np.any(step.discount)
        reward = np.asarray(0.0 if step.reward is None else step.reward)
        if reward.size != 1:
            raise self._refusal(f"the reward is {reward}: agents need one number")
        observation, info = self._seen(step.observation)
        return observation, float(reward.reshape(())), terminated, ended and not terminated, info

    def close(self) -> None:
        """Releases the environment."""
        if hasattr(self._environment, "close"):
            self._environment.close()

    def _refusal(self, words: str) -> UsageError:
        return UsageError(f"environment {self._name!r}: {words}")

    def _seed(self, seed: int) -> None:
        try:
            self._environment.seed(seed)
        except (AttributeError, NotImplementedError):
            say_once(
                f"environment {self._name!r} takes no seeds: it decides its chance itself, and episodes cannot be "
                "repeated (give it a method seed(seed))"
            )

    def _seen(self, observation: Any) -> tuple[Any, dict[str, Any]]:
        info: dict[str, Any] = {}
        if self._split is not None:
            observation, mask = self._split(observation)
            info = {"action_mask": np.reshape(mask, (-1,))}
        return (_first(observation) if self._batched else observation), info

    def _splitter(self, spec: Any) -> Split | None:
        """What takes an observation, or its spec, apart into what the agent sees and a mask; None if it has none."""
        if callable(own := getattr(self._environment, "observation_and_action_constraint_splitter", None)):
            split: Split = own
            return split
        if isinstance(spec, Mapping) and self._splits:
            name = next((name for name in _MASKS if name in spec and self._is_mask(spec[name])), None)
            rest = [key for key in spec if key != name]
            if name is None or not rest:
                return None
            if len(rest) == 1:
                return lambda seen: (seen[rest[0]], seen[name])
            return lambda seen: ({key: seen[key] for key in rest}, seen[name])
        if isinstance(spec, (list, tuple)) and len(spec) == 2 and self._is_mask(spec[1]):
            return lambda seen: (seen[0], seen[1])
        return None

    def _is_mask(self, spec: Any) -> bool:
        dtype, actions = _dtype(spec), sum(sizes_of(self.action_space))
        if dtype is None or tuple(spec.shape) != (actions,):
            return False
        if dtype == np.bool_:
            return True
        bounds = getattr(spec, "minimum", 2), getattr(spec, "maximum", 2)
        return bool(np.issubdtype(dtype, np.integer) and np.all(bounds[0] == 0) and np.all(bounds[1] == 1))

    def _space(self, spec: Any) -> spaces.Space[Any]:
        if isinstance(spec, Mapping):
            return spaces.Dict({str(name): self._space(part) for name, part in spec.items()})
        dtype = _dtype(spec)
        if dtype is None and isinstance(spec, (list, tuple)):
            return spaces.Tuple([self._space(part) for part in spec])
        if dtype is None or dtype.kind not in "fiub":
            raise self._refusal(f"observations of {spec} are not supported: use arrays of numbers")
        shape = tuple(spec.shape)
        if dtype.kind == "b":
            return spaces.Box(0, 1, shape, np.bool_)  # type: ignore[arg-type]
        limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        bounds = getattr(spec, "minimum", limits.min), getattr(spec, "maximum", limits.max)
        low, high = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in bounds)
        if dtype.kind == "f":
            low, high = np.where(low <= limits.min, -np.inf, low), np.where(high >= limits.max, np.inf, high)
            return spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
        if dtype == np.uint8:
            return spaces.Box(0, high, shape, np.uint8)
        counts = high.astype(object) - low.astype(object) + 1  # Python's integers: the difference may be beyond int64
        if shape and np.max(counts) <= _MOST_CATEGORIES:
            return spaces.MultiDiscrete(counts.astype(np.int64), start=low.astype(np.int64))
        if not shape and (hasattr(spec, "num_values") or counts <= _MOST_CATEGORIES):
            return spaces.Discrete(int(counts), start=int(low))
        return spaces.Box(low, high, shape, dtype.type)


def _dtype(spec: Any) -> np.dtype[Any] | None:
    """NumPy's dtype of an array's spec; None of what is no array's."""
    if not hasattr(spec, "dtype") or not hasattr(spec, "shape"):
        return None
    try:
        return np.dtype(getattr(spec.dtype, "as_numpy_dtype", spec.dtype))
    except TypeError:
        return None


def _first(observation: Any) -> Any:
    """The one observation of a batch."""
    if isinstance(observation, Mapping):
        return {name: _first(part) for name, part in observation.items()}
    return tuple(map(_first, observation)) if isinstance(observation, (list, tuple)) else observation[0]
