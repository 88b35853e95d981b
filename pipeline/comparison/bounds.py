"""The least and the largest return that a task can give, where that is known: no interval of a mean goes beyond."""

import math

import numpy as np

from pipeline.comparison.groups import Fields
from pipeline.comparison.intervals import Array, Estimate

Bounds = tuple[float, float]
RETURNS = ("evaluation/mean_return", "evaluation/min_return", "evaluation/max_return", "episode/return")
"""Tags whose values are returns."""
NONE: Bounds = (-math.inf, math.inf)
"""Of a task that nothing is known of."""

_BY_STEPS = {
    "CartPole-v0": (0.0, 1.0, 200),
    "CartPole-v1": (0.0, 1.0, 500),
    "Acrobot-v1": (-1.0, 0.0, 500),
    "MountainCar-v0": (-1.0, 0.0, 200),
}
"""Least and largest reward of a step, and steps of an episode."""
_FIXED = {
    "FrozenLake-v1": (0.0, 1.0),
    "FrozenLake8x8-v1": (0.0, 1.0),
    "Blackjack-v1": (-1.0, 1.0),
    "ALE/Pong-v5": (-21.0, 21.0),
    "PongNoFrameskip-v4": (-21.0, 21.0),
    "Taxi-v3": (-math.inf, 20.0),
    "CliffWalking-v1": (-math.inf, -13.0),
}


def of(config: Fields) -> Bounds:
    """The bounds of a run's task.

    Args:
      config: the run's, by dotted names. Arguments of an environment may change its rewards, so with some nothing is
        known.
    """
    name = config.get("environment.id", "")
    if config.get("environment.import_path") or any(
        key.startswith(("environment.kwargs.", "evaluation.kwargs.")) for key in config
    ):
        return NONE
    if name in _BY_STEPS:
        low, high, steps = _BY_STEPS[name]
        steps = config.get("environment.max_episode_steps") or steps
        return low * steps, high * steps
    return _FIXED.get(name, NONE)


def common(found: list[Bounds], values: Array) -> Bounds:
    """Those of several runs: of one task, and true of what the runs returned; else none.

    Args:
      found: each run's.
      values: of any of these runs.
    """
    if len(set(found)) != 1:
        return NONE
    low, high = found[0]
    seen = values[np.isfinite(values)]
    return found[0] if np.all((seen >= low) & (seen <= high)) else NONE


def kept(estimate: Estimate, bounds: Bounds) -> Estimate:
    """An estimate whose interval has lost what cannot be: it holds the mean as surely as before."""
    return estimate._replace(low=np.clip(estimate.low, *bounds), high=np.clip(estimate.high, *bounds))
