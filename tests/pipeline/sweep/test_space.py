"""Spaces of searches: what they are read from, their grids, and what is refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.experiment.config import UsageError
from pipeline.sweep import space as spaces
from pipeline.sweep.space import Choices, Range


@pytest.mark.parametrize(
    ("line", "field", "entry"),
    [
        ("agent.n_step={low=1, high=5}", "agent.n_step", Range(1, 5, is_integer=True)),
        ("agent.discount={low=0.9, high=1}", "agent.discount", Range(0.9, 1.0)),
        ("agent.learning_rate={low=1e-4, high=1e-2, log=true}", "agent.learning_rate", Range(1e-4, 1e-2, log=True)),
        ("replay.min_size={low=32, high=96, step=32}", "replay.min_size", Range(32, 96, step=32, is_integer=True)),
        ("agent.kind=['dqn', 'c51']", "agent.kind", Choices(["dqn", "c51"])),
        ("agent.hidden_units=[[64], [64, 64]]", "agent.hidden_units", Choices([[64], [64, 64]])),
        ("agent=[{kind='dqn'}, {n_step=9}]", "agent", Choices([{"kind": "dqn"}, {"n_step": 9}])),
        ("environment.kwargs.low=[1, 2]", "environment.kwargs.low", Choices([1, 2])),
    ],
)  # fmt: skip
def test_a_line_of_toml_is_a_space(line: str, field: str, entry: Range | Choices) -> None:
    assert spaces.space([line]) == {field: entry}


def test_a_file_says_the_same_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "a space.toml"
    file.write_text("[agent]\nn_step = {low = 1, high = 5}\nkind = ['dqn', 'c51']\n")
    lines = ["agent.n_step={low=1, high=5}", "agent.kind=['dqn', 'c51']"]
    assert spaces.space([str(file)]) == spaces.space(lines)
    with pytest.raises(UsageError, match="cannot be read"):
        spaces.space([str(tmp_path / "none.toml")])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "--space is missing"),
        (["agent.n_step=[1"], "not TOML"),
        (["agent.n_step=3"], "leaves nothing to search"),
        (["agent.n_step=[3]"], "two or more"),
        (["agent.n_step=[3, 3]"], "has 3 twice"),
        (["agent.n_step={low=5, high=1}"], "low=5 has to be below high=1"),
        (["agent.n_step={low=1}"], "needs high as a number"),
        (["agent.n_step={low=1, high=true}"], "needs high as a number"),
        (["agent.n_step={low=1, high=inf}"], "needs high as a number"),
        (["agent.n_step={low=1, high=5, lgo=true}"], "has no 'lgo'"),
        (["agent.learning_rate={low=0, high=1, log=true}"], "above 0"),
        (["agent.learning_rate={low=0.1, high=1, log=3}"], "true or false"),
        (["agent.n_step={low=1, high=6, step=2}"], "do not lead from 1 to 6"),
        (["agent.n_step={low=1, high=6, step=0}"], "do not lead"),
        (["agent.n_step={low=1, high=6, step=1, log=true}"], "leave one out"),
        (["agent.n_step={low=1, high=6, points=1}"], "2 or more"),
        (["agent.n_step={low=1, high=6}", "agent.n_step=[1, 2]"], "there twice"),
        (["agent.n_step={low=1, high=6}", "agent=[{n_step=1}, {n_step=2}]"], "agent.n_step is there twice"),
        (["seed={low=1, high=6}"], "compared by"),
        (["stop.environment_steps=[1, 2]"], "compared by"),
        (["environment.id=['CartPole-v1', 'Acrobot-v1']"], "compared by"),
    ],
)
def test_what_is_no_space_is_said_in_one_line(lines: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        spaces.space(lines)
    assert "\n" not in str(raised.value)


def test_grids_of_ranges() -> None:
    assert Range(1, 5, is_integer=True).grid == [1, 2, 3, 4, 5]
    assert Range(0.1, 0.3, step=0.1).grid == pytest.approx([0.1, 0.2, 0.3])
    assert Range(1e-4, 1e-2, log=True, points=3).grid == pytest.approx([1e-4, 1e-3, 1e-2])
    assert Range(1, 4, points=2, is_integer=True).grid == [1, 4]
    assert Range(1, 3, points=9, is_integer=True).grid == [1, 2, 3], "no value twice"
    assert Range(0.0, 1.0).grid is None
    with pytest.raises(UsageError, match="points=5"):
        spaces.grid({"agent.discount": Range(0.0, 1.0)})
    found = spaces.grid({"a": Choices(["x", "y"]), "b": Range(1, 3, is_integer=True)})
    assert [tuple(point.values()) for point in found] == [(a, b) for a in "xy" for b in (1, 2, 3)]


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.booleans(), st.integers(2, 20))
def test_a_grid_goes_from_end_to_end(low: float, high: float, log: bool, points: int) -> None:
    assume(high > low * 1.01)
    found: Any = Range(low, high, log=log, points=points).grid
    assert (found[0], found[-1]) == (low, high)
    assert found == sorted(set(found))
    ratios = [math.log(b / a) if log else b - a for a, b in itertools.pairwise(found)]
    assert len(found) <= points
    if len(found) == points and high > 2 * low:
        assert max(ratios) == pytest.approx(min(ratios), rel=0.05, abs=1e-4)


def test_every_end_and_choice_is_probed_once() -> None:
    found = spaces.probes({"a": Choices([1, 2, 3]), "b": Range(4.0, 5.0)})
    assert [tuple(point.values()) for point in found] == [(1, 4.0), (2, 4.0), (3, 4.0), (1, 5.0)]


def test_a_range_between_integers_is_of_the_kind_of_its_field() -> None:
    read = spaces.space(["agent.n_step={low=1, high=5}", "agent.gradient_clip={low=1, high=10}"])
    kinds = spaces.with_kind_of(read, {"agent.n_step": 1, "agent.gradient_clip": 1.0})
    assert [entry.is_integer for entry in kinds.values() if isinstance(entry, Range)] == [True, False]
