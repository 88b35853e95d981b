"""Scalars of a prioritised replay, for runs that have one."""

import numpy as np
from numpy.typing import NDArray


def priority_scalars(
    priorities: NDArray[np.float32], largest: float, importance_exponent: float, skipped: int, unjudged_share: float
) -> dict[str, float]:
    """Of a prioritised replay.

    Args:
      priorities: of the newest call.
      largest: of the past, decayed: what new items get.
      importance_exponent: beta, at present.
      skipped: items whose priorities found their server away.
      unjudged_share: of the newest call's draws, those of items without a priority of their own.
    """
    return {
        "priority/mean": float(priorities.mean()),
        "priority/maximum": float(priorities.max()),
        "priority/of_new_items": largest,
        "priority/importance_exponent": importance_exponent,
        "priority/skipped_items": float(skipped),
        "priority/unjudged_share": unjudged_share,
    }
