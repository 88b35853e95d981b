"""What a run that ends has not come to, in words that name the setting."""

from typing import Any

import pytest

from pipeline.experiment.config import parse
from pipeline.messages.contents import Evaluation
from pipeline.records.counters import BestEvaluation, Counters
from pipeline.records.shortfalls import shortfalls

DATA = {"mean": 100.0, "best_tenth": 300.0, "episodes": 50.0}
OFFLINE = ("offline.dataset='somewhere'", "stop.gradient_steps=10")


def evaluation(mean_return: float, **fields: Any) -> Evaluation:
    values: dict[str, Any] = dict.fromkeys(Evaluation.__struct_fields__, 0)
    given = {"mean_return": mean_return, "std_return": 20.0, "episodes": 4, "is_whole": True, "info": {}}
    return Evaluation(**{**values, **given, **fields})


def said(found: Evaluation, *lines: str, **counted: Any) -> list[str]:
    counters = Counters(**{"gradient_steps": 10, "dataset_returns": DATA, **counted})
    return list(shortfalls(parse("", (*OFFLINE, *lines)), counters, found))


@pytest.mark.parametrize(
    ("mean_return", "is_worse"),
    [(89.9, True), (90.1, False), (100.0, False), (400.0, False)],  # four episodes' mean errs by 20 / sqrt(4) = 10
)
def test_a_policy_below_its_data_by_more_than_its_mean_errs_is_worse(mean_return: float, is_worse: bool) -> None:
    assert len(said(evaluation(mean_return))) == is_worse


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "set agent.cql_alpha=1, or raise stop.gradient_steps"),
        (("agent.cql_alpha=2.0",), "set agent.cql_alpha=4, or raise stop.gradient_steps"),
        (("agent.kind='qr_dqn'",), "set agent.cql_alpha=1, or raise stop.gradient_steps"),
        (("agent.kind='c51'",), "agent.kind='dqn' with agent.cql_alpha, or 'iql', keeps to what the data does"),
        (("agent.kind='iql'",), "lower agent.expectile or agent.inverse_temperature"),
        (("agent.kind='behaviour_cloning'",), "agent.kind='iql' or cql_alpha of 'dqn'"),
    ],
)
def test_what_to_change_is_of_the_kind(lines: tuple[str, ...], words: str) -> None:
    (sentence,) = said(evaluation(50.0), *lines)
    assert sentence.startswith("the policy is worse than its data: it returns 50, the dataset's episodes 100: ")
    assert sentence.endswith(words)


def test_a_better_policy_of_the_same_run_is_named() -> None:
    best = BestEvaluation(250.0, 0, 7_500)
    (sentence,) = said(evaluation(50.0), best=best)
    assert "100 (policies/best 250, after 7,500 gradient steps): set" in sentence
    (sentence,) = said(evaluation(50.0), best=BestEvaluation(60.0, 0, 7_500))
    assert "policies/best" not in sentence


def test_nothing_is_compared_where_it_would_mislead() -> None:
    assert not said(evaluation(50.0), dataset_returns={})
    assert not any("data" in text for text in said(evaluation(50.0, is_whole=False, unfinished=1)))
