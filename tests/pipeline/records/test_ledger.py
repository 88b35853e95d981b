"""The run's book: exact counts whatever order reports come in, and when to stop."""

import itertools
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport, Counts, Evaluation
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.results import EXIT_CODES, Status, Summary


def report(process: str = "p", index: int = 0, count: int = 0, unconfirmed: int = 0, **fields: Any) -> CollectorReport:
    """A report of a process that has taken `count` environment steps."""
    defaults: dict[str, Any] = {
        "index": index,
        "process": process,
        "environment_steps": count,
        "windows": 2 * count,
        "begun": 2 * count + unconfirmed,
        "episodes": 3 * count,
        "returns": (),
        "lengths": (),
        "epsilon": 0.5,
        "weights_age": 0,
        "weights_seconds": 0.0,
        "blocked_seconds": 0.0,
        "resident_bytes": 100,
    }
    return CollectorReport(**{**defaults, **fields})


_versions = itertools.count(1)


def evaluation(mean_return: float, **fields: Any) -> Evaluation:
    """One of weights that no other is of."""
    values: dict[str, Any] = dict.fromkeys(Evaluation.__struct_fields__, 1)
    values["gradient_steps"] = next(_versions)
    values["is_whole"], values["info"] = True, {}
    return Evaluation(**{**values, "mean_return": mean_return, "std_return": 2.5, "is_best": True, **fields})


def ledger(*overrides: str, counters: Counters | None = None) -> Ledger:
    return Ledger(parse("", overrides), counters or Counters())


def counts(book: Ledger) -> tuple[int, int, int]:
    return book.counters.environment_steps, book.counters.windows, book.counters.episodes


def test_cumulative_reports_add_up_exactly() -> None:
    book = ledger()
    for count in (0, 10, 10, 25, 25, 25, 40):
        book.accept_collector(report(count=count))
    assert counts(book) == (40, 80, 120)


def test_processes_are_added_up() -> None:
    book = ledger()
    for process, index, count in (("a", 0, 10), ("b", 1, 7), ("a", 0, 12), ("b", 1, 9)):
        book.accept_collector(report(process, index, count))
    assert counts(book) == (21, 42, 63)


def test_another_process_of_the_same_collector_adds_from_zero() -> None:
    book = ledger()
    book.accept_collector(report("first", 0, 100))
    book.accept_collector(report("second", 0, 5))
    book.accept_collector(report("second", 0, 8))
    assert counts(book) == (108, 216, 324)


def test_a_resumed_run_counts_on() -> None:
    book = ledger(counters=Counters(environment_steps=1000, windows=900, episodes=10))
    book.accept_collector(report(count=5))
    assert counts(book) == (1005, 910, 25)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans()), max_size=40))
def test_any_interleaving_and_repetition_adds_up_exactly(increments: list[tuple[str, int, bool]]) -> None:
    book, totals = ledger(), {"a": 0, "b": 0, "c": 0}
    for process, more, repeated in increments:
        totals[process] += more
        for _ in range(2 if repeated else 1):
            book.accept_collector(report(process, count=totals[process]))
    total = sum(totals.values())
    assert counts(book) == (total, 2 * total, 3 * total)


def test_lost_transitions_are_those_unconfirmed_at_the_end() -> None:
    book = ledger()
    book.accept_collector(report("a", count=5, unconfirmed=4))
    assert book.counters.lost_transitions == 0
    book.accept_collector(report("a", count=6, unconfirmed=4, last=True))
    book.accept_collector(report("b", count=6, unconfirmed=3, last=True))
    assert book.counters.lost_transitions == 7


def test_the_largest_reward_is_that_of_any_collector_and_life() -> None:
    book = ledger(counters=Counters(largest_reward=2.0))
    found = []
    for process, reward in (("a", 1.0), ("b", 5.0), ("a", 3.0)):
        book.accept_collector(msgspec.structs.replace(report(process), largest_reward=reward))
        found.append(book.counters.largest_reward)
    assert found == [2.0, 5.0, 5.0]


def test_summary_and_status_say_what_was_skipped() -> None:
    book = ledger(counters=Counters(skipped_updates=7, rollbacks=2))
    result = book.summary("seconds", 1.0)
    assert (result.skipped_updates, result.rollbacks) == (7, 2)
    assert book.status("learning", 0, None, {}, warnings=["too large"]).warnings == ["too large"]


def test_the_steps_that_a_shield_changed_add_up_over_collectors_and_lives() -> None:
    book = ledger(counters=Counters(shielded_steps=100))
    for process, steps in (("a", 3), ("b", 10), ("a", 7), ("a", 7), ("c", 1)):
        book.accept_collector(msgspec.structs.replace(report(process), shielded_steps=steps))
    assert book.counters.shielded_steps == 118
    assert book.summary("seconds", 1.0).shielded_steps == book.status("learning", 0, None, {}).shielded_steps == 118


def test_every_count_of_a_collector_reaches_the_run() -> None:
    counted = dict(zip(Counts.__struct_fields__, itertools.count(3), strict=False))
    missing = set(counted) - set(Counters.__struct_fields__)
    assert not missing, f"the ledger adds {missing} up: give `Counters` of pipeline/records/counters.py the same fields"
    sent = report("a", **counted)
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=CollectorReport)
    assert (told, told.counts) == (sent, Counts(**counted))
    book = ledger()
    for _ in range(2):
        book.accept_collector(told)
    assert {name: getattr(book.counters, name) for name in counted} == counted


def test_bytes_of_processes_that_have_left_stay_counted() -> None:
    book = ledger(counters=Counters(windows=100, bytes_sent=5_000, bytes_received=10))
    for other in (Counters(), Counters(windows=1), Counters(bytes_sent=1)):
        assert ledger(counters=other).status("learning", 0, None, {}).bytes_per_transition is None
    for process, sent, last in (("a", 1_000, False), ("b", 500, False), ("a", 1_500, True), ("a", 1_500, True)):
        book.accept_collector(report(process, count=50, bytes_sent=sent, bytes_received=2 * sent, last=last))
    book.accept_collector(report("c", count=50, bytes_sent=1_000))
    assert (book.counters.bytes_sent, book.counters.bytes_received) == (8_000, 4_010)
    assert book.status("learning", 0, None, {}).bytes_per_transition == 8_000 / 400


def test_a_repeated_last_report_adds_nothing() -> None:
    book = ledger()
    for _ in range(2):
        book.accept_collector(report("a", count=6, unconfirmed=4, last=True))
    assert book.counters.lost_transitions == 4


def test_collectors_have_left_when_all_have_said_so() -> None:
    book = ledger("collect.report_seconds=100.0")
    book.accept_collector(report("a"))
    book.accept_collector(report("b"))
    assert book.collectors_awaited() == ["a", "b"]
    book.accept_collector(report("a", last=True))
    assert book.collectors_awaited() == ["b"]
    book.accept_collector(report("b", last=True))
    assert not book.collectors_awaited()


def test_a_collector_that_gives_signs_of_life_is_waited_for() -> None:
    book = ledger("collect.report_seconds=0.01")
    deadline = time.monotonic() + 0.6
    while time.monotonic() < deadline:  # three times as long as silence may last, and it has never reported here
        book.hear("a")
        assert book.collectors_awaited()
        time.sleep(0.02)
    book.accept_ended("a", Counts(begun=7, windows=5), 0)
    assert not book.collectors_awaited()
    assert book.counters.lost == {"unconfirmed at the end": 2}


def test_a_collector_that_has_fallen_silent_has_left() -> None:
    book = ledger("collect.report_seconds=0.001")
    book.accept_collector(report("a"))
    deadline = time.monotonic() + 5
    while book.collectors_awaited() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not book.collectors_awaited()


def spend(book: Ledger, environment_steps: int = 0, gradient_steps: int = 0, seconds: float = 0.0) -> None:
    book.accept_collector(report(count=environment_steps))
    book.tick(gradient_steps)
    book.counters.train_seconds = seconds


ALL = (
    "replay.min_size=100",
    "stop.environment_steps=100",
    "stop.gradient_steps=50",
    "stop.seconds=10.0",
    "stop.target_return=5.0",
)


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        ({"environment_steps": 99, "gradient_steps": 49, "seconds": 9.9}, None),
        ({"environment_steps": 100}, "environment_steps"),
        ({"environment_steps": 1000}, "environment_steps"),
        ({"gradient_steps": 50}, "gradient_steps"),
        ({"seconds": 10.0}, "seconds"),
    ],
)
def test_a_run_stops_when_a_budget_is_spent(spent: dict[str, Any], reason: str | None) -> None:
    book = ledger(*ALL)
    spend(book, **spent)
    assert book.stop_reason() == reason


def test_a_budget_of_zero_is_none() -> None:
    book = ledger()
    spend(book, 10**9, 10**9, 1e9)
    assert book.stop_reason() is None


def test_a_run_stops_when_an_evaluation_reaches_the_target() -> None:
    book = ledger(*ALL)
    book.accept_evaluation(evaluation(4.99))
    assert not book.solved
    assert book.stop_reason() is None
    book.accept_evaluation(evaluation(5.0))
    assert book.solved
    assert book.stop_reason() == "target_return"


def test_an_evaluation_that_was_on_its_way_does_not_undo_a_solved_run() -> None:
    book = ledger(*ALL)
    book.accept_evaluation(evaluation(9.0))
    book.accept_evaluation(evaluation(1.0))
    assert book.solved
    assert book.summary("target_return", 0.0).mean_return == 9.0
    assert book.best_mean_return == 9.0


def test_the_mean_return_is_the_last_evaluations() -> None:
    book = ledger(*ALL)
    for mean in (4.0, 1.0):
        book.accept_evaluation(evaluation(mean))
    summary = book.summary("seconds", 0.0)
    assert (summary.solved, summary.mean_return, summary.best_mean_return) == (False, 1.0, 4.0)


def test_without_a_target_nothing_is_solved() -> None:
    book = ledger()
    book.accept_evaluation(evaluation(1e9))
    assert not book.solved
    assert book.stop_reason() is None


def test_reaching_the_target_comes_before_a_spent_budget() -> None:
    book = ledger(*ALL)
    spend(book, 1000, 1000, 1000.0)
    book.accept_evaluation(evaluation(5.0))
    assert book.stop_reason() == "target_return"


def test_a_collectors_fault_ends_the_run() -> None:
    book = ledger()
    book.accept_collector(report(last=True, fault="environment 'X-v0', lane 3, step 7: reward is not finite"))
    assert book.stop_reason() == "failed"
    assert "lane 3" in book.fault


def test_every_stop_reason_has_an_exit_code() -> None:
    budgets = {f"{name}" for name in Experiment().stop.__struct_fields__} - {"target"}
    assert {name for name, code in EXIT_CODES.items() if code == 0} == budgets | {"callback"}
    assert {EXIT_CODES[name] for name in ("interrupted", "failed")} == {1}
    assert (EXIT_CODES["stalled"], EXIT_CODES["diverged"]) == (3, 4)


@pytest.mark.parametrize("means", [(0.0, -5.0), (-5.0, 0.0), (3.0, 7.0, 1.0), (-9.0, -2.0, -4.0)], ids=str)
def test_the_best_evaluation_is_the_largest(means: tuple[float, ...]) -> None:
    book = ledger()
    for mean in means:
        book.accept_evaluation(evaluation(mean))
    assert book.best_mean_return == max(means)


def test_the_episode_return_is_the_mean_of_the_last_hundred() -> None:
    book = ledger()
    assert book.status("starting", 0, None, {}).episode_return is None
    book.accept_collector(report(returns=(1000.0,)))
    for value in range(100):
        book.accept_collector(report(returns=(float(value),)))
    assert book.status("learning", 0, None, {}).episode_return == pytest.approx(49.5)


def test_samples_per_insert_are_transitions_learned_from_over_those_stored() -> None:
    book = ledger()
    assert book.samples_per_insert() == 0.0
    book.accept_collector(report(count=160))  # 320 transitions
    book.counters.learned += 40 * 32
    assert book.samples_per_insert() == pytest.approx(4.0)


def test_rates_are_those_of_the_last_seconds() -> None:
    book = ledger()
    assert book.rates() == (0.0, 0.0)
    before = time.monotonic()
    book.tick(0)
    began = time.monotonic()
    time.sleep(0.1)
    book.accept_collector(report(count=1000))
    ended = time.monotonic()
    book.tick(500)
    after = time.monotonic()
    environment_rate, gradient_rate = book.rates()
    assert 1000 / (after - before) <= environment_rate <= 1000 / (ended - began)
    assert gradient_rate == pytest.approx(environment_rate / 2)


def test_the_training_clock_starts_with_training_and_goes_on_after_a_resume() -> None:
    book = ledger(counters=Counters(train_seconds=100.0))
    book.tick(0)
    assert book.counters.train_seconds == 100.0
    started = time.monotonic()
    book.start_training()
    time.sleep(0.02)
    book.tick(1)
    assert 100.02 <= book.counters.train_seconds <= 100.0 + time.monotonic() - started


def test_the_summary_holds_totals_and_this_lifes_rates() -> None:
    counters = Counters(
        environment_steps=1000, windows=900, episodes=10, gradient_steps=300, train_seconds=60.0, learned=5000
    )
    counters.lost = {"replay restarted": 2}
    book = ledger("seed=4", "stop.target_return=5.0", "learner.batch_size=64", counters=counters)
    book.accept_collector(report(count=50, last=True, unconfirmed=3))
    book.accept_evaluation(evaluation(4.0, gradient_steps=310))
    book.accept_evaluation(evaluation(6.0, gradient_steps=320))
    book.tick(320)
    book.counters.train_seconds = 70.0
    summary = book.summary("target_return", 12.5, "words")
    assert summary == Summary(
        solved=True,
        stop_reason="target_return",
        seed=4,
        environment_steps=1050,
        gradient_steps=320,
        episodes=160,
        mean_return=6.0,
        startup_seconds=12.5,
        train_seconds=70.0,
        filling_seconds=10.0,
        environment_steps_per_second=5.0,
        gradient_steps_per_second=2.0,
        samples_per_insert=5000 / 1000,
        lost_transitions=5,
        best_mean_return=6.0,
        evaluations=2,
        message="words",
    )
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_filling_lasts_until_the_first_gradient_steps_of_this_life() -> None:
    book = ledger(counters=Counters(gradient_steps=300, train_seconds=50.0))
    book.start_training()
    time.sleep(0.02)
    book.tick(300)
    time.sleep(0.02)
    book.tick(310)
    time.sleep(0.02)
    book.tick(320)
    summary = book.summary("seconds", 1.0)
    assert 0.04 <= summary.filling_seconds <= summary.train_seconds - 50.0 - 0.02


def test_a_run_that_never_trained_has_a_summary() -> None:
    summary = ledger().summary("interrupted", 1.0)
    assert (summary.solved, summary.mean_return, summary.best_mean_return) == (False, None, None)
    assert (summary.environment_steps_per_second, summary.gradient_steps_per_second) == (0.0, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_the_status_shows_what_runs() -> None:
    book = ledger()
    book.accept_collector(report("a", 0, 10, epsilon=0.3, resident_bytes=111))
    book.accept_collector(report("b", 1, 20, epsilon=0.7, resident_bytes=222, last=True))
    book.accept_collector(report("c", 1, 0, epsilon=0.7, resident_bytes=223))
    book.accept_evaluation(evaluation(3.0, resident_bytes=333))
    book.tick(8)
    status = book.status("learning", 77, 0.25, {"learner": 444})
    assert (status.phase, status.replay_size, status.loss) == ("learning", 77, 0.25)
    assert (status.environment_steps, status.gradient_steps, status.episodes) == (30, 8, 90)
    assert (status.evaluation_return, status.evaluation_std) == (3.0, 2.5)
    assert status.resident_bytes == {"learner": 444, "collector-0": 111, "collector-1": 223, "evaluator": 333}, (
        "one has left"
    )
    assert status.epsilon == 0.7
    assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status
