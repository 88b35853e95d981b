"""What a measured ratio says beside those that were recorded."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

LARGEST_LOSS = 0.15


class Verdict(NamedTuple):
    """Of one ratio.

    Attributes:
      median: of the recorded values.
      loss: what share of the recorded median was lost; negative where something was won.
      failed: whether that is more than may be.
    """

    median: float
    loss: float
    failed: bool


def judge(value: float, recorded: Sequence[float], larger_is_better: bool) -> Verdict:
    """Compares a value with the median of those recorded.

    Half of a ratio that is to be large is a loss of 50 %, and so is one and a half times a ratio that is to be small.

    Args:
      value: measured now, > 0.
      recorded: measured before, at least one, each > 0.
      larger_is_better: whether a fall is a loss; else a rise is.
    """
    median = statistics.median(recorded)
    change = value / median - 1.0
    loss = -change if larger_is_better else change
    return Verdict(median, loss, loss > LARGEST_LOSS)
