"""Policies refuse environments that they were not made for."""

from typing import Any

import numpy as np
import pytest
from environments_for_tests import SPACES
from gymnasium import spaces

from pipeline.acting.policy_files import MadeFor
from pipeline.acting.stored_policies import refuse_other
from pipeline.experiment.config import UsageError

TWO = spaces.Discrete(2)


def box(high: float = 1.0, size: int = 3, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(0, high, (size,), dtype)


@pytest.mark.parametrize("kind", [kind for kind in SPACES if kind not in ("text", "sequence", "integers")])
def test_what_is_as_it_was_fits(kind: str) -> None:
    refuse_other(MadeFor.of(SPACES[kind], TWO), MadeFor.of(SPACES[kind], TWO))


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        (box(), box(size=4), "shape"),
        (box(255, dtype=np.uint8), box(dtype=np.float32), "dtype"),
        (box(255, dtype=np.uint8), box(1, dtype=np.uint8), "maximum"),
        (box(), box(255.0), "up to 255"),
        (box(255.0), box(), "up to 255"),
        (spaces.Discrete(4), spaces.Discrete(5), "maximum"),
        (spaces.MultiDiscrete([2, 5]), spaces.MultiDiscrete([5, 2]), "maximum"),
        (spaces.Dict(a=box(), b=box()), spaces.Dict(a=box(), c=box()), "'a', 'c'"),
        (spaces.Dict(a=box(), b=box()), spaces.Dict(a=box(), b=box(9.0)), "observations b of up to 1"),
    ],
)
def test_other_observations_are_refused_by_name(was: Any, now: Any, words: str) -> None:
    with pytest.raises(UsageError, match="the environment does not fit the policy") as caught:
        refuse_other(MadeFor.of(was, TWO), MadeFor.of(now, TWO))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_actions_are_refused() -> None:
    with pytest.raises(UsageError, match="2 actions, and has 3 actions now"):
        refuse_other(MadeFor.of(box(), TWO), MadeFor.of(box(), spaces.Discrete(3)))


@pytest.mark.parametrize("now", [box(1.3), spaces.Box(-np.inf, np.inf, (3,), np.float32), box(dtype=np.float64)])
def test_bounds_that_move_a_little_or_are_taken_away_fit(now: spaces.Box) -> None:
    refuse_other(MadeFor.of(box(), TWO), MadeFor.of(now, TWO))
