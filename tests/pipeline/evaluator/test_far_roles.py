"""What roles on other hosts leave in the learner's run directory."""

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from waiting import SECONDS

from pipeline.acting import stored_policies
from pipeline.acting.policy_files import Policy
from pipeline.acting.sent_policies import SentPolicy
from pipeline.evaluator.far_roles import FarRoles
from pipeline.experiment import config
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages import role_words
from pipeline.messages.channel import Sender
from pipeline.messages.contents import REPORTS_TABLE, Array, CollectorReport, Counts, Evaluation, Report, Variables
from pipeline.messages.role_words import RoleLogs, RoleWords, Words, where_roles
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.step_budget import NEWCOMER
from pipeline.runtime import native


def weights(value: float, size: int = 3) -> tuple[Array, ...]:
    return (Array.of(np.full(size, value, np.float32)),)


def sent(gradient_steps: int, mean_return: float, *, size: int = 3, is_whole: bool = True) -> SentPolicy:
    policy = Policy(b"strange", weights(gradient_steps, size), gradient_steps, gradient_steps, mean_return)
    return SentPolicy.of(msgspec.structs.replace(policy, score=mean_return), is_whole)


def evaluation(gradient_steps: int, mean_return: float) -> Evaluation:
    return Evaluation(gradient_steps, gradient_steps, mean_return, 0, 0, 0, 0, 1, 0, 0, is_best=True)


class Directory:
    """A learner's run directory, and what reaches the learner beside it."""

    def __init__(self, path: Path) -> None:
        self.run, self.warnings, self.passed = RunDirectory(path), list[str](), list[Report]()
        self.roles = path / "roles.json"
        self.experiment = config.load(
            "cartpole", ("collect.collectors=2", "collect.lanes=4", "stop.environment_steps=1000")
        )
        self.run.create(self.experiment)
        self.begin()

    def begin(self) -> None:
        published = Variables(9, 9, program=b"the learner's", weights=weights(9))
        self.ledger = Ledger(self.experiment, Counters())
        of_run = self.experiment, self.run, lambda: published, self.warnings, self.passed.append
        self.far = FarRoles(*of_run, self.ledger.counters)

    def best(self) -> Policy:
        return stored_policies.load(self.run.policies / "best")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_the_policies_are_kept_as_an_evaluator_keeps_them(directory: Directory) -> None:
    for step, score in ((1, 5.0), (2, 7.0), (3, 6.0)):
        directory.far.accept(sent(step, score))
        directory.far.accept(evaluation(step, score))
    assert (directory.best().gradient_steps, directory.best().mean_return) == (2, 7.0)
    latest = stored_policies.load(directory.run.policies / "latest")
    assert latest.gradient_steps == 3
    assert latest.program == b"the learner's", "nobody else's program is kept"
    np.testing.assert_array_equal(latest.weights[0].numpy(), np.full(3, 3, np.float32))
    assert [each.is_best for each in directory.passed if isinstance(each, Evaluation)] == [True, True, False]


def test_a_learner_that_goes_on_knows_its_best_policy(directory: Directory) -> None:
    directory.far.accept(sent(1, 5.0))
    directory.begin()
    directory.far.accept(sent(2, 4.0))
    assert directory.best().mean_return == 5.0


def test_a_policy_that_comes_twice_is_judged_once(directory: Directory) -> None:
    for _ in range(2):
        directory.far.accept(sent(1, 5.0))
        directory.far.accept(evaluation(1, 5.0))
    assert [each.is_best for each in directory.passed if isinstance(each, Evaluation)] == [True, True]


def test_weights_of_another_network_are_not_kept(directory: Directory, caplog: pytest.LogCaptureFixture) -> None:
    directory.far.accept(sent(1, 5.0, size=4))
    lying = msgspec.structs.replace(sent(1, 5.0).policy, weights=(Array("<f4", (3,), b"\0" * 8),))
    directory.far.accept(SentPolicy(lying, True))
    assert not directory.run.policies.exists()
    assert caplog.text.count("of gradient step 1 is not kept") == 2


def words(role: Any = "collector", index: int = 0, text: str = "", **more: Any) -> RoleWords:
    return RoleWords(role, index, "host-b", "", text, **more)


def test_each_role_has_a_log_under_its_name(directory: Directory) -> None:
    for role, index in (("collector", 1), ("evaluator", 0), ("replay", 0), ("learner", 1), ("relay", 0)):
        directory.far.accept(words(role, index, "one\n"))
        directory.far.accept(words(role, index, "two \x1b[2J\n"))
    logs = {path.name: path.read_text() for path in directory.run.logs.iterdir()}
    assert set(logs) == {"collector-1.log", "evaluator.log", "replay-0.log", "learner-1.log", "relay-0.log"}
    assert set(logs.values()) == {"one\ntwo ?[2J\n"}, "a terminal that shows them obeys nothing"


@pytest.mark.parametrize("strange", [words(index=2), words(index=-1), words("evaluator", 1), words("relay", 10_000)])
def test_roles_that_the_run_has_not_leave_nothing(directory: Directory, strange: RoleWords) -> None:
    directory.far.accept(strange)
    assert not list(directory.run.logs.iterdir())
    assert not directory.roles.exists()


def test_a_fault_is_a_warning_until_the_role_is_back(directory: Directory) -> None:
    reason = "the collector ends\nTraceback (most recent call last):\nValueError: no such thing"
    directory.far.accept(words(exit_code=1, reason=reason))
    fault = "collector-0 on host-b ended with exit code 1: ValueError: no such thing"
    assert directory.warnings == [fault]
    assert json.loads(directory.roles.read_text())["collector-0"]["fault"] == fault
    directory.far.accept(words(index=1))
    assert directory.warnings == [fault]
    directory.far.accept(words(text="again\n"))
    assert directory.warnings == []
    directory.far.accept(words(exit_code=7, reason="the learner has left"))
    assert directory.warnings == [], "told to leave"
    assert {name: where.fault for name, where in where_roles(directory.run).items()} == {
        "collector-0": "",
        "collector-1": "",
    }


def test_a_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_words, "_MOST_BYTES", 1_000)
    logs = RoleLogs(tmp_path)
    for number in range(200):
        logs.write(words(text=f"line {number}\n"))
    kept = (tmp_path / "collector-0.log").read_text().splitlines()
    assert kept[-1] == "line 199"
    assert kept[0].startswith("line "), "whole lines"
    assert (tmp_path / "collector-0.log").stat().st_size <= 1_000


def test_words_that_did_not_arrive_are_said_again_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_words, "_SECONDS", 0.01)
    monkeypatch.setattr(role_words, "_MOST_CHARACTERS", 100)
    said, heard, answers = Words("collector", 0, None), list[RoleWords](), iter([False, False])
    done = threading.Event()

    def deliver(message: RoleWords) -> bool:
        if not next(answers, True):
            return False
        heard.append(message)
        if "line 9" in message.text:
            done.set()
        return True

    logger = logging.Logger("test")
    logger.addHandler(said)
    for number in range(5):
        logger.info("line %d", number)
    said.hand_to(deliver)
    for number in range(5, 10):
        logger.info("line %d", number)
    assert done.wait(30), "the lines have been handed over"
    said.end(3, "waited too long")
    assert (heard[-1].exit_code, heard[-1].reason) == (3, "waited too long")
    lines = "".join(each.text for each in heard).splitlines()
    assert lines.pop() == "waited too long"
    numbers = [int(line.rpartition(" ")[2]) for line in lines]
    assert numbers == sorted(set(numbers)), "each once, in order"
    assert numbers[-1] == 9
    assert all(len(each.text) <= 2 * 100 for each in heard)


def test_no_words_hold_up_a_process_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_words, "_SEND_SECONDS", 0.05)
    said, never = Words("collector", 0, None), threading.Event()
    said.hand_to(lambda _: never.wait(60))
    said.end(0, "")
    never.set()


def collected(index: int, **more: int) -> CollectorReport:
    blank = {"returns": (), "lengths": (), "epsilon": 0.0, "weights_age": 0, "weights_seconds": 0.0}
    return CollectorReport(
        index=index, process=f"collector-{index}.0", blocked_seconds=0.0, resident_bytes=0, **blank, **more
    )  # type: ignore[arg-type]


def insert(address: str, block: np.ndarray[Any, Any]) -> None:
    """Puts bytes among the reports, as any peer can."""
    client = native.reverb_client(address)
    writer = native.reverb_writer(client, chunk_length=1, keep_alive=1)
    (reference,) = writer.Append([block])
    writer.CreateItem(REPORTS_TABLE, 1.0, [[reference]], [True])
    assert native.flush(writer, 0, 60_000)
    writer.Close()


def test_what_is_no_report_is_counted_and_those_that_follow_are_taken(
    directory: Directory, serve: Any, make_experiment: Any, counting_specs: Any
) -> None:
    replay = serve(make_experiment(), counting_specs)
    directory.far.listen(replay)
    insert(replay.address, np.full(64, 255, np.uint8))  # a length beyond all
    insert(replay.address, np.zeros(3, np.uint8))
    sender = Sender(replay.address, REPORTS_TABLE)
    strange = [
        b"bytes", None, {"type": "nobody"}, {"type": "collector", "index": "first"}, collected(2), collected(-1),
        collected(0, begun=-5), collected(0, begun=5, windows=6), sent(1, 5.0, size=4),
    ]  # fmt: skip
    for each in strange:
        assert sender.send(each, 60.0)
    assert sender.send(collected(1, begun=7), 60.0)
    deadline = time.monotonic() + SECONDS
    while not directory.passed:
        assert time.monotonic() < deadline, "waited in vain for a good report behind bad ones"
        time.sleep(0.01)
    sender.close()
    assert directory.passed == [collected(1, begun=7)]
    refused = len(strange) + 2 - 1  # weights of another network have a word of their own
    assert directory.ledger.counters.refused_reports == refused
    (warning,) = directory.warnings
    assert warning.startswith(f"reports that are none have come, and were refused: {refused}, the newest one: ")
    assert "collector 0 has 6 windows confirmed of 5 begun" in warning


def test_no_steps_are_kept_for_a_collector_that_was_refused(directory: Directory) -> None:
    """The other one takes them all; started again, that one is heard of before it gets any."""
    ledger, taken = directory.ledger, 0
    ledger.start_training()

    def takes_what_it_may() -> int:
        nonlocal taken
        for _ in range(20):
            ledger.count("collector-0.7", Counts(environment_steps=taken))
            ledger.hear("collector-0.7")
            taken = (ledger.allowances() or {}).get("collector-0.7", 0) // 4 * 4
        return taken

    directory.far.accept(words(index=0, exit_code=1, reason="it crashed"))
    assert takes_what_it_may() == 500
    for _ in range(2):
        directory.far.accept(words(index=1, exit_code=2, reason="another config"))
    assert takes_what_it_may() == 1_000
    assert (ledger.allowances() or {})[NEWCOMER] == 0


def test_a_collector_that_came_before_it_was_refused_has_come_once(directory: Directory) -> None:
    directory.ledger.count("collector-0.7", Counts())
    directory.far.accept(words(index=0, exit_code=2, reason="another config"))
    assert directory.ledger.counters.left == []
