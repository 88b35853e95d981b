"""Grids of sweeps: what they are read from, their products and names."""

import itertools
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.experiment.config import UsageError
from pipeline.sweep import combinations
from pipeline.sweep.combinations import Axis, Combination

SCALARS = st.integers(-99, 99) | st.booleans() | st.floats(-1e9, 1e9) | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS, max_size=3)


@given(st.dictionaries(st.sampled_from(["a", "b.c", "b.d", "b.e.f"]), st.lists(VALUES, min_size=1, max_size=3)))
def test_a_product_has_every_combination_once_or_refuses(grid: dict[str, list[Any]]) -> None:
    axes = [Axis(field, values) for field, values in grid.items()]
    expected = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    names = [Combination(values).name for values in expected]
    if len(set(names)) < len(names) or max(map(len, names)) > 200:
        with pytest.raises(UsageError, match=r"twice|too long"):
            combinations.product(axes)
        return
    found = combinations.product(axes)
    assert [combination.values for combination in found] == expected
    assert len({combination.name for combination in found}) == len(found)
    for combination in found:
        assert not set("/\0 \n*?") & set(combination.name)
        tree = tomllib.loads(combination.line)
        for field, value in combination.values.items():
            node: Any = tree
            for name in field.split("."):
                node = node[name]
            assert node == value


@pytest.mark.parametrize(
    ("line", "field", "values", "name"),
    [
        ("agent.learning_rate=[1e-4, 3e-4]", "agent.learning_rate", [1e-4, 3e-4], "agent.learning_rate=0.0001"),
        ("agent.kind=['c51', 'dqn']", "agent.kind", ["c51", "dqn"], "agent.kind=c51"),
        ("agent.double=[true, false]", "agent.double", [True, False], "agent.double=true"),
        ("agent.hidden_units=[[64, 64], [256]]", "agent.hidden_units", [[64, 64], [256]], "agent.hidden_units=[64+64]"),
        ("environment.id=['ALE/Pong-v5']", "environment.id", ["ALE/Pong-v5"], "environment.id=ALE%2FPong-v5"),
        ("agent.n_step=1,3", "agent.n_step", [1, 3], "agent.n_step=1"),
        ("agent.hidden_units=[64, 64], [256]", "agent.hidden_units", [[64, 64], [256]], "agent.hidden_units=[64+64]"),
        ("agent.kind=[c51, dqn]", "agent.kind", ["c51", "dqn"], "agent.kind=c51"),
        ("environment.id=ALE/Pong-v5,m:Id", "environment.id", ["ALE/Pong-v5", "m:Id"], "environment.id=ALE%2FPong-v5"),
        ("agent.double=true,false", "agent.double", [True, False], "agent.double=true"),
        ("agent=[{kind='c51', v_max=9}]", "agent", [{"kind": "c51", "v_max": 9}], "agent=kind=c51+v_max=9"),
    ],
)
def test_a_line_of_toml_is_an_axis(line: str, field: str, values: list[Any], name: str) -> None:
    axis = combinations.axis(line)
    assert axis == Axis(field, values)
    assert combinations.product([axis])[0].name == name


def test_tables_name_the_fields_in_them() -> None:
    axis = combinations.axis("agent=[{kind='c51', v_max=9}, {kind='dqn'}]")
    assert axis.fields == ["agent.kind", "agent.v_max"]
    assert combinations.product([axis])[1].line == '[agent]\nkind = "dqn"\n'


def test_without_a_grid_there_is_one_combination() -> None:
    (only,) = combinations.product([])
    assert (only.name, only.line, only.values) == ("all", "", {})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["agent.n_step=[1"], "not TOML"),
        (["agent.kind=[d qn]"], "quotes"),
        (["agent.n_step=20,000"], "not TOML"),
        (["=1,2"], "not TOML"),
        (["agent.n_step="], "as a list"),
        (["agent.n_step=3"], "as a list"),
        (["agent.n_step=[]"], "as a list"),
        (["agent.n_step=[1]\nagent.double=[true]"], "name one field"),
        (["[agent]"], "name one field"),
        (["seed=[1, 2]"], "--seeds"),
        (["agent.n_step=[1, 1]"], "n_step=1 is there twice"),
        (["agent.n_step=[1]", "agent.n_step=[3]"], "one list"),
        ([f"environment.id=['{'x' * 300}']"], "too long"),
    ],
)
def test_what_is_no_grid_is_said_in_one_line(lines: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        combinations.product([combinations.axis(line) for line in lines])
    assert "\n" not in str(raised.value)


def test_seeds_are_a_span() -> None:
    assert list(combinations.seeds("2:5")) == [2, 3, 4]
    for wrong in ("3", "5:2", "2:2", "a:b", "-1:3", ":", ""):
        with pytest.raises(UsageError, match="0:5"):
            combinations.seeds(wrong)
