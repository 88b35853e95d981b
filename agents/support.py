"""The support of a categorical kind, where its config leaves an end open: by rewards and discount. Pure NumPy."""

import math

import numpy as np
from numpy.typing import NDArray

from agents.configs.support import End


def ends(
    rewards: NDArray[np.float32], discount: float, v_min: End, v_max: End, is_symmetric: bool = False
) -> tuple[float, float]:
    """Ends of a support by the rewards of some steps.

    With the horizon h = 1 / (1 - discount), an open end lies at m = max(h * rms(r), sqrt(h) * max |r|), rounded up to
    two digits: as far as rewards lead that have their root mean square in every step, and at least as far as if the
    largest one came as often as once in h steps. A reward of 1 in every step gives h, the most that there can be; one
    that comes in a share p of the steps gives sqrt(p) h, between the mean return and that bound. With rewards of one
    sign alone, the other end is 0.

    Args:
      rewards: float32 [n], as they are learned from; not all 0.
      discount: gamma, below 1.
      v_min: the first atom as the configuration has it.
      v_max: the last atom.
      is_symmetric: whether both open ends lie at m, whatever the signs.

    Returns:
      The first and the last atom; what the configuration gives stays.
    """
    horizon, values = 1.0 / (1.0 - discount), np.asarray(rewards, np.float64)
    typical, largest = float(np.sqrt(np.mean(values**2))), float(np.abs(values).max())
    reach = _rounded_up(max(horizon * typical, math.sqrt(horizon) * largest))
    low = -reach if is_symmetric or values.min() < 0.0 else 0.0
    high = reach if is_symmetric or values.max() > 0.0 else 0.0
    return _as_given(low, high, v_min, v_max)


def provisional(discount: float, v_min: End, v_max: End) -> tuple[float, float]:
    """Ends until a reward that is not 0 has been seen: on both sides of 0, as far as a rare 1 leads in `ends`.

    What is learned until then is 0: it stays so when both ends move away from 0 by the same factor.
    """
    reach = _rounded_up(math.sqrt(1.0 / (1.0 - discount))) if discount < 1.0 else 1.0
    return _as_given(-reach, reach, v_min, v_max)


def _as_given(low: float, high: float, v_min: End, v_max: End) -> tuple[float, float]:
    """Ends that are open, and those that the configuration gives."""
    reach = max(abs(low), abs(high))
    low, high = low if v_min == "auto" else float(v_min), high if v_max == "auto" else float(v_max)
    if low < high:
        return low, high
    return (low, low + reach) if v_max == "auto" else (high - reach, high)  # one is given where the other would lie


def _rounded_up(value: float) -> float:
    """A positive value with two digits."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / digit - 1e-6) * digit:.12g}")
