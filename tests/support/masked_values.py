"""Q-values with masks for tests of soft policies, and what a slow reference needs of them, in float64."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

TEMPERATURES = [0.03, 0.5, 1.0, 10.0]
HALF_LN_3 = 0.5 * math.log(3.0)
"""With 0 beside it and a temperature of a half the softmax policy is [1/4, 3/4]."""

q_values = st.floats(-50.0, 50.0, width=32)


@st.composite
def masked_q_values(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Q-values [B, A], a mask that allows at least one action of each row or None, and an allowed action of each."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    q = draw(arrays(np.float32, shape, elements=q_values))
    action = draw(arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1)))
    if draw(st.booleans()):
        return q, None, action
    mask = draw(arrays(np.bool_, shape))
    mask[np.arange(shape[0]), action] = True
    return q, mask, action


def tensors_of(q: np.ndarray, mask: np.ndarray | None) -> tuple[tf.Tensor, tf.Tensor | None]:
    return tf.constant(q), None if mask is None else tf.constant(mask)


def rows_of(q: np.ndarray, mask: np.ndarray | None) -> list[dict[int, float]]:
    """The Q-values of the allowed actions of each row, by action."""
    allowed = np.ones_like(q, bool) if mask is None else mask
    return [
        {action: float(value) for action, value in enumerate(row) if may[action]}
        for row, may in zip(q, allowed, strict=True)
    ]


def log_of_sum_of_exponentials(values: Any) -> float:
    values = list(values)
    return max(values) + math.log(math.fsum(math.exp(value - max(values)) for value in values))


def log_policy(row: dict[int, float], temperature: float) -> dict[int, float]:
    """The logarithm of softmax(q / temperature) of each action."""
    total = log_of_sum_of_exponentials(q / temperature for q in row.values())
    return {action: q / temperature - total for action, q in row.items()}
