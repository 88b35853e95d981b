"""Priorities of new windows from the collector's own TD errors. Pure NumPy."""

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.dimensions import split, taken_at

Floats = NDArray[np.float32]


def td_errors(taken: Floats, best: Floats, reward: Floats, discount: Floats, last: NDArray[np.bool_]) -> Floats:
    """Absolute TD errors of the n-step transitions that start at the first of T = n + 1 frames.

    The NumPy twin of `losses.n_step_return` with Q-learning's bootstrap, for the collectors.

    Args:
      taken: float32 [T, lanes], Q-values of the actions taken; [T, lanes, D] of actions of several dimensions, of whose
        errors the mean is taken.
      best: float32 [T, lanes], largest Q-value of the allowed actions; of several dimensions the mean of theirs.
      reward: float32 [T, lanes], of the step from each frame.
      discount: float32 [T, lanes], gamma, or 0 where the step terminated the episode.
      last: bool [T, lanes], an episode's end: no n-step transition starts there, those before bootstrap there.

    Returns:
      float32 [lanes]; 0 where the first frame is an episode's end.
    """
    total, product = np.zeros_like(best[0]), np.ones_like(best[0])
    value, going = best[0], np.ones(len(total), np.bool_)
    for step in range(len(taken) - 1):
        going = going & ~last[step]
        total += np.where(going, product * reward[step], 0.0)
        product = np.where(going, product * discount[step], product)
        value = np.where(going, best[step + 1], value)
    each = taken[0].reshape(len(total), -1)
    error: Floats = np.abs((total + product * value)[:, np.newaxis] - each).mean(axis=1)
    return np.where(last[0], np.float32(0.0), error)


class TdErrorWindow:
    """Computes the TD errors of each window of n + 1 frames as soon as its last frame is there.

    Args:
      window: n + 1.
      discount: gamma.
      reward_clip: bound of the rewards learned from; 0 does not clip.
      sizes: of an action's D dimensions; empty where it is one number.
    """

    def __init__(self, window: int, discount: float, reward_clip: float, sizes: tuple[int, ...] = ()) -> None:
        self._gamma, self._clip, self._sizes = discount, reward_clip, sizes
        self._frames: deque[tuple[NDArray[Any], ...]] = deque(maxlen=window)

    def add(
        self,
        q_values: Floats,
        mask: NDArray[np.bool_] | None,
        actions: NDArray[np.int64],
        reward: Floats,
        terminated: NDArray[np.bool_],
        last: NDArray[np.bool_],
    ) -> Floats | None:
        """Takes one vector step of all lanes.

        Args:
          q_values: float32 [lanes, A], that the actions were chosen by.
          mask: bool [lanes, A], or None.
          actions: int64 [lanes], or [lanes, D].
          reward: float32 [lanes].
          terminated: bool [lanes].
          last: bool [lanes], whether this frame is an episode's end.

        Returns:
          float32 [lanes], of the windows that this frame completes; None while there is none.
        """
        allowed = q_values if mask is None else np.where(mask, q_values, np.finfo(np.float32).min)
        clipped = np.clip(reward, -self._clip, self._clip) if self._clip else reward.copy()
        discount = np.where(terminated, np.float32(0.0), np.float32(self._gamma))
        taken, best = taken_at(q_values, actions, self._sizes), allowed.max(axis=1)
        if self._sizes:
            best = np.mean([part.max(axis=1) for part in split(allowed, self._sizes)], axis=0, dtype=np.float32)
        self._frames.append((taken, best, clipped, discount, last.copy()))
        if len(self._frames) < (self._frames.maxlen or 0):
            return None
        columns: list[Any] = [np.stack(column) for column in zip(*self._frames, strict=True)]
        return td_errors(*columns)
