"""Experiments that are built in Python: what they are given is kept as it is, or refused in one line."""

import datetime
import enum
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import gymnasium
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from agents import AgentConfig, C51Config, DqnConfig, ExplorationConfig, R2d2Config
from pipeline.experiment.config import Overrides, UsageError, dump, parse, validate
from pipeline.experiment.sections import EnvironmentConfig, Experiment

replace = msgspec.structs.replace
BASE = parse("environment.id = ''\nenvironment.import_path = 'module:Class'\nstop.seconds = 1.0\n")


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    LARGE = 3


class Mine(gymnasium.Env[Any, Any]):
    """An environment that is given where its name belongs."""


def loop() -> dict[str, Any]:
    table: dict[str, Any] = {}
    table["itself"] = [table]
    return table


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(alphabet=st.characters(), max_size=4),  # halves of characters, too
    st.binary(max_size=2),
    st.datetimes(timezones=st.none() | st.sampled_from([datetime.UTC, ZoneInfo("Europe/Berlin")])),
    st.dates(),
    st.times(timezones=st.none() | st.just(datetime.UTC)),
    st.sampled_from([Colour.RED, Size.LARGE, object, len, 1j, {1}, frozenset("a"), np.zeros(2), OrderedDict(a=1)]),
    st.sampled_from([np.int8(3), np.uint64(2**63), np.float32(0.1), np.float64(1e300), np.bool_(True), np.str_("a")]),
    st.sampled_from([np.float16(np.nan), np.datetime64("2020-01-01"), np.timedelta64(3, "s"), np.longdouble(1) / 3]),
    st.builds(loop),
)
KEYS = st.text(max_size=3) | st.sampled_from(["a.b", "", "\ud800"]) | st.integers(0, 1)
VALUES = st.recursive(
    LEAVES,
    lambda values: (
        st.lists(values, max_size=3)
        | st.lists(values, max_size=2).map(tuple)
        | st.dictionaries(KEYS, values, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = [
    (section.name, name)
    for section in msgspec.structs.fields(Experiment)
    if section.name not in ("seed", "agent")
    for name in section.default.__struct_fields__
]


def kept_or_refused(experiment: Any) -> str:
    """The sentence that refuses an experiment, or an empty one of an experiment that TOML keeps as it is."""
    refused = ""
    try:
        validate(experiment)
    except UsageError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        with pytest.raises(UsageError):
            parse(dump(experiment))
        return refused
    again = parse(dump(experiment))
    assert again == experiment
    assert_same(again.environment.kwargs, experiment.environment.kwargs)
    return ""


def assert_same(one: Any, other: Any) -> None:
    """Equal, and of the same types all the way down."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        for key in one:
            assert_same(one[key], other[key])
    if isinstance(one, list):
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)


@settings(max_examples=35)
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_arguments_of_an_environment(kwargs: dict[str, Any]) -> None:
    kept_or_refused(replace(BASE, environment=replace(BASE.environment, kwargs=kwargs)))


@settings(max_examples=25)
@given(st.sampled_from(FIELDS), VALUES)
def test_any_value_in_any_field(where: tuple[str, str], value: Any) -> None:
    section, field = where
    kept_or_refused(replace(BASE, **{section: replace(getattr(BASE, section), **{field: value})}))


@settings(max_examples=15)
@given(st.sampled_from(DqnConfig.__struct_fields__), VALUES)
def test_any_value_in_any_field_of_an_agent(field: str, value: Any) -> None:
    if field != "munchausen" and not field.startswith(("rmsprop_", "weight_decay", "torso_cells")):  # these need others
        kept_or_refused(replace(BASE, agent=DqnConfig(**{field: value})))


@settings(max_examples=15)
@given(st.sampled_from(Experiment.__struct_fields__), VALUES)
def test_any_value_in_the_place_of_a_section(name: str, value: Any) -> None:
    kept_or_refused(replace(BASE, **{name: value}))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"start": None}, "environment.kwargs.start is None"),
        ({"a": {"b": [None]}}, "environment.kwargs.a.b[0] is None"),
        ({"size": (84, 84)}, "give a list"),
        ({"x": math.nan}, "environment.kwargs.x is nan"),
        ({"c": Size.LARGE}, "give its value, 3"),
        ({3: 4}, "key that is no text"),
        (loop(), "holds itself"),
        ({"x": Mine}, "environment.kwargs.x="),
    ],
)
def test_what_toml_cannot_hold_is_refused_by_name(kwargs: Any, words: str) -> None:
    assert words in kept_or_refused(replace(BASE, environment=replace(BASE.environment, kwargs=kwargs)))


@pytest.mark.parametrize(
    "kwargs", [{"n": np.int64(3)}, {"x": math.inf}, {"a": {"b": [{}, 2**80]}}, {"": {"a.b": "\0"}}]
)
def test_what_toml_can_hold_is_kept(kwargs: Any) -> None:
    experiment = replace(BASE, environment=replace(BASE.environment, kwargs=kwargs))
    assert kept_or_refused(experiment) == ""
    assert experiment.environment.kwargs == kwargs


def test_arguments_are_those_of_the_time_when_they_were_given() -> None:
    kwargs: dict[str, Any] = {"sizes": [1, 2]}
    environment = EnvironmentConfig(kwargs=kwargs)
    kwargs["sizes"].append(3)
    assert environment.kwargs == {"sizes": [1, 2]}


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (lambda: DqnConfig(n_step="3"), "agent.n_step: Expected `int`, got `str`"),
        (lambda: DqnConfig(n_step=0), "agent.n_step: Expected `int` >= 1"),
        (lambda: DqnConfig(hidden_units=[64, "x"]), "agent.hidden_units[1]"),
        (lambda: C51Config(v_min="-10"), "agent.v_min"),
        (lambda: R2d2Config(noisy="no"), "agent.noisy"),
        (lambda: ExplorationConfig(), "agent.strategy"),
        (lambda: {"kind": "dqn"}, "agent must be of type DqnConfig, not dict"),
    ],
)
def test_an_agent_of_wrong_types_is_refused_before_anything_is_written(
    agent: Callable[[], AgentConfig], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.train(replace(BASE, agent=agent()), tmp_path / "run")
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("units", [[64, 32], (np.int64(64), 32)])
def test_a_list_or_numbers_of_numpy_do_for_fields_of_several_numbers(units: Any) -> None:
    assert kept_or_refused(replace(BASE, agent=DqnConfig(hidden_units=units))) == ""
    assert DqnConfig(hidden_units=units) == DqnConfig(hidden_units=(64, 32))


@pytest.mark.parametrize(
    "overrides",
    [
        {"agent.n_step": 3, "seed": np.int64(7)},
        {"agent": {"n_step": 3}, "seed": 7},
        ["agent.n_step=3", {"seed": 7}],
        ("seed=6", {"agent.n_step": 2}, "agent.n_step=3\nseed=7"),
    ],
)
def test_overrides_may_be_lines_and_tables(overrides: Overrides) -> None:
    assert pipeline.load("cartpole", overrides) == pipeline.load("cartpole", ("agent.n_step=3", "seed=7"))


@pytest.mark.parametrize(
    "fields",
    [
        {"agent": {"n_step": 3}, "stop": {"seconds": 5.0}},
        {"agent__n_step": 3, "stop__seconds": 5.0},
        {"overrides": ["agent.n_step=7", "stop.seconds=5.0"], "agent": {"n_step": 3}},
        {"agent": {"n_step": np.int64(3)}, "stop": {"seconds": np.float32(5.0)}},
    ],
)
def test_fields_may_be_keywords_over_the_overrides(fields: dict[str, Any]) -> None:
    expected = pipeline.load("cartpole", ("agent.n_step=3", "stop.seconds=5.0"), seed=7)
    assert pipeline.load("cartpole", seed=7, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"agnt": {"n_step": 3}}, "unknown field 'agnt'; the nearest is 'agent'"),
        ({"agent__n_stp": 3}, "unknown field 'agent.n_stp'; the nearest is 'agent.n_step'"),
        ({"agent": {"n_step": "x"}}, "agent.n_step: Expected `int`"),
        ({"agent": 3}, "agent: Expected"),
        ({"agent__": 3}, "'agent.' is no name of a field"),
        ({"environment": None}, "environment is None"),
        ({"stop": {"seconds": -1}}, "stop.seconds: Expected"),
        ({"base": "acrobot"}, "a base is named in a config's file"),
    ],
)
def test_keywords_that_are_wrong_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.load("cartpole", **fields)
    assert words in str(caught.value)
    assert "cartpole.toml" not in str(caught.value), "its file is not to blame"


def test_overrides_as_tables_hold_what_python_says() -> None:
    experiment = pipeline.load("cartpole", {"stop.target_return": None, "agent.hidden_units": (3, 4)})
    assert experiment.stop.target_return is None
    assert experiment.agent == replace(experiment.agent, hidden_units=(3, 4))
    assert pipeline.load("cartpole", {"agent": C51Config()}).agent == C51Config()
    kwargs = pipeline.load(
        "cartpole", {"environment.kwargs": {"a.b": 1}, "environment.kwargs.c.d": 2}
    ).environment.kwargs
    assert kwargs == {"a.b": 1, "c": {"d": 2}}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("agent.n_step=3", "overrides are a list of lines"),
        (b"seed=3", "overrides are a list of lines"),
        (None, "overrides are a list of lines"),
        (7, "overrides are a list of lines"),
        ([7], "an override is a line of TOML or a table"),
        ({"": 1}, "is no name of a field"),
        ({3: 1}, "is no name of a field"),
        ({"agent": {"n_stp": 1}}, "the nearest is 'agent.n_step'"),
        ({"agent.n_step": "3"}, "agent.n_step: Expected `int`"),
        ({"stop.seconds": None}, "stop.seconds is None"),
        ({"base": "acrobot"}, "a base is named in a config's file"),
        ({"environment.id": gymnasium.spec("CartPole-v1")}, "set environment.id='CartPole-v1'"),
        ({"environment.id": Mine}, f"set environment.import_path='{Mine.__module__}:Mine'"),
        ({"environment.id": Mine()}, f"set environment.import_path='{Mine.__module__}:Mine'"),
        ({"environment.import_path": lambda: Mine()}, "set environment.import_path='module:name'"),
        ({"environment.shield": kept_or_refused}, f"set environment.shield='{__name__}:kept_or_refused'"),
    ],
)
def test_other_overrides_are_refused(overrides: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.load("cartpole", overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [None, {"seed": 1}, b"cartpole", BASE, "x" * 5_000, "\0"])
def test_what_is_no_name_of_a_config_is_refused(name: Any) -> None:
    with pytest.raises(UsageError):
        pipeline.load(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"experiment": "cartpole"}, "pipeline.load('cartpole')"),
        ({"experiment": {"seed": 1}}, "pipeline.load("),
        ({"experiment": EnvironmentConfig()}, "pipeline.load("),
        ({"run_dir": None}, "run_dir"),
        ({"run_dir": ""}, "run_dir"),
        ({"run_dir": 3}, "run_dir"),
        ({"launcher": "locl"}, "inline"),
        ({"launcher": ["local"]}, "inline"),
        ({"resume": "no"}, "resume"),
        ({"require_private": 1}, "require_private"),
        ({"cluster": "auto"}, "cluster"),
    ],
)
def test_arguments_of_train_are_checked(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pipeline.train(**{"experiment": BASE, "run_dir": tmp_path / "run", **arguments})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
