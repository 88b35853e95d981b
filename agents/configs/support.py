"""Words for returns that lie beyond the support of what learns a distribution or a histogram of them."""

import math


def beyond(kind: str, support: tuple[float, float], width: float, smallest: float, largest: float) -> str:
    """What to set for returns beyond a support; empty if none are.

    Args:
      kind: of the agent.
      support: the least and the largest return that are learned.
      width: of a part of the support: returns so little beyond it are none.
      smallest: of the returns.
      largest: of the returns.
    """
    v_min, v_max = support
    wrong = []
    if largest > v_max + width:
        wrong.append(f"set agent.v_max to {_rounded_away(largest)} or more, for a largest one of {largest:.4g}")
    if smallest < v_min - width:
        wrong.append(f"set agent.v_min to {_rounded_away(smallest)} or less, for a smallest one of {smallest:.4g}")
    if not wrong:
        return ""
    return (
        f"discounted returns of evaluations lie beyond the support of agent.kind={kind!r}, from {v_min:g} to "
        f"{v_max:g}, and are taken for its ends: {' and '.join(wrong)}"
    )


def _rounded_away(value: float) -> str:
    """A value with two digits, away from 0."""
    if value == 0.0:
        return "0"
    digit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return f"{math.copysign(math.ceil(abs(value) / digit - 1e-9) * digit, value):g}"
