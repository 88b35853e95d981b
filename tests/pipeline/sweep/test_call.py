"""`pipeline.sweep(...)`: what it refuses, before anything is written, and a sweep of two runs."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import SHRUNK

import pipeline
from pipeline.sweep import plan

SPACE = {"agent.n_step": {"low": 1, "high": 3}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": 3}, "config is a path or a name, not 3"),
        ({"config": "cartpol"}, "no config 'cartpol'"),
        ({"out": ""}, "out is a path or a name"),
        ({"grid": [1]}, "grid is a table of fields"),
        ({"grid": {"agent.n_step": 3}}, "grid['agent.n_step'] is a list of values"),
        ({"grid": {"agent.n_step": []}}, "grid['agent.n_step'] is a list of values"),
        ({"grid": {"agent.n_stp": [1]}}, "agent.n_stp=1: unknown field 'agent.n_stp'; the nearest is 'agent.n_step'"),
        ({"grid": {"agent.n_step": [1, 1]}}, "grid: agent.n_step=1 is there twice"),
        ({"seeds": []}, "seeds is a list of values"),
        ({"seeds": [0.5]}, "seeds are whole numbers"),
        ({"seeds": 3}, "seeds is a list of values"),
        ({"parallel": 0}, "parallel is a whole number of at least 1"),
        ({"overrides": {"agent.n_step": object()}}, "cannot be written as TOML"),
        ({"search": "best"}, "search is one of"),
        ({"search": "tpe", "space": SPACE, "trials": True}, "trials is a whole number"),
        ({"search": "tpe", "grid": {"agent.n_step": [1]}}, "grid does not go with search"),
        ({"space": SPACE}, "space, trials, pruner and objective are for searches"),
        ({"pruner": "median"}, "space, trials, pruner and objective are for searches"),
        ({"search": "tpe", "trials": 3}, "space is missing"),
        (
            {"search": "tpe", "space": {"agent.n_step": {"low": 3, "high": 1}}, "trials": 3},
            "agent.n_step: low=3 has to be",
        ),
        ({"search": "tpe", "space": SPACE, "trials": 3, "objective": "first"}, "objective is one of"),
    ],
)
def test_mistakes_are_said_in_the_words_of_python(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(pipeline.UsageError) as caught:
        pipeline.sweep(**{"config": "cartpole", "out": tmp_path / "out", **arguments})
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.Plan  # a part of the package has been imported: it is a module, and is called all the same
    arguments: dict[str, Any] = {"grid": {"agent.n_step": [1, 3]}, "seeds": range(1), "parallel": 2}
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        found = pipeline.sweep("cartpole", "out", overrides=SHRUNK, **arguments)
        assert found.folder == tmp_path / "out"
        assert {outcome.name for outcome in found.outcomes} == {"agent.n_step=1", "agent.n_step=3"}
        assert all(outcome.finished == 1 for outcome in found.outcomes)
        assert (found.failed, found.trials, found.best_config, found.is_interrupted) == ({}, (), None, False)
        assert [run.config["agent"]["n_step"] for run in found.runs] == [1, 3]
