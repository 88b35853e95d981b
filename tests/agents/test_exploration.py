"""How collectors explore: schedules by hand, masks under hypothesis, frequencies with fixed random streams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ExplorationConfig, boltzmann, exploration
from agents.ladder import Ladder

SCHEDULE = ExplorationConfig(epsilon_initial=1.0, epsilon_final=0.1, epsilon_decay_steps=100)


@pytest.mark.parametrize(
    ("environment_steps", "expected"),
    [(0, 1.0), (50, 0.55), (90, 0.19), (100, 0.1), (10_000, 0.1)],  # 1 - 0.9 * steps / 100, then constant
)
def test_epsilon_decays_linearly_and_stays(environment_steps: int, expected: float) -> None:
    assert exploration.epsilon(SCHEDULE, environment_steps) == pytest.approx(expected)


def test_epsilon_without_decay_is_final_after_the_first_step() -> None:
    config = ExplorationConfig(epsilon_initial=1.0, epsilon_final=0.2, epsilon_decay_steps=0)
    assert exploration.epsilon(config, 1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        # Ape-X: 0.4^(1 + i / 7 * 7) = 0.4^(1 + i).
        (0, 0.4),
        (1, 0.16),
        (3, 0.0256),
        (7, 0.00065536),
    ],
)
def test_ladder_spreads_epsilon_over_the_collectors(index: int, expected: float) -> None:
    config = ExplorationConfig(epsilon_initial=0.4, epsilon_final=0.4, ladder_alpha=7.0)
    assert exploration.epsilon(config, 0, index, collectors=8) == pytest.approx(expected)


def test_ladder_of_one_collector_is_its_first_rung() -> None:
    config = ExplorationConfig(epsilon_initial=0.4, epsilon_final=0.4, ladder_alpha=7.0)
    assert exploration.epsilon(config, 0, 0, collectors=1) == pytest.approx(0.4)


def test_ladder_without_alpha_gives_every_collector_the_same() -> None:
    values = {exploration.epsilon(SCHEDULE, 30, index, collectors=5) for index in range(5)}
    assert len(values) == 1


def test_ladder_applies_to_the_decayed_epsilon() -> None:
    config = ExplorationConfig(epsilon_initial=1.0, epsilon_final=0.0, epsilon_decay_steps=10, ladder_alpha=1.0)
    # Halfway epsilon is 0.5; the last of three collectors has 0.5^2, the middle one 0.5^1.5.
    assert exploration.epsilon(config, 5, 2, collectors=3) == pytest.approx(0.25)
    assert exploration.epsilon(config, 5, 1, collectors=3) == pytest.approx(0.5**1.5)


def test_a_ladder_of_lanes_goes_on_from_collector_to_collector() -> None:
    config = ExplorationConfig(ladder_alpha=7.0, ladder_by="lane")
    random, begins = np.random.default_rng(0), np.ones(4, np.bool_)
    found = [Ladder(config, index, 2, 4)(0.4, begins, random) for index in range(2)]
    np.testing.assert_allclose(np.concatenate(found), 0.4 ** (1.0 + 7.0 * np.arange(8) / 7.0))
    assert Ladder(config, 0, 1, 1)(0.4, begins[:1], random).tolist() == [0.4]


def test_a_lane_keeps_the_epsilon_of_its_episode() -> None:
    ladder = Ladder(ExplorationConfig(ladder_alpha=3.0, ladder_by="episode"), 0, 1, 5_000)
    random, begins = np.random.default_rng(0), np.ones(5_000, np.bool_)
    first = ladder(0.5, begins, random)
    rungs = (np.log(first) / np.log(0.5) - 1.0) / 3.0  # uniform in [0, 1]
    np.testing.assert_allclose(np.quantile(rungs, [0.0, 0.25, 0.5, 0.75, 1.0]), [0.0, 0.25, 0.5, 0.75, 1.0], atol=0.03)
    assert (ladder(0.5, ~begins, random) == first).all()
    half = np.arange(5_000) < 2_500
    later = ladder(0.5, half, random)
    assert (later[2_500:] == first[2_500:]).all()
    assert (later[:2_500] != first[:2_500]).all()
    np.testing.assert_allclose(ladder(0.1, ~begins, random), 0.1 ** (1.0 + (np.log(later) / np.log(0.5) - 1.0)))


def test_each_lane_explores_with_an_epsilon_of_its_own() -> None:
    q_values = np.tile(np.float32([0.0, 1.0]), (4_000, 1))
    epsilons = np.repeat([0.0, 1.0], 2_000)
    actions = exploration.epsilon_greedy(q_values, epsilons, np.random.default_rng(0))
    assert (actions[:2_000] == 1).all()
    assert 900 < (actions[2_000:] == 0).sum() < 1_100


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    q_values = np.array([[0.0, 3.0, 1.0], [2.0, 2.0, 1.0]], np.float32)
    actions = exploration.greedy(q_values)
    assert actions.dtype == np.int64
    assert actions.tolist() == [1, 0]


def test_greedy_takes_the_largest_allowed() -> None:
    q_values = np.array([[0.0, 3.0, 1.0], [-5.0, 9.0, 9.0]], np.float32)
    mask = np.array([[True, False, True], [True, False, False]])
    assert exploration.greedy(q_values, mask).tolist() == [2, 0]


def test_greedy_leaves_the_q_values_as_they_are() -> None:
    q_values = np.array([[1.0, 2.0]], np.float32)
    exploration.greedy(q_values, np.array([[True, False]]))
    assert q_values.tolist() == [[1.0, 2.0]]


@settings(deadline=None, max_examples=100)
@given(
    st.data(),
    st.integers(1, 6),
    st.integers(1, 5),
    st.floats(0.0, 1.0),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_no_strategy_ever_takes_a_forbidden_action(
    data: st.DataObject, lanes: int, actions: int, epsilon: float, temperature: float, seed: int
) -> None:
    flat = st.lists(st.floats(-1e6, 1e6, width=32), min_size=lanes * actions, max_size=lanes * actions)
    q_values = np.array(data.draw(flat), np.float32).reshape(lanes, actions)
    allowed = [data.draw(st.sets(st.integers(0, actions - 1), min_size=1)) for _ in range(lanes)]
    mask = np.array([[action in row for action in range(actions)] for row in allowed])
    random = np.random.default_rng(seed)
    config = ExplorationConfig(temperature=temperature)
    softmax = ExplorationConfig(strategy="boltzmann", temperature=temperature)
    for chosen in (
        exploration.greedy(q_values, mask),
        exploration.uniform((lanes, actions), random, mask),
        exploration.epsilon_greedy(q_values, epsilon, random, mask),
        boltzmann.boltzmann(q_values, temperature, random, mask),
        exploration.explore(config, q_values, epsilon, random, mask),
        exploration.explore(softmax, q_values, epsilon, random, mask),
    ):
        assert chosen.dtype == np.int64
        assert chosen.shape == (lanes,)
        assert all(action in row for action, row in zip(chosen, allowed, strict=True))


def frequencies(actions: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(actions, minlength=count) / len(actions)


# 60,000 draws: the standard deviation of a frequency is at most 0.5 / sqrt(60,000) = 0.002, a fifth of the tolerance.
DRAWS = 60_000
TOLERANCE = 0.01


def test_uniform_draws_every_action_equally_often() -> None:
    actions = exploration.uniform((DRAWS, 4), np.random.default_rng(1))
    np.testing.assert_allclose(frequencies(actions, 4), [0.25] * 4, atol=TOLERANCE)


def test_uniform_draws_every_allowed_action_equally_often() -> None:
    mask = np.tile([True, False, True, True], (DRAWS, 1))
    actions = exploration.uniform((DRAWS, 4), np.random.default_rng(1), mask)
    np.testing.assert_allclose(frequencies(actions, 4), [1 / 3, 0.0, 1 / 3, 1 / 3], atol=TOLERANCE)


def test_epsilon_zero_is_greedy_and_epsilon_one_is_uniform() -> None:
    q_values = np.tile(np.array([0.0, 2.0, 1.0], np.float32), (DRAWS, 1))
    random = np.random.default_rng(2)
    assert (exploration.epsilon_greedy(q_values, 0.0, random) == 1).all()
    actions = exploration.epsilon_greedy(q_values, 1.0, random)
    np.testing.assert_allclose(frequencies(actions, 3), [1 / 3] * 3, atol=TOLERANCE)


def test_epsilon_greedy_explores_with_probability_epsilon() -> None:
    q_values = np.tile(np.array([0.0, 2.0, 1.0], np.float32), (DRAWS, 1))
    # 0.3 of the lanes draw uniformly from three: 0.1 each; the greedy action has 0.7 more.
    actions = exploration.epsilon_greedy(q_values, 0.3, np.random.default_rng(3))
    np.testing.assert_allclose(frequencies(actions, 3), [0.1, 0.8, 0.1], atol=TOLERANCE)
    # Without the greedy action the next best is greedy, and two remain to draw from: 0.15 each.
    mask = np.tile([True, False, True], (DRAWS, 1))
    actions = exploration.epsilon_greedy(q_values, 0.3, np.random.default_rng(3), mask)
    np.testing.assert_allclose(frequencies(actions, 3), [0.15, 0.0, 0.85], atol=TOLERANCE)


def test_boltzmann_draws_by_the_softmax_of_q_over_temperature() -> None:
    # Q / T = ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8; without the last action 1/3, 2/3.
    temperature = 3.0
    q_values = np.tile(temperature * np.log([1.0, 2.0, 5.0]), (DRAWS, 1)).astype(np.float32)
    actions = boltzmann.boltzmann(q_values, temperature, np.random.default_rng(4))
    np.testing.assert_allclose(frequencies(actions, 3), [1 / 8, 2 / 8, 5 / 8], atol=TOLERANCE)
    mask = np.tile([True, True, False], (DRAWS, 1))
    actions = boltzmann.boltzmann(q_values, temperature, np.random.default_rng(4), mask)
    np.testing.assert_allclose(frequencies(actions, 3), [1 / 3, 2 / 3, 0.0], atol=TOLERANCE)


def test_cold_boltzmann_is_greedy() -> None:
    q_values = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
    actions = boltzmann.boltzmann(q_values, 1e-6, np.random.default_rng(6))
    assert actions.tolist() == exploration.greedy(q_values).tolist()


@pytest.mark.parametrize("strategy", ["epsilon_greedy", "boltzmann"])
def test_explore_is_a_function_of_q_values_and_random_stream(strategy: str) -> None:
    config = ExplorationConfig(strategy=strategy)
    q_values = np.random.default_rng(7).normal(size=(64, 5)).astype(np.float32)
    same = [exploration.explore(config, q_values, 0.5, np.random.default_rng(8)).tolist() for _ in range(2)]
    other = exploration.explore(config, q_values, 0.5, np.random.default_rng(9)).tolist()
    assert same[0] == same[1]
    assert same[0] != other


def test_explore_follows_the_configured_strategy() -> None:
    q_values = np.random.default_rng(10).normal(size=(64, 5)).astype(np.float32)
    greedy = exploration.explore(ExplorationConfig(), q_values, 0.0, np.random.default_rng(11))
    assert greedy.tolist() == exploration.greedy(q_values).tolist()
    always = exploration.explore(ExplorationConfig(strategy="greedy"), q_values, 1.0, np.random.default_rng(11))
    assert always.tolist() == exploration.greedy(q_values).tolist()
    hot = ExplorationConfig(strategy="boltzmann", temperature=100.0)
    drawn = exploration.explore(hot, q_values, 0.0, np.random.default_rng(11))
    assert drawn.tolist() == boltzmann.boltzmann(q_values, 100.0, np.random.default_rng(11)).tolist()
