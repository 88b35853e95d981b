"""Trading: what is earned and paid, periods that do not overlap, and nothing seen of the future."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agents
from agents.exploration import greedy
from benchmarks.learning.trading.walks import PERIODS, coin, constant, greedily, walk
from pipeline import environments
from pipeline.acting import network_program
from pipeline.acting.keras_actor import KerasActor
from pipeline.acting.policy_files import Policy
from pipeline.evaluator.evaluation import play
from pipeline.experiment import config
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.sections import EnvironmentConfig, Experiment
from pipeline.messages.contents import Array

WINDOW = 5
Write = Callable[..., str]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes closing prices into a CSV file and returns its path."""
    folder, files = tmp_path_factory.mktemp("prices"), iter(range(1_000_000))

    def to_file(closes: Any) -> str:
        path = folder / f"{next(files)}.csv"
        path.write_text("\n".join(["Close", *(repr(float(close)) for close in closes)]) + "\n")
        return str(path)

    return to_file


def prices(seed: int, rows: int, start: float = 100.0) -> Any:
    """A random walk; some bars do not move."""
    random = np.random.default_rng(seed)
    return start * np.exp(np.cumsum(0.03 * random.standard_normal(rows) * (random.random(rows) < 0.9)))


def market(csv: str, environment_id: str = "Trading/Stocks-v0", lanes: int = 1, **kwargs: Any) -> Any:
    kwargs = {"csv": csv, "window": WINDOW, **kwargs}
    return environments.make(EnvironmentConfig(id=environment_id, kwargs=kwargs), lanes)


def play_actions(environment: Any, actions: Any) -> tuple[list[Any], list[float]]:
    """Observations (one more than steps) and rewards of one lane, up to the period's end."""
    seen = environment.reset(0)
    observations, rewards = [seen.observation[""][0].copy()], []
    for action in actions:
        seen = environment.step(np.array([action]))
        observations.append(seen.observation[""][0].copy())
        rewards.append(float(seen.reward[0]))
        assert not seen.terminated[0], "the market goes on"
        if seen.truncated[0]:
            break
    environment.close()
    return observations, rewards


def slow_equity(closes: Any, actions: Any, cost: float, short: bool) -> list[float]:
    """What an account is worth after each bar, in money; `closes` begin where the first action is filled."""
    equity, side = 1.0, 0
    worth = []
    for action, bought_at, now in zip(actions, closes[:-1], closes[1:], strict=True):
        wanted = action if not short else (1 if action == 1 else -1)
        for _ in range(abs(wanted - side)):  # each unit is paid for
            equity -= equity * cost
        side = wanted
        units = equity / bought_at
        equity += side * units * (now - bought_at)
        worth.append(equity)
    return worth


# What is earned and paid


def test_four_bars_by_hand(write: Write) -> None:
    closes = [10.0, 10.0, 11.0, 11.0, 9.9, 9.9]
    environment = market(write(closes), window=1, cost=0.01)
    observations, rewards = play_actions(environment, [1, 1, 0, 0])
    # Bought at 10 for 0.99 of equity; 10 -> 11; held while nothing moves; sold at 11 before the fall; nothing held.
    assert np.exp(rewards) == pytest.approx([0.99 * 1.1, 1.0, 0.99, 1.0], rel=1e-6)
    assert math.exp(sum(rewards)) == pytest.approx(0.99 * 1.1 * 0.99, rel=1e-6)
    assert [list(observation) for observation in observations] == [[0, 0], [1, 1], [0, 1], [-1, 0], [0, 0]]


def test_to_turn_from_owing_to_holding_is_paid_twice(write: Write) -> None:
    closes = [10.0, 10.0, 11.0, 9.9, 9.9]
    environment = market(write(closes), "Trading/Forex-v0", window=1, cost=0.01)
    observations, rewards = play_actions(environment, [0, 1, 1])
    assert np.exp(rewards) == pytest.approx([0.99 * 0.9, 0.99**2 * 0.9, 1.0], rel=1e-6)
    assert [observation[-1] for observation in observations] == [0, -1, 1, 1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    short=st.booleans(),
    cost=st.sampled_from([0.0, 0.001, 0.3]),
    scale=st.sampled_from([1.0, 100.0]),
    begin=st.sampled_from([0.0, 0.3, 0.77]),
)
def test_rewards_add_up_to_the_log_of_equity(
    write: Write, seed: int, short: bool, cost: float, scale: float, begin: float
) -> None:
    closes = prices(seed, 60)
    environment = market(write(closes), cost=cost, short=short, reward_scale=scale, begin=begin)
    actions = np.random.default_rng(seed).integers(0, 2, 60)
    _, rewards = play_actions(environment, actions)
    filled_at = max(round(begin * 60) - 1, WINDOW)
    worth = slow_equity(closes[filled_at:], actions[: len(rewards)], cost, short)
    assert np.cumsum(rewards) / scale == pytest.approx(np.log(worth), abs=1e-5)


def test_an_episodes_return_is_that_of_gym_anytradings_own_bookkeeping(write: Write) -> None:
    environment = market(write(prices(3, 50)), cost=0.01)
    own = environment.vector.envs[0].unwrapped
    _, rewards = play_actions(environment, np.random.default_rng(3).integers(0, 2, 50))
    assert own.history["total_profit"][-1] == pytest.approx(math.exp(sum(rewards)), rel=1e-5)
    assert own.history["total_reward"][-1] == pytest.approx(sum(rewards), abs=1e-5)


@pytest.mark.parametrize("period", PERIODS)
def test_buy_and_hold_is_the_ratio_of_prices_and_one_cost(write: Write, period: str) -> None:
    closes = prices(8, 100)
    experiment = experiment_on(write(closes))
    bought_at, last = (WINDOW, 69) if period == "training" else (69, 99)
    held = walk(experiment, period, constant(1))
    assert held.equity[-1] == pytest.approx([0.999 * closes[last] / closes[bought_at]], rel=1e-5)
    assert (held.trades, len(held.actions)) == ([1], last - bought_at)
    never = walk(experiment, period, constant(0))
    assert (never.returns, never.trades, never.drawdowns) == ([0.0], [0], [0.0])


# Periods


def test_periods_share_no_row_and_evaluation_covers_those_held_out(write: Write) -> None:
    experiment = experiment_on(write(prices(1, 100)))
    rows = []
    for settings_ in (experiment.environment, experiment.evaluation_environment):
        environment = environments.make(settings_, 1)
        rows.append(range(*environment.vector.envs[0].unwrapped.rows))
        environment.close()
    training, held_out = rows
    assert list(held_out) == list(range(70, 100))
    assert list(training) == list(range(WINDOW + 1, 70))


def test_what_is_earned_in_evaluation_is_of_the_rows_held_out(write: Write) -> None:
    closes = prices(2, 100)
    everywhere = play_actions(market(write(closes), begin=0.7), [1] * 100)[1]
    changed = np.concatenate([closes[:69] * 3.0, closes[69:]])  # training rows, but for the close that is bought at
    assert play_actions(market(write(changed), begin=0.7), [1] * 100)[1] == everywhere
    assert len(everywhere) == 30


def test_training_never_reads_the_rows_held_out(write: Write) -> None:
    closes = prices(2, 100)
    other = np.concatenate([closes[:70], prices(99, 30)])
    actions = np.random.default_rng(0).integers(0, 2, 100)
    one, two = (play_actions(market(write(series), end=0.7), actions) for series in (closes, other))
    assert np.array_equal(one[0], two[0])
    assert one[1] == two[1]


def test_training_episodes_begin_anywhere_in_their_period(write: Write) -> None:
    closes = prices(5, 100)
    environment = market(write(closes), lanes=8, begin=0.2, end=0.5, episode=10, cost=0.0)
    own = environment.vector.envs[0].unwrapped
    rewards = {round(math.log(closes[row] / closes[row - 1]), 6) for row in range(20, 50)}
    starts, paid = set(), set()
    environment.reset(0)
    for _ in range(11 * 60):
        seen = environment.step(np.ones(8, np.int64))
        paid |= set(np.round(seen.reward[~environment.resetting].astype(float), 6).tolist())
        starts.add(own._start_tick - own._period[0])
        assert set(environment.episode_ends().lengths) <= {10}
    environment.close()
    assert starts == set(range(21)), "the first and the last step of the period included"
    near = [min(abs(one - other) for other in rewards | {0.0}) for one in paid]
    assert max(near) < 2e-6, "every reward is a bar of the period"


def test_the_same_seed_begins_the_same_episodes() -> None:
    environment = environments.make(config.load("trading").environment, 4)
    first = environment.reset(7).observation[""].copy()
    assert np.array_equal(environment.reset(7).observation[""], first)
    assert not np.array_equal(environment.reset(8).observation[""], first)
    assert len(np.unique(first, axis=0)) == 4
    environment.close()


# No look-ahead


def experiment_on(csv: str, *overrides: str) -> Experiment:
    lines = (
        'environment.id="Trading/Stocks-v0"',
        f"environment.kwargs={{csv='{csv}', window={WINDOW}, end=0.7, cost=0.001, episode=20}}",
        "evaluation.kwargs={begin=0.7, end=1.0, episode=0}",
        "evaluation.episodes=1",
        "agent.hidden_units=[16]",
    )
    return parse("", (*lines, *overrides))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), row=st.integers(WINDOW, 79), begin=st.sampled_from([0.0, 0.5]), short=st.booleans())
def test_what_comes_later_changes_no_observation_before(
    write: Write, seed: int, row: int, begin: float, short: bool
) -> None:
    one = prices(seed, 80)
    other = np.concatenate([one[: row + 1], prices(seed + 1, 79 - row, start=one[row] * 0.5)])
    actions = np.random.default_rng(seed).integers(0, 2, 80)
    played = [play_actions(market(write(closes), begin=begin, short=short), actions) for closes in (one, other)]
    first = max(round(begin * 80) - 1, WINDOW)  # the row of the first observation
    known = max(0, row - first + 1)
    assert np.array_equal(played[0][0][:known], played[1][0][:known])
    assert played[0][1][: max(0, known - 1)] == played[1][1][: max(0, known - 1)]
    if row < 79 and known:
        assert not np.array_equal(played[0][0][known], played[1][0][known]), "the next close is seen when it is there"


@pytest.fixture(scope="module")
def policy(write: Write) -> Policy:
    """A random network that acts as the learner's would, by its TFLite program; it is no constant policy."""
    experiment = experiment_on(write(prices(0, 100)))
    specs = environments.describe(experiment.environment)
    agent = agents.build("dqn", specs, experiment.agent, seed=4)
    program = network_program.convert(agent.acting_model, specs)
    weights = tuple(Array.of(weight) for weight in agent.acting_model.get_weights())
    return Policy(program, weights, 0, 0, 0.0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), row=st.integers(69, 98))
def test_what_comes_later_changes_no_decision_before(write: Write, policy: Policy, seed: int, row: int) -> None:
    one = prices(seed, 100)
    other = np.concatenate([one[: row + 1], prices(seed + 1, 99 - row, start=one[row] * 0.5)])
    decided = []
    for closes in (one, other):
        experiment = experiment_on(write(closes))
        decided.append(walk(experiment, "held-out", greedily(experiment, policy)).actions[:, 0].tolist())
    known = row - 69 + 1  # the first decision is made at row 69, for the first row held out
    assert decided[0][:known] == decided[1][:known]
    assert len(decided[0]) == 30


def test_the_evaluators_return_is_that_of_these_decisions(write: Write, policy: Policy) -> None:
    closes = prices(11, 100)
    experiment = experiment_on(write(closes))
    walked = walk(experiment, "held-out", greedily(experiment, policy))
    actions = walked.actions[:, 0]
    assert 0 < actions.sum() < 30, "the test wants a policy that trades"
    (evaluated,) = play(experiment, policy, episodes=1, seed=0).returns
    assert evaluated == pytest.approx(math.log(slow_equity(closes[69:], actions, 0.001, False)[-1]), abs=1e-5)
    assert walked.equity[-1, 0] == pytest.approx(math.exp(evaluated), rel=1e-6)


def test_decisions_are_those_of_the_keras_network(write: Write, policy: Policy) -> None:
    experiment = experiment_on(write(prices(12, 100)))
    specs = environments.describe(experiment.environment)
    weights = [array.numpy() for array in policy.weights]
    keras = KerasActor(experiment.agent, specs, 1, weights)
    walked = walk(experiment, "held-out", lambda observation: greedy(keras.q_values(observation), None))
    assert np.array_equal(walked.actions, walk(experiment, "held-out", greedily(experiment, policy)).actions)


def test_coins_turn_as_often_as_they_are_asked_to(write: Write) -> None:
    experiment = experiment_on(write(prices(13, 1_000)))
    for turning in (0.02, 0.5):
        walked = walk(experiment, "training", coin(turning, 20), lanes=20)
        assert walked.trades.mean() / len(walked.actions) == pytest.approx(turning, rel=0.1)


# A user's data


def test_a_users_file_is_traded_on_whatever_else_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    lines = [f"{day:02}.{month:02}.2020,x,{100 + day + month}" for month in range(1, 5) for day in range(1, 29)]
    path.write_text("\n".join([" date ,Note,CLOSE", *lines]))
    environment = market(str(path))
    assert environment.specs.observation.shape == (WINDOW + 1,)
    assert len(play_actions(environment, [1] * 200)[1]) == 4 * 28 - WINDOW - 1
    path.write_text("date,close\n" + "\n".join(f"{stamp},{100 + stamp}" for stamp in range(40)))
    assert len(play_actions(market(str(path)), [1] * 200)[1]) == 40 - WINDOW - 1, (
        "a file that has changed is read again"
    )


def test_date_and_time_are_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "hours.csv"
    lines = [f"2020-01-{day:02},{hour:02}:00,{50 + day + hour}" for day in range(1, 9) for hour in range(24)]
    path.write_text("\n".join(["Date,Time,Close", *lines]))
    market(str(path)).close()


GOOD = [f"2020-01-{day:02},{100 + day}" for day in range(1, 31)]


@pytest.mark.parametrize(
    ("lines", "kwargs", "words"),
    [
        (None, {}, "cannot be read: No such file"),
        ([], {}, "cannot be read as CSV"),
        (["Date,Price", *GOOD], {}, "has no column Close; it has Date, Price"),
        (["Date,Close", *GOOD[:9], "2020-01-10,", *GOOD[10:]], {}, "line 11: Close is nan"),
        (["Date,Close", *GOOD[:9], "2020-01-10,none", *GOOD[10:]], {}, "line 11: Close is none"),
        (["Date,Close", *GOOD[:9], "2020-01-10,0.0", *GOOD[10:]], {}, "line 11: Close is 0.0"),
        (["Date,Close", *GOOD[:9], "2020-01-10,-3", *GOOD[10:]], {}, "line 11: Close is -3"),
        (["Date,Close", *GOOD[:9], GOOD[11], GOOD[10], *GOOD[12:]], {}, "line 12: its date is not after"),
        (["Date,Close", *GOOD[:9], GOOD[9], GOOD[9], *GOOD[10:]], {}, "line 12: its date is not after"),
        (["Date,Close", *GOOD[::-1]], {}, "sort the rows, oldest first"),
        (["Date,Close", "soon,1.0", *GOOD], {}, "such as 'soon', is no date"),
        (["Date,Close", *GOOD[:6]], {}, "has 6 rows"),
        (["Date,Close"], {}, "has 0 rows"),
        (["Date,Close", *GOOD], {"begin": 0.5, "end": 0.5}, "end=0.5 has to be above begin=0.5"),
        (["Date,Close", *GOOD], {"begin": -0.1}, "begin=-0.1 has to be a share"),
        (["Date,Close", *GOOD], {"end": 1.5}, "end=1.5 has to be"),
        (["Date,Close", *GOOD], {"cost": 1.0}, "cost=1.0 has to be"),
        (["Date,Close", *GOOD], {"window": 0}, "window=0 has to be"),
        (["Date,Close", *GOOD], {"window": 2.5}, "window=2.5 has to be"),
        (["Date,Close", *GOOD], {"episode": 25}, "at least 25 are wanted"),
        (["Date,Close", *GOOD], {"reward_scale": 0.0}, "reward_scale=0.0 has to be"),
        (["Date,Close", *GOOD, "2020-01-31,500"], {"short": True}, "set short=false"),
        (["Date,Close", *GOOD], {"windw": 3}, "windw"),
        (["Date,Close", *GOOD], {"begin": "0.5"}, "TypeError"),
    ],
)
def test_a_users_mistake_is_one_line(lines: list[str] | None, kwargs: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    if lines is not None:
        path.write_text("\n".join(lines))
    with pytest.raises(UsageError) as caught:
        market(str(path), **kwargs).close()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "rows"), [("trading", 701), ("trading_forex", 1867)])
def test_the_shipped_configs_hold_out_the_last_three_tenths(name: str, rows: int) -> None:
    experiment = config.load(name)
    held_out = walk(experiment, "held-out", constant(1))
    assert len(held_out.actions) == rows
    assert experiment.environment.kwargs["end"] == experiment.evaluation.kwargs["begin"] == 0.7
