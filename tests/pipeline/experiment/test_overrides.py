"""Overrides as shells and habits leave them: understood where there is one reading, else a line that can be copied."""

import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import UsageError
from pipeline.experiment.config import load, parse
from pipeline.experiment.sections import Experiment


def value_of(experiment: Experiment, name: str) -> Any:
    found: Any = experiment
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def refusal(*lines: str, config: str = "") -> str:
    with pytest.raises(UsageError) as caught:
        load(config, lines) if config else parse("", lines)
    assert "\n" not in str(caught.value)
    return str(caught.value)


READINGS = [
    ("agent.kind=c51", "c51"),
    ("agent.kind='c51'", "c51"),
    ("environment.id=Acrobat-v1", "Acrobat-v1"),
    ("offline.dataset=", ""),
    ("agent.loss=MSE", "mse"),
    ("agent.double=True", True),
    ("agent.double=FALSE", False),
    ("agent.double=yes", True),
    ("agent.double=off", False),
    ("agent.double=0", False),
    ("agent.double='true'", True),
    ("agent.hidden_units=64,64", (64, 64)),
    ("agent.hidden_units=64, 128", (64, 128)),
    ("agent.hidden_units=(64, 128)", (64, 128)),
    ("agent.hidden_units=[64 128]", (64, 128)),
    ("agent.hidden_units=64", (64,)),
    ("agent.hidden_units=[64.0]", (64,)),
    ("replay.capacity=20,000", 20_000),
    ("replay.capacity=1,000,000", 1_000_000),
    ("replay.capacity=2e4", 20_000),
    ("replay.capacity=2E4", 20_000),
    ("replay.capacity='20000'", 20_000),
    ("replay.capacity=20000.0", 20_000),
    ("agent.n_step=+3", 3),
    ("agent.learning_rate=.5", 0.5),
    ("agent.learning_rate=5.", 5.0),
    ("agent.learning_rate=1", 1.0),
    ("agent.learning_rate=0,001", 0.001),
    ("stop.target_return=1,000,000", 1e6),
    ("stop.target_return=475", 475.0),
    ("environment.kwargs.mode=fast", "fast"),
    ("environment.kwargs.wide=True", True),
    ("environment.kwargs.few=2.0", 2.0),
    ("seed=1e3", 1_000),
    ('environment.kwargs={"a": 1, "b": [1, 2], "c": {"d": true}}', {"a": 1, "b": [1, 2], "c": {"d": True}}),
    ("environment.kwargs={'a': True, 'b': (1, 2)}", {"a": True, "b": [1, 2]}),
    ("environment.kwargs.config={'observation': {'type': 'Kinematics'}}", {"observation": {"type": "Kinematics"}}),
    ("evaluation.kwargs.sizes=[1, True]", [1, True]),
]


@pytest.mark.parametrize(("line", "value"), READINGS)
def test_one_reading_is_understood(line: str, value: Any) -> None:
    found = value_of(parse("", (line,)), line.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


LISTS = [
    ("agent.hidden_units=[64, 128]", (64, 128)),
    ("agent.hidden_units=[]", ()),
    ("collect.info_keys=['a', 'b']", ("a", "b")),
    ("agent.n_step_schedule.points=[[500, 10], [1000, 3]]", ((500, 10), (1000, 3))),
]


@pytest.mark.parametrize(("line", "value"), [*READINGS, *LISTS])
@pytest.mark.parametrize("other", ["replay.initial_priority=LARGEST", "learner.batch_size='64'"])
def test_what_an_override_says_does_not_depend_on_how_another_one_is_written(line: str, value: Any, other: str) -> None:
    for lines in ((line, other), (other, line)):
        assert value_of(parse("", lines), line.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("agent.double=maybe", "agent.double takes true or false: such as --set=agent.double=true"),
        ("agent.double=2", "agent.double: Expected `bool`, got `int` (such as --set=agent.double=true)"),
        ("agent.n_step=1k", "agent.n_step takes integer >= 1, <= 100: such as --set=agent.n_step=1"),
        ("agent.n_step=", "has no value: such as --set=agent.n_step=1"),
        ("collect.info_keys=", "has no value: such as --set='collect.info_keys=[]'"),
        ("agent.n_step", "has no value: such as --set=agent.n_step=1"),
        ("agent", "has no value: write section.field=value"),
        ("agent.n_step=2.5", "Expected `int`, got `float` (such as --set=agent.n_step=1)"),
        ("agent.n_step=0", "agent.n_step: Expected `int` >= 1 (such as --set=agent.n_step=1)"),
        ("agent.n_step=True", "agent.n_step takes integer"),
        ("agent.learning_rate=1,000", "--set=agent.learning_rate=1000.0 or --set=agent.learning_rate=1.0"),
        ("agent.learning_rate=nan", "agent.learning_rate is nan"),
        ("agent.hidden_units=20,000", "such as --set='agent.hidden_units=[128, 64]'"),
        ("agent.hidden_units=64x64", "such as --set='agent.hidden_units=[128, 64]'"),
        ("agent.loss=mae", 'agent.loss takes "huber" | "mse": such as --set=\'agent.loss="huber"\''),
        ("exploration.epsilon_final=5%", "such as --set=exploration.epsilon_final=0.05"),
        ("environment.kwargs.x=1,5", "text is written --set='environment.kwargs.x=\"1,5\"'"),
        ("environment.kwargs.x=None", "what it means is not clear"),
        ("environment.kwargs.x=", "text is written --set='environment.kwargs.x=\"\"'"),
        ("environment.kwargs.x={a: 1}", "text is written --set='environment.kwargs.x=\"{a: 1}\"'"),
        ("environment.kwargs=None", "it takes a table, such as --set='environment.kwargs={size = 4}'"),
        ('environment.kwargs={"a": null}', "environment.kwargs.a is None, for which TOML has no word"),
        ("agent.kind=dnq", "agent.kind: Invalid value 'dnq' (did you mean 'dqn'?"),
        ("base=cartpole", "a base is named in a config's file"),
        ("n_step=3", "the nearest is 'agent.n_step'"),
        ("capacity=3", "the nearest is 'replay.capacity'"),
        ("replay.lanes=3", "the nearest is 'collect.lanes'"),
        ("agent.num_atoms=3", "unknown field 'agent.num_atoms': it is one of c51 and rainbow"),
        ("agent.clip_ratio=3", "it is one of ppo"),
    ],
)
def test_what_has_no_or_several_readings_is_refused_by_the_override(line: str, words: str) -> None:
    message = refusal(line)
    assert message.startswith(f"--set={line}")
    assert words in message


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_override_is_refused(empty: str) -> None:
    assert "an override (--set) is empty" in refusal("agent.n_step=3", empty)


def test_a_line_that_a_refusal_gives_can_be_copied() -> None:
    for line in (
        "agent.loss=mae",
        "agent.hidden_units=20,000",
        "agent.n_step=1k",
        "agent.learning_rate=1,000",
    ):
        for copied in re.findall(r"--set=\S+\[.*\]'|--set=\S+", refusal(line).partition(": ")[2]):
            (word,) = shlex.split(copied)
            parse("", (word.removeprefix("--set="),))


def test_text_with_quotes_can_be_copied() -> None:
    for line, kwargs in (
        ("environment.kwargs.x={'a\": 1}", {"x": "{'a\": 1}"}),
        ("environment.kwargs=fast", {"size": 4}),
    ):
        (word,) = shlex.split(f"--set={refusal(line).rpartition('--set=')[2]}")
        assert parse("", (word.removeprefix("--set="),)).environment.kwargs == kwargs


def test_the_override_that_is_wrong_is_blamed_and_the_file_where_that_is() -> None:
    assert refusal("agent.n_step=3", "agent.dueling=perhaps", "seed=2").startswith("--set=agent.dueling=perhaps: ")
    assert refusal("agent.n_step=0", "agent.n_step=2.5").startswith("--set=agent.n_step=2.5: ")
    with pytest.raises(UsageError, match=r"^mine\.toml: agent\.n_step: Expected"):
        parse("agent.n_step = 0", ("seed=2",), source="mine.toml")


def test_the_kind_that_another_override_chooses_decides_types() -> None:
    assert parse("", ("agent.num_atoms=21", "agent.kind=c51")).agent.num_atoms == 21  # type: ignore[attr-defined]
    assert parse("", ("agent.num_atoms=2e1", "agent.kind=c51")).agent.num_atoms == 20  # type: ignore[attr-defined]


def test_a_config_of_another_kind_names_one_that_fits() -> None:
    message = refusal("agent.kind=ppo", config="cartpole")
    assert (
        "configs/cartpole.toml sets agent.n_step, which agent.kind='ppo' has not: try --config=cartpole_ppo" in message
    )


def test_values_from_python_are_of_the_type_that_they_have() -> None:
    for fields in ({"agent.n_step": "3"}, {"agent.double": "yes"}, {"agent": {"hidden_units": 64}}):
        with pytest.raises(UsageError, match="Expected"):
            parse("", fields)


@settings(max_examples=10)
@given(st.integers(1, 10**9))
def test_a_whole_number_is_the_same_however_it_is_written(number: int) -> None:
    forms = (f"{number:_}", f"{number:,}", f"{number}.0", f"'{number}'", f"{number:.12e}", f"+{number}")
    assert {parse("", (f"seed={form}",)).seed for form in forms} == {number}


@settings(max_examples=10)
@given(st.lists(st.integers(1, 4_096), min_size=1, max_size=4))
def test_a_list_is_the_same_however_it_is_written(units: list[int]) -> None:
    plain = ", ".join(map(str, units))
    for form in (plain, f"[{plain}]", f"({plain})", plain.replace(" ", ""), plain.replace(",", ""), f"'{plain}'"):
        assert parse("", (f"agent.hidden_units={form}",)).agent.hidden_units == tuple(units)  # type: ignore[attr-defined]
