"""Actions of several dimensions in NumPy: choices, exploration, masks and errors, against one dimension at a time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import ArraySpec, ExplorationConfig, Specs, dimensions, exploration
from agents.initial_priorities import TdErrorWindow

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
STRATEGIES = ("greedy", "epsilon_greedy", "boltzmann")


def drawn(sizes: tuple[int, ...], lanes: int, seed: int) -> tuple[Any, Any]:
    """Scores [lanes, all], and masks that allow something of each dimension."""
    random = np.random.default_rng(seed)
    parts = [random.random((lanes, size)) < 0.5 for size in sizes]
    for part in parts:
        part[np.arange(lanes), random.integers(0, part.shape[1], lanes)] = True
    return random.normal(size=(lanes, sum(sizes))).astype(np.float32), np.concatenate(parts, axis=1)


@given(SIZES, st.integers(0, 9), st.booleans())
def test_the_greedy_action_is_each_dimensions_own(sizes: tuple[int, ...], seed: int, masked: bool) -> None:
    scores, mask = drawn(sizes, 5, seed)
    actions = exploration.greedy(scores, mask if masked else None, sizes)
    begin = 0
    for dimension, size in enumerate(sizes):
        part = slice(begin, begin + size)
        alone = exploration.greedy(scores[:, part], mask[:, part] if masked else None)
        assert actions[:, dimension].tolist() == alone.tolist()
        begin += size
    assert (dimensions.taken_at(scores, actions, sizes) >= scores.min()).all()
    assert dimensions.allows(mask, actions, sizes).all() or not masked


@given(st.integers(2, 5), st.sampled_from(STRATEGIES), st.floats(0.0, 1.0), st.booleans(), st.integers(0, 9))
def test_one_dimension_is_chosen_as_one_number_is(
    size: int, strategy: Any, epsilon: float, masked: bool, seed: int
) -> None:
    config, (scores, mask) = ExplorationConfig(strategy=strategy), drawn((size,), 6, seed)
    given_mask = mask if masked else None
    one = exploration.explore(config, scores, epsilon, np.random.default_rng(seed), given_mask)
    several = exploration.explore(config, scores, epsilon, np.random.default_rng(seed), given_mask, (size,))
    assert several.tolist() == [[action] for action in one.tolist()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(SIZES, st.integers(0, 9))
def test_what_a_dimensions_mask_forbids_is_never_taken(strategy: Any, sizes: tuple[int, ...], seed: int) -> None:
    scores, mask = drawn(sizes, 8, seed)
    config = ExplorationConfig(strategy=strategy)
    actions = exploration.explore(config, scores, 0.7, np.random.default_rng(seed), mask, sizes)
    assert dimensions.allows(mask, actions, sizes).all()


def test_epsilon_draws_each_dimension_by_itself() -> None:
    # Of a dimension of n, another than the best is drawn with 0.4 (n - 1) / n; of both at once, with the product.
    for sizes in ((2, 4), (4, 4)):
        scores = np.zeros((40_000, sum(sizes)), np.float32)
        actions = exploration.epsilon_greedy(scores, 0.4, np.random.default_rng(1), None, sizes)
        other = actions > 0
        shares = np.array([0.4 * (size - 1) / size for size in sizes])
        np.testing.assert_allclose(other.mean(axis=0), shares, atol=0.01)
        assert other.all(axis=1).mean() == pytest.approx(shares.prod(), abs=0.01)


def test_lanes_may_have_an_epsilon_each() -> None:
    for sizes in ((2, 4), (4, 4)):
        scores, epsilons = np.zeros((2_000, sum(sizes)), np.float32), np.tile([0.0, 1.0], 1_000)
        actions = exploration.epsilon_greedy(scores, epsilons, np.random.default_rng(1), None, sizes)
        assert (actions[::2] == 0).all()
        np.testing.assert_allclose((actions[1::2] > 0).mean(axis=0), [1 - 1 / size for size in sizes], atol=0.05)


def test_a_mask_is_usable_if_it_leaves_something_of_every_dimension() -> None:
    mask = np.array([[1, 0, 0, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], bool)
    assert dimensions.usable(mask, (3, 2)).tolist() == [True, False, False]
    assert dimensions.usable(mask, ()).tolist() == [True, True, True]
    assert dimensions.allows(mask, np.array([[0, 1], [0, 1], [2, 0]]), (3, 2)).tolist() == [True, False, False]


def test_actions_that_do_not_exist_are_found() -> None:
    specs = Specs(ArraySpec((), "int32", (1,)), 5, action_sizes=(3, 2))
    assert dimensions.outside(np.array([[2, 1], [2, 2], [-1, 0]]), specs).tolist() == [False, True, True]
    assert dimensions.choice_names((1, 2)) == ["0=0", "1=0", "1=1"]


def test_a_collectors_error_is_the_mean_of_its_dimensions() -> None:
    # Dimensions of 2 and 1. The next best values are 4 and 2, their mean 3: the target is 1 + 0.5 * 3 = 2.5.
    # Taken are 1 and 5: errors 1.5 and 2.5.
    window = TdErrorWindow(2, 0.5, 0.0, (2, 1))
    lanes = np.zeros(1, bool)
    nothing = window.add(
        np.array([[1, 9, 5]], np.float32), None, np.array([[0, 0]]), np.ones(1, np.float32), lanes, lanes
    )
    found = window.add(
        np.array([[4, 3, 2]], np.float32), None, np.array([[1, 0]]), np.ones(1, np.float32), lanes, lanes
    )
    assert nothing is None
    assert found is not None
    np.testing.assert_allclose(found, [2.0])
