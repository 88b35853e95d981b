"""Bounds of priorities."""

import numpy as np

from agents.priorities import LARGEST, SMALLEST, bounded


def test_bounded_keeps_what_a_table_takes_and_limits_the_rest() -> None:
    priorities = np.float32([0.0, 1e-9, 0.5, 3.0, 1e9, np.inf, np.nan, -np.inf, -1.0])
    expected = np.float32([SMALLEST, SMALLEST, 0.5, 3.0, LARGEST, SMALLEST, SMALLEST, SMALLEST, SMALLEST])
    limited = bounded(priorities)
    np.testing.assert_array_equal(limited, expected)
    assert limited.dtype == np.float32
