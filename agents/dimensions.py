"""Actions of several dimensions, each chosen by itself: their scores and masks lie side by side. Pure NumPy.

An action of the sizes (2, 3) has scores and masks [lanes, 5]: two of its first dimension, three of its second.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.exploration import epsilon_greedy
from agents.specs import Specs

Choose = Callable[[Any, Any], NDArray[np.int64]]


def begins(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where the scores of each dimension begin, int64 [D]: the place of a choice is this and its number."""
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


def split(values: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """The part of each dimension, [..., size], of scores or masks [..., all]."""
    return np.split(values, np.cumsum(sizes[:-1]), axis=-1)


def by_dimension(
    choose: Choose, sizes: Sequence[int], scores: NDArray[Any], mask: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Chooses in each dimension by itself, as of one alone: int64 [lanes, D].

    Args:
      choose: int64 [n] of the scores [n, size] of one dimension and bool [n, size] of what is allowed, or None.
      sizes: of the D dimensions.
      scores: float32 [lanes, all].
      mask: bool [lanes, all]; None allows all.
    """
    lanes, count = len(scores), len(sizes)
    if min(sizes) == max(sizes):  # of one size all are chosen at once
        rows = lanes * count, sizes[0]
        return choose(scores.reshape(rows), None if mask is None else mask.reshape(rows)).reshape(lanes, count)
    masks: list[Any] = [None] * count if mask is None else split(mask, sizes)
    return np.stack([choose(*each) for each in zip(split(scores, sizes), masks, strict=True)], axis=1)


def epsilon_greedy_by_dimension(
    sizes: Sequence[int],
    scores: NDArray[Any],
    epsilon: Any,
    random: np.random.Generator,
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """`exploration.epsilon_greedy` in each dimension by itself; `epsilon` is one, or one a lane."""
    of_lanes = np.broadcast_to(epsilon, len(scores))

    def choose(part: NDArray[Any], allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        return epsilon_greedy(part, np.repeat(of_lanes, len(part) // len(scores)), random, allowed)

    return by_dimension(choose, sizes, scores, mask)


def usable(mask: NDArray[np.bool_], sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Whether a mask [lanes, all] allows something in every dimension, bool [lanes]."""
    found: NDArray[np.bool_] = np.stack([part.any(axis=-1) for part in split(mask, sizes or mask.shape[-1:])])
    return np.asarray(found.all(axis=0))


def taken_at(values: NDArray[Any], actions: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[Any]:
    """What the scores or masks [n, all] have of actions: [n] of int64 [n], of several dimensions [n, D] of [n, D]."""
    if sizes:
        return np.take_along_axis(values, actions + begins(sizes), axis=1)
    taken: NDArray[Any] = values[np.arange(len(actions)), actions]
    return taken


def allows(mask: NDArray[np.bool_], actions: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Whether a mask [n, all] allows all of each action, bool [n]."""
    taken = taken_at(mask, actions, sizes)
    return np.asarray(taken.all(axis=1) if sizes else taken)


def outside(actions: NDArray[Any], specs: Specs) -> NDArray[np.bool_]:
    """Which actions [n] or [n, D] do not exist, bool [n]."""
    wrong: NDArray[np.bool_] = (actions < 0) | (actions >= np.asarray(specs.action_sizes or specs.num_actions))
    return np.asarray(wrong.any(axis=1) if specs.action_sizes else wrong)


def choice_names(sizes: Sequence[int]) -> list[str]:
    """What choices are called that have no names: dimension and number, such as 0=2."""
    return [f"{dimension}={choice}" for dimension, size in enumerate(sizes) for choice in range(size)]


def refusal(specs: Specs) -> str:
    """Why a kind that learns one number alone cannot act there, and which can; empty where it can."""
    if not specs.action_sizes:
        return ""
    return (
        f"its actions are one number, and those there are vectors of {len(specs.action_sizes)}: choose dqn, c51, "
        "rainbow, qr_dqn, iqn, r2d2, pqn, reinforce, ppo or behaviour_cloning"
    )
