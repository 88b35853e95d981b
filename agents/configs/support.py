"""Words for the support of what learns a distribution or a histogram of returns: what is wrong with it."""

import math

from agents.config_fields import Open

End = float | Open


def problem_of(v_min: End, v_max: End, discount: float) -> str:
    """What is wrong with the least and the largest return that are learned; empty if nothing is."""
    if v_min == "auto" or v_max == "auto":
        name = "v_min" if v_min == "auto" else "v_max"
        return f'{name}="auto" needs a discount below 1, which bounds returns: give a number' if discount == 1.0 else ""
    return f"v_min={v_min:g} must be below v_max={v_max:g}: they span the returns" if v_min >= v_max else ""


def beyond(kind: str, v_min: End, v_max: End, parts: int, smallest: float, largest: float) -> str:
    """What to set for returns beyond a support; empty if none are, or while its ends are open.

    Args:
      kind: of the agent.
      v_min: the least return that is learned.
      v_max: the largest.
      parts: equal parts of the support; returns that are less than one beyond it are none.
      smallest: of the returns.
      largest: of the returns.
    """
    if v_min == "auto" or v_max == "auto":
        return ""
    width, wrong = (v_max - v_min) / parts, []
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
