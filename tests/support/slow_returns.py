"""Q(lambda) returns as their paper writes them, one number after the other."""

from typing import Any

import numpy as np

LAST = 2


def by_recursion(step_type: Any, reward: Any, discount: Any, value: Any, gamma: float, q_lambda: float) -> np.ndarray:
    """Gallici et al. 2024, section 4.1, backwards in double precision: one window [T]."""
    found = np.zeros(len(reward))
    found[-1] = value[-1]
    for t in reversed(range(len(reward) - 1)):
        ahead = q_lambda * found[t + 1] + (1.0 - q_lambda) * value[t + 1]
        found[t] = value[t] if step_type[t] == LAST else reward[t] + gamma * discount[t] * ahead
    return found[:-1]
