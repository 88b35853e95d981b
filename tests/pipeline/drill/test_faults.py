"""A fault waits for a process of its role that is being restarted, and for none once the run has ended."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.drill import faults
from pipeline.drill.faults import Drilled, RunIsOver
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.recorder import Recorder

BY_CHANCE = random.Random(0)
ENDLESS = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]


@pytest.fixture
def drilled(tmp_path: Path) -> Drilled:
    run = RunDirectory(tmp_path / "run")
    run.recorders.mkdir(parents=True)
    flags = ["--config=there-is-none"]
    return Drilled(run, flags, flags)


@pytest.fixture
def start(drilled: Drilled) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that do nothing, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([*ENDLESS, *more]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def a_role(drilled: Drilled, role: str, index: int) -> list[str]:
    return ["pipeline.role", f"--config={drilled.run.config}", f"--role={role}", f"--index={index}"]


def test_nothing_is_waited_for_once_the_run_has_ended(drilled: Drilled) -> None:
    drilled.start()
    assert drilled.supervisor is not None
    assert drilled.supervisor.wait() == 2, "it refuses its config"
    with pytest.raises(RunIsOver, match=r"no process of role collector comes any more.*ended with exit code 2"):
        faults.kill("collector")(drilled, BY_CHANCE)


def test_nothing_is_waited_for_once_the_learner_lets_the_roles_leave(
    drilled: Drilled, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    drilled.supervisor = start()
    learner = Recorder(drilled.run.recorder("learner", 0))
    learner.leave()
    late = start(*a_role(drilled, "collector", 1))
    with pytest.raises(RunIsOver, match="lets its roles leave"):
        faults.kill("collector")(drilled, BY_CHANCE)
    assert late.poll() is None, "it leaves by itself"


def test_a_learner_that_was_killed_as_it_left_is_started_again_and_the_others_with_it(
    drilled: Drilled, start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_COMES_SECONDS", 0.2)
    drilled.supervisor = start()
    learner = Recorder(drilled.run.recorder("learner", 0))
    learner.leave()
    learner.mark_ended(-9)
    with pytest.raises(faults.DrillFailure, match=r"came within") as raised:
        faults.kill("collector")(drilled, BY_CHANCE)
    assert not isinstance(raised.value, RunIsOver)


def test_a_process_that_has_just_ended_by_itself_is_passed_over_for_the_next(
    drilled: Drilled, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    drilled.supervisor = start()
    processes = [start(*a_role(drilled, "collector", index)) for index in range(2)]
    done_to: list[int] = []

    def deed(process: psutil.Process) -> None:
        done_to.append(process.pid)
        if len(done_to) == 1:
            (found,) = [one for one in processes if one.pid == process.pid]
            found.kill()
            found.wait()
        process.suspend()

    name, process = faults._do_to(drilled, "collector", BY_CHANCE, deed)
    assert len(set(done_to)) == 2
    assert process.pid == done_to[1]
    assert name == f"collector-{[one.pid for one in processes].index(process.pid)}"


def test_a_wait_for_a_run_that_goes_on_ends_with_the_run(
    drilled: Drilled, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    drilled.supervisor = start()
    assert drilled.goes_on_until(lambda: True, 1.0)
    assert not drilled.goes_on_until(lambda: False, 0.1)
    drilled.supervisor.kill()
    assert not drilled.goes_on_until(lambda: False, 1e9)
