"""Numbers of the user's own (`collect.info_keys`): read at the ends of episodes, whatever vectorises the lanes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline import environments
from pipeline.environments.lanes.leaves import InfoNumbers
from pipeline.evaluator.judge import Judge, means
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.messages.contents import Evaluation, Variables
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger

KEYS = ("is_success", "score", "other")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_lanes_give_the_numbers_of_the_episodes_that_a_step_ended(vectorization: str) -> None:
    config = EnvironmentConfig(id="", import_path="environments_for_tests:Succeeding", vectorization=vectorization)  # type: ignore[arg-type]
    environment = environments.make(config, 2, info_keys=KEYS)
    try:
        environment.reset(seed=0)
        assert environment.ended_infos == {}
        for length in (1, 2, 3):
            environment.step(np.array([1, 0]))  # right, wrong
            expected = {0: {"is_success": 1.0, "score": 6.0}, 1: {"is_success": 0.0, "score": 0.0}}
            assert environment.ended_infos == (expected if length == 3 else {})
        environment.step(np.array([1, 1]))  # begins other episodes
        assert environment.ended_infos == {}
    finally:
        environment.close()


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"score": np.array([1, 2]), "_score": np.array([True, False])}, {0: {"score": 1.0}, 1: {}}),
        ({"episode": {"score": np.array([1.5, 2.5]), "_score": np.array([False, True])}}, {0: {}, 1: {"score": 2.5}}),
        ({"score": np.array([np.nan, np.inf])}, {0: {}, 1: {}}),
        ({"score": np.array([[1.0], [2.0]])}, {0: {"score": 1.0}, 1: {"score": 2.0}}),
        ({"x": np.array(["a", "b"])}, {0: {}, 1: {}}),
    ],
)
def test_infos_of_vectors(info: dict[str, Any], found: dict[int, dict[str, float]]) -> None:
    class Vector:
        @property
        def unwrapped(self) -> "Vector":
            return self

    assert InfoNumbers(KEYS).of_ended(Vector(), info, np.array([True, True])) == found
    assert InfoNumbers(KEYS).of_ended(Vector(), info, np.array([False, False])) == {}


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(pipeline.UsageError, match=r"collect.info_keys: info\['score'\] is 'high', no number"):
        InfoNumbers(KEYS)._numbers({"score": "high"})


def test_means_are_over_the_episodes_that_have_a_number() -> None:
    assert means([{"a": 1.0}, {"a": 0.0, "b": 3.0}, {}]) == {"a": 0.5, "b": 3.0}
    assert means([]) == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": {"target": "is_success", "target_return": 1.0}}, "is none of collect.info_keys=[]: add it there"),
        (
            {"collect": {"info_keys": ["x"]}, "stop": {"target": "x", "target_return": None}},
            "set stop.target_return to the value of it",
        ),
        ({"collect": {"info_keys": ["return"]}}, "collect.info_keys: a key is neither empty nor 'return'"),
        ({"collect": {"info_keys": [3]}}, "collect.info_keys"),
    ],
)
def test_settings_that_do_not_fit(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        pipeline.load("cartpole", **fields)
    assert words in str(caught.value)


AIMING = pipeline.load(
    "cartpole", collect={"info_keys": ["is_success", "gone"]}, stop={"target": "is_success", "target_return": 0.9}
)


def evaluation(mean_return: float, success: float | None, steps: int) -> Evaluation:
    info = {} if success is None else {"is_success": success}
    numbers = mean_return, 0.0, mean_return, mean_return
    return Evaluation(steps, steps, *numbers, 1.0, 1, 0.0, 0, False, info=info)


def test_the_target_may_be_a_number_of_ones_own() -> None:
    ledger = Ledger(AIMING, Counters())
    ledger.accept_evaluation(evaluation(500.0, None, 1))
    assert not ledger.solved, "a return beyond any is not what was asked for"
    ledger.accept_evaluation(evaluation(1.0, 0.9, 2))
    assert ledger.solved
    assert ledger.stop_reason() == "target_return"
    assert ledger.summary("target_return", 0.0).info == {"is_success": 0.9}


def test_the_best_policy_is_the_one_with_the_best_of_it(tmp_path: Path) -> None:
    judge = Judge(AIMING, tmp_path)

    def keep(mean_return: float, info: dict[str, float], gradient_steps: int) -> bool:
        policy = judge.begin(Variables(gradient_steps, gradient_steps, program=b"", weights=()))
        return judge.keep(policy, mean_return, True, info)

    assert keep(5.0, {}, 1), "the first one is better than none"
    assert keep(1.0, {"is_success": 0.5}, 2)
    assert not keep(9.0, {"is_success": 0.4}, 3)
    judge = Judge(AIMING, tmp_path)  # another process of the same run
    assert not keep(9.0, {"is_success": 0.4}, 4)
    assert keep(0.0, {"is_success": 0.6}, 5)


def test_a_key_that_no_episode_has_is_a_warning() -> None:
    ledger = Ledger(AIMING, Counters())
    ledger.recent_info["is_success"] = ledger.recent_returns
    ledger.recent_returns.extend([1.0] * 19)
    assert ledger.warnings() == []
    ledger.recent_returns.append(1.0)
    (warning,) = ledger.warnings()
    assert "collect.info_keys: no training episode has ended with a number info['gone']" in warning
