"""What follows from skipped updates, and when Q-values are too large, by hand-worked numbers."""

import math
from typing import Any

import numpy as np
import pytest

from agents import (
    AgentConfig,
    BehaviourCloningConfig,
    C51Config,
    DqnConfig,
    PpoConfig,
    R2d2Config,
    RainbowConfig,
)
from agents.exploration import ExplorationConfig
from pipeline.evaluator.evaluator import Values
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.learner.divergence import SkippedUpdates, ValueSentinel, Verdict
from pipeline.messages.contents import Evaluation

GO_ON, ROLL_BACK, DIVERGED = Verdict.GO_ON, Verdict.ROLL_BACK, Verdict.DIVERGED


def guard(**fields: Any) -> SkippedUpdates:
    return SkippedUpdates(LearnerConfig(**{"bad_updates": 3, "rollbacks": 2, "recovery_steps": 20} | fields))


@pytest.mark.parametrize(
    ("calls", "verdicts"),
    [
        ([(), (0, 2, 4)], [GO_ON, GO_ON]),  # every other one: none in a row
        ([(1, 2, 3)], [ROLL_BACK]),
        ([(0, 1, 2, 3, 4)], [ROLL_BACK]),  # one rollback a call
        ([(3, 4), (0,)], [GO_ON, ROLL_BACK]),  # in a row across calls
        ([(3, 4), (1,)], [GO_ON, GO_ON]),
        ([(3, 4), (), (0,)], [GO_ON, GO_ON, GO_ON]),
        ([(0, 1, 2)] * 3, [ROLL_BACK, ROLL_BACK, DIVERGED]),
        # 5 + 5 + 5 + 5 applied steps after a rollback make the next one the first again.
        (
            [(2, 3, 4), (), (), (), (), (2, 3, 4), (2, 3, 4), (2, 3, 4)],
            [ROLL_BACK, *[GO_ON] * 4, ROLL_BACK, ROLL_BACK, DIVERGED],
        ),
        ([(2, 3, 4), (), (), (), (2, 3, 4), (2, 3, 4)], [ROLL_BACK, *[GO_ON] * 3, ROLL_BACK, DIVERGED]),
    ],
)  # fmt: skip
def test_updates_in_a_row_roll_back_and_at_last_end_the_run(
    calls: list[tuple[int, ...]], verdicts: list[Verdict]
) -> None:
    updates = guard()
    assert [updates.judge(skipped, 5) for skipped in calls] == verdicts


def test_the_row_is_counted_up_to_the_last_applied_update() -> None:
    updates = guard(bad_updates=10)
    rows = []
    for skipped in ((0, 1), (3, 4), (0, 1, 2, 3, 4), ()):
        updates.judge(skipped, 5)
        rows.append(updates.in_a_row)
    assert rows == [0, 2, 7, 0]


def test_without_rollbacks_a_row_ends_the_run() -> None:
    assert guard(rollbacks=0).judge((0, 1, 2), 5) is DIVERGED


def sentinel(agent: AgentConfig, reward: float = 1.0, actions: int = 4, **fields: Any) -> ValueSentinel:
    made = ValueSentinel(Experiment(agent=agent, **fields), actions)
    made.see_rewards(reward)
    return made


@pytest.mark.parametrize(
    ("agent", "reward", "bound"),
    [
        (DqnConfig(discount=0.99), 1.0, 100.0),
        (DqnConfig(discount=0.9), 3.0, 30.0),
        (DqnConfig(discount=0.9, n_step=5), 3.0, 30.0),
        (DqnConfig(discount=0.9, reward_clip=1.0), 3.0, 10.0),
        (DqnConfig(discount=0.9, reward_clip=5.0), 3.0, 30.0),
        (DqnConfig(discount=1.0), 3.0, None),
        (DqnConfig(discount=0.9), 0.0, None),
        (DqnConfig(discount=0.0), 3.0, 3.0),
        # Soft values gain tau log 4 = 0.03 * 1.386 a step.
        (DqnConfig(discount=0.9, double=False, munchausen=True), 1.0, 10.0 + 0.3 * math.log(4)),
        (C51Config(discount=0.9), 2.0, 20.0),
        (PpoConfig(discount=0.9), 2.0, 20.0),
        # h(24) = sqrt(25) - 1 + 0.024.
        (R2d2Config(discount=0.75), 6.0, 4.024),
        (R2d2Config(discount=0.75, value_rescaling=False), 6.0, 24.0),
        (BehaviourCloningConfig(), 6.0, None),
    ],
)
def test_the_bound_is_what_rewards_allow(agent: AgentConfig, reward: float, bound: float | None) -> None:
    found = sentinel(agent, reward).bound()
    assert found == (None if bound is None else pytest.approx(bound))


def test_values_beyond_the_bound_for_a_while_warn_once_until_they_are_back() -> None:
    watch = sentinel(DqnConfig(double=False))
    assert watch.see_values(0.0, 149.0, 0) == []
    assert watch.q_max_over_bound == pytest.approx(1.49)
    assert watch.see_values(0.0, 562.0, 100) == []
    assert watch.see_values(0.0, 149.0, 1_000) == []  # back within: the while begins anew
    assert watch.see_values(0.0, 300.0, 1_100) == []
    assert watch.see_values(0.0, 300.0, 3_099) == []
    (text,) = watch.see_values(0.0, 400.0, 3_100)
    assert "400, is 4.0 times the bound for rewards up to 1, 100" in text
    assert all(field in text for field in ("agent.learning_rate", "agent.double=true", "agent.reward_clip"))
    assert watch.see_values(0.0, 900.0, 9_000) == []
    assert watch.warnings == [text]
    assert watch.see_values(0.0, 90.0, 9_100) == []
    assert watch.warnings == [text]
    assert watch.see_values(0.0, 90.0, 11_100) == []
    assert watch.warnings == []


def test_advice_is_of_fields_that_the_agent_has() -> None:
    watch = sentinel(PpoConfig(reward_clip=1.0))
    watch.see_values(0.0, 1e6, 0)
    (text,) = watch.see_values(0.0, 1e6, 2_000)
    assert text.endswith(": lower agent.learning_rate")


def evaluation(best_value: float, worst_value: float = 0.0) -> Evaluation:
    figures = dict.fromkeys(("mean_return", "std_return", "min_return", "max_return", "mean_length", "seconds"), 1.0)
    return Evaluation(
        1, 1, episodes=1, resident_bytes=1, is_best=True, worst_value=worst_value, best_value=best_value, **figures
    )


@pytest.mark.parametrize(
    ("agent", "best_values", "expected"),
    [
        (DqnConfig(), [], None),
        # 9 + 2 * 9 + 1: a pole that falls after nine steps, and a table of hundred-fold values.
        (DqnConfig(), [9.0], 28.0),
        (DqnConfig(), [9.0, 60.0, 20.0], 181.0),
        # A car that never arrives is worth -100 everywhere; values on their way down from 0 are no overestimates.
        (DqnConfig(), [-100.0], 101.0),
        (DqnConfig(), [0.0], 1.0),
        (DqnConfig(discount=1.0), [9.0], None),
        (DqnConfig(double=False, munchausen=True), [9.0], 28.0 + 3.0 * math.log(4)),
        (R2d2Config(), [8.0], math.sqrt(26.0) - 1.0 + 0.025),
        (BehaviourCloningConfig(), [9.0], None),
    ],
)
def test_the_mean_value_is_compared_with_evaluations(
    agent: AgentConfig, best_values: list[float], expected: float | None
) -> None:
    watch = sentinel(agent)
    for best_value in best_values:
        watch.see_evaluation(evaluation(best_value))
    assert watch.expected() == (None if expected is None else pytest.approx(expected))
    if expected is None:
        return
    for value, warned in ((expected * 0.99, []), (expected * 1.01, ["overestimated"])):
        assert watch.see_values(value, value, 0) == []
        texts = watch.see_values(value, value, 2_000)
        assert [word for word in ("overestimated",) if any(word in text for text in texts)] == warned


@pytest.mark.parametrize(
    ("agent", "worst", "best", "advice"),
    [
        (C51Config(), 0.0, 99.0, ["set agent.v_max to 99 or more"]),
        (C51Config(), 0.0, 10.3, []),  # within an atom
        (C51Config(), -123.0, 4.0, ["set agent.v_min to -130 or less"]),
        (C51Config(v_max=100.0), -11.0, 104.4, ["set agent.v_max to 110 or more"]),
        (RainbowConfig(), -50.0, 50.0, ["set agent.v_max to 50 or more", "set agent.v_min to -50 or less"]),
        (DqnConfig(), -1e6, 1e6, []),
    ],
)
def test_returns_beyond_a_support_are_told_once_with_the_value_to_set(
    agent: AgentConfig, worst: float, best: float, advice: list[str]
) -> None:
    watch = sentinel(agent)
    texts = watch.see_evaluation(evaluation(best, worst))
    assert [part for part in advice if part in " ".join(texts)] == advice
    assert len(texts) == (1 if advice else 0)
    assert watch.warnings == texts
    assert watch.see_evaluation(evaluation(best, worst)) == []
    assert watch.warnings == texts


def test_a_bonus_that_evaluations_do_not_pay_takes_the_comparison_away() -> None:
    watch = sentinel(DqnConfig(), exploration=ExplorationConfig(count_bonus=0.1))
    watch.see_evaluation(evaluation(9.0))
    assert watch.expected() is None
    assert watch.bound() == pytest.approx(100.0)


def values(discount: float, clip: float, rows: list[tuple[float, bool, bool]]) -> float:
    found = Values(discount, clip)
    for reward, terminated, begins in rows:
        found.add(np.float32([reward]), np.array([terminated]), np.array([begins]))
    return found.range()[1]


@pytest.mark.parametrize(
    ("rows", "clip", "best"),
    [
        # Rewards 1, 2, 4 with a discount of a half: 1 + 1 + 1, 2 + 2 and 4.
        ([(1.0, False, False), (2.0, False, False), (4.0, True, False)], 0.0, 4.0),
        ([(4.0, False, False), (2.0, False, False), (1.0, True, False)], 0.0, 5.25),
        ([(4.0, False, False), (2.0, False, False), (1.0, True, False)], 1.0, 1.75),
        ([(-4.0, False, False), (-2.0, True, False)], 0.0, -2.0),
        # Cut off with a mean of 1, which is 2 for ever: every state is worth 2.
        ([(1.0, False, False), (1.0, False, False)], 0.0, 2.0),
        ([(-1.0, False, False), (-1.0, False, False)], 0.0, -2.0),
        # A truncated episode of rewards 1, then a reset and a terminated one of 3: nothing crosses.
        ([(1.0, False, False), (1.0, False, False), (0.0, False, True), (3.0, True, False)], 0.0, 3.0),
        ([(1.0, True, False), (0.0, False, True), (0.5, True, False)], 0.0, 1.0),
    ],
)
def test_the_best_value_of_episodes_by_hand(rows: list[tuple[float, bool, bool]], clip: float, best: float) -> None:
    assert values(0.5, clip, rows) == pytest.approx(best)


def test_lanes_do_not_mix() -> None:
    found = Values(0.5, 0.0)
    found.add(np.float32([1.0, -1.0]), np.array([True, False]), np.array([False, False]))
    found.add(np.float32([0.0, -1.0]), np.array([False, True]), np.array([True, False]))
    assert found.range() == pytest.approx((-1.5, 1.0))
