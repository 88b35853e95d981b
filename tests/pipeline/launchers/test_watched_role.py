"""When a role's failures count as failures in a row, and when its next process starts."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import SECONDS

from pipeline.experiment.config import parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.launchers import Launch
from pipeline.launchers.watched_role import Watched
from pipeline.messages.contents import TOLD_TO_LEAVE, Counts
from pipeline.records.recorder import Recorder
from pipeline.records.results import ENVIRONMENT_FAULT
from pipeline.runtime.signs_of_life import MAKING, NO_CALL, RESETTING, STEPPING, enter
from pipeline.security.privacy import Privacy


@pytest.fixture
def make(tmp_path: Path) -> object:
    run = RunDirectory(tmp_path / "run")
    experiment = parse("", ())
    run.create(experiment)
    launch = Launch(experiment, run, 0.0, False, Privacy("open"))

    def make(role: str) -> Watched:
        watched = Watched(launch, role, 0, 1, silent_seconds=0.3)
        attend(watched)
        return watched

    return make


def attend(watched: Watched, code: int = 1) -> None:
    """Gives it a process that has ended at once, in the place of one of a role's."""
    watched.process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"], start_new_session=True)
    watched.process.wait()
    watched.follow(Recorder(None))
    watched.restart_at = None


def test_restarts_are_further_and_further_apart_until_there_are_five_failures(make: object) -> None:
    watched = make("collector")  # type: ignore[operator]
    for delay in (0.1, 0.4, 1.6, 6.4):
        before = time.monotonic()
        assert watched.expect_restart()
        assert before + delay <= watched.restart_at <= time.monotonic() + delay
        attend(watched)
    assert not watched.expect_restart()
    assert watched.failures == 5


def test_environment_steps_are_a_collectors_progress(make: object) -> None:
    watched = make("collector")  # type: ignore[operator]
    for failures in (1, 2, 3):
        assert watched.expect_restart()
        assert watched.failures == failures
        attend(watched)
        watched.recorder.record(Counts(environment_steps=999))
    watched.recorder.record(Counts(environment_steps=1_000))
    assert watched.expect_restart()
    assert watched.failures == 1


def test_only_gradient_steps_beyond_those_before_are_a_learners_progress(make: object) -> None:
    watched = make("learner")  # type: ignore[operator]
    counted = []
    for furthest in (50, 40, 50, 60, 60):
        attend(watched)
        watched.recorder.advance(furthest)
        watched.expect_restart()
        counted.append(watched.failures)
    assert counted == [1, 2, 3, 1, 2]


def test_a_process_that_gives_no_sign_hangs_once_it_has_given_one(make: object) -> None:
    watched = make("evaluator")  # type: ignore[operator]
    time.sleep(0.4)
    assert not watched.pulse.hangs(), "it has minutes to start"
    watched.recorder.beat()
    assert not watched.pulse.hangs()
    time.sleep(0.2)
    watched.recorder.beat()
    assert not watched.pulse.hangs()
    deadline = time.monotonic() + SECONDS
    while not watched.pulse.hangs():
        assert time.monotonic() < deadline, "it has given no sign for 60 s"
        time.sleep(0.01)


def test_what_ends_badly_as_the_run_ends_is_said_once_and_not_restarted(make: object) -> None:
    watched, notes = make("evaluator"), []  # type: ignore[operator,var-annotated]
    watched.log_from = (watched._launch.run.logs / "evaluator.log").write_text("")
    for _ in range(3):
        assert watched.tend(notes.append, True) is None
    (note,) = notes
    assert note.startswith("evaluator ended with exit code 1;")
    assert note.endswith("evaluator is not restarted: the run ends")
    assert watched.restart_at is None


@pytest.mark.parametrize("code", [0, TOLD_TO_LEAVE, ENVIRONMENT_FAULT])
def test_what_ends_as_it_was_told_to_is_not_said(make: object, code: int) -> None:
    watched, notes = make("collector"), []  # type: ignore[operator,var-annotated]
    attend(watched, code)
    assert watched.tend(notes.append, True) is None
    assert not notes


def test_what_ended_it_is_told_from_its_own_log(make: object) -> None:
    watched = make("collector")  # type: ignore[operator]
    log = watched._launch.run.logs / "collector-0.log"
    log.write_text("2026 12:00 ERROR role: of an earlier process\n")
    watched.log_from = log.stat().st_size
    with log.open("a") as file:
        file.write("2026 12:00 INFO role: begins\n2026 12:00 ERROR role: the environment is odd\n")
    assert watched.last_words() == "collector-0 ended with exit code 1: the environment is odd"
    with log.open("a") as file:
        file.write("Traceback (most recent call last):\n  deep down\nValueError: odd\n")
    assert watched.last_words().endswith("ValueError: odd")
    assert "earlier" not in watched.last_words()


@pytest.mark.parametrize("call", [MAKING, RESETTING, STEPPING])
def test_patience_grows_with_the_calls_that_were_measured(make: object, call: int) -> None:
    watched = make("collector")  # type: ignore[operator]
    show(watched, call, lane=0)
    assert not watched.pulse.hangs()
    watched.pulse.beat_at -= 5.0  # the call has taken so long
    show(watched, call, lane=1)
    assert not watched.pulse.hangs()
    watched.pulse.beat_at -= 15.0
    assert not watched.pulse.hangs(), "four times as long are no hang"
    watched.pulse.beat_at -= 10.0
    assert watched.pulse.hangs()
    show(watched, NO_CALL, lane=1)
    assert not watched.pulse.hangs()
    watched.pulse.beat_at -= 0.4
    assert watched.pulse.hangs(), "outside the environment nothing was measured"


def test_a_kill_names_the_setting_and_the_call_and_is_the_reason_if_it_was_one_too_many(make: object) -> None:
    watched, notes = make("evaluator"), []  # type: ignore[operator,var-annotated]
    verdict = None
    while verdict is None:
        watched.process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        watched.follow(Recorder(None))
        watched.restart_at = None
        show(watched, RESETTING, lane=3)
        watched.pulse.hangs()
        watched.pulse.beat_at -= 100.0
        verdict = watched.tend(notes.append, False)
        watched.process.stdin.close()
    where = "in a reset of its environment, lane 3"
    assert "has given no sign of life for 0.3 s and is restarted" in notes[0]
    assert where in notes[0]
    assert "collect.stall_seconds=0.3" in notes[0]
    code, reason = verdict
    assert code == 1
    assert where in reason
    assert "evaluator has failed 5 times in a row without progress" in reason


def test_an_evaluators_progress_is_an_evaluation_and_waiting_for_one(make: object) -> None:
    watched, counted = make("evaluator"), []  # type: ignore[operator,var-annotated]
    for evaluations, is_busy in ((0, True), (0, True), (0, False), (1, True), (0, True)):
        attend(watched)
        watched.recorder.beat()
        watched.recorder.advance(evaluations)
        watched.recorder.work(is_busy)
        watched.pulse.beat_at = watched.pulse.begun + 100.0
        watched.expect_restart()
        counted.append(watched.failures)
    assert counted == [1, 2, 1, 1, 2], "an evaluation that was never ended is no progress, however long it took"


@pytest.mark.parametrize("code", [0, 2, 3])
def test_an_exit_code_alone_ends_no_run(make: object, code: int) -> None:
    learner = make("learner")  # type: ignore[operator]
    attend(learner, code)
    learner.log_from = (learner._launch.run.logs / "learner.log").write_text("")
    learner._launch.run.summary.write_text("{}")  # of the run that is resumed
    assert learner.end_of_run(ending=False) is None, "an environment may have ended the process"
    assert learner.tend(lambda _: None, False) is None
    assert learner.restart_at is not None
    attend(learner, code)
    learner.recorder.conclude(code)
    assert learner.end_of_run(ending=False) == (code, "")


def show(watched: Watched, call: int, lane: int) -> None:
    """Has its process be in a call of its environment."""
    watched.recorder.show_calls()
    watched.recorder.beat()
    words = enter(call)
    words[1] = lane
