"""What the screen says of a run, and which role it names as the one that the others wait for."""

import io
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as Terminal

from agents import PpoConfig
from pipeline.experiment.sections import Experiment, StopConfig
from pipeline.messages.contents import CollectorReport
from pipeline.monitoring import status_table
from pipeline.monitoring.pace import Waits, bottleneck
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.results import Status


def status(**fields: Any) -> Status:
    empty = Ledger(Experiment(), Counters()).status("learning", 0, None, {})
    return msgspec.structs.replace(empty, **fields)


def stopping(**fields: Any) -> Experiment:
    return Experiment(stop=StopConfig(**fields))


def test_a_budget_is_reached_at_the_present_speed() -> None:
    now = status(environment_steps=25_000, environment_steps_per_second=5_000.0, train_seconds=6.0)
    found = status_table.goals(stopping(environment_steps=100_000, seconds=10.0), now)
    assert [(goal.name, goal.words, goal.reached, goal.seconds) for goal in found] == [
        ("environment steps", "25,000 of 100,000", 0.25, 15.0),
        ("seconds", "6 of 10", 0.6, 4.0),
    ]


def test_a_budget_says_no_time_while_nothing_moves() -> None:
    assert status_table.goals(stopping(gradient_steps=10), status())[0].seconds is None


def test_a_target_is_reached_by_the_trend_of_evaluations() -> None:
    rising = [(float(second), -200.0 + 10.0 * second) for second in range(6)]
    now = status(evaluation_return=-150.0, recent_evaluations=rising, train_seconds=5.0)
    goal = status_table.goals(stopping(target_return=-100.0), now)[0]
    assert goal.reached == pytest.approx(0.5)
    assert goal.seconds == pytest.approx(5.0)  # it is at -150 after 5 s, and gains 10 a second
    falling = [(second, -value) for second, value in rising]
    assert status_table.goals(stopping(target_return=500.0), msgspec.structs.replace(now, recent_evaluations=falling))[
        0
    ].seconds is None  # fmt: skip


def test_a_target_that_is_reached_is_done() -> None:
    goal = status_table.goals(stopping(target_return=-100.0), status(evaluation_return=-99.0))[0]
    assert (goal.reached, goal.seconds) == (1.0, 0.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=80))
def test_a_sparkline_keeps_the_order_of_its_values(values: list[float]) -> None:
    newest, bars = values[-30:], status_table.sparkline(values)
    assert len(bars) == len(newest)
    for first, before in zip(newest, bars, strict=True):
        for second, after in zip(newest, bars, strict=True):
            assert before <= after or first >= second


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.54, "8.5 s"), (59.99, "60.0 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert status_table.duration(seconds) == words


def test_the_screen_has_everything(tmp_path: Path) -> None:
    now = status(
        evaluation_return=120.0, recent_evaluations=[(1.0, 20.0), (2.0, 120.0)], bottleneck="learner: it [works]",
        warnings=["one [is] wrong"], environment_steps=1_234,
    )  # fmt: skip
    terminal = Terminal(file=io.StringIO(), width=100)
    terminal.print(status_table.table(stopping(target_return=475.0), tmp_path, now))
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    for words in ("▁█", "learner: it [works]", "one [is] wrong", "1,234", "120.0 of 475", "22%"):
        assert words in shown


def report(blocked: float, process: str = "a", last: bool = False) -> CollectorReport:
    return CollectorReport(
        index=0, process=process, returns=(), lengths=(),
        epsilon=0.0, weights_age=0, weights_seconds=0.0, blocked_seconds=blocked, resident_bytes=0, last=last,
    )  # fmt: skip


def test_the_shares_are_of_the_last_seconds() -> None:
    waits = Waits()
    assert waits.learner(now=0.0) is None
    for second in range(1, 21):
        waits.add_learner(1.0 if second <= 10 else 0.25)  # it waited all the time, and then a quarter of it
        share = waits.learner(now=float(second))
    assert share == pytest.approx(0.25)
    for second in range(10):
        waits.add_report(report(0.5 * second), now=float(second))
        waits.add_report(report(0.0, "b"), now=float(second))
    assert waits.collectors() == pytest.approx(0.25)
    waits.add_report(report(5.0, last=True), now=11.0)
    assert waits.collectors() == pytest.approx(0.0)


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.floats(0.0, 1.0)), min_size=1, max_size=40))
def test_shares_are_shares(steps: list[tuple[float, float]]) -> None:
    waits, now, blocked = Waits(), 0.0, 0.0
    for passed, share in steps:
        now, blocked = now + passed, blocked + share * passed
        waits.add_learner(share * passed)
        waits.add_report(report(blocked), now=now)
        found = [value for value in (waits.learner(now=now), waits.collectors()) if value is not None]
        assert all(0.0 <= value <= 1.0 and math.isfinite(value) for value in found)


@pytest.mark.parametrize(
    ("learner", "collectors", "role"),
    [(0.0, 0.6, "learner"), (0.7, 0.1, "collectors"), (0.05, 0.1, "none"), (0.5, 0.4, "replay"), (None, 0.3, "")],
)
def test_the_role_that_the_others_wait_for_is_named(learner: float | None, collectors: float, role: str) -> None:
    assert bottleneck(Experiment(), learner, collectors).partition(":")[0] == role


def test_on_policy_they_take_turns() -> None:
    on_policy = Experiment(agent=PpoConfig())
    roles = [bottleneck(on_policy, share, 1.0 - share).partition(":")[0] for share in np.array([0.2, 0.8])]
    assert roles == ["learner", "collectors"]
