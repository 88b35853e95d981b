"""Whatever an environment does with its process, a run has a result, and leaves nothing behind."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_runs import ENDLESS, ROOT, command, environment, processes_of, start, summary, train
from waiting import wait_until

import pipeline
from pipeline.records import checkpoint

pytestmark = pytest.mark.slow
SMALL = (*ENDLESS, "agent.hidden_units=[16]", "collect.lanes=2", "evaluation.episodes=2")


def habit(name: str, **arguments: object) -> tuple[str, ...]:
    kwargs = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    path = f"environments_with_habits:{name}"
    return ('environment.id=""', f"environment.import_path={path!r}", f"environment.kwargs={{{kwargs}}}")


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    yield path
    wait_until(lambda: not processes_of(path), "all processes of the run have ended")


def sleepers(name: str) -> list[int]:
    processes = psutil.process_iter(["cmdline"])
    return [process.pid for process in processes if (process.info["cmdline"] or [""])[-1] == name]


def test_an_environment_with_every_habit_trains_and_is_evaluated_and_leaves_nothing(run_dir: Path) -> None:
    name = f"sleeper of {run_dir}"
    result = train(run_dir, *SMALL, *habit("Habits", sleeper=name), "stop.gradient_steps=400")
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("Look at it"), "what was printed at exit came later, elsewhere"
    assert shutil.which(shlex.split(last)[3]), "the command that it names is there"
    assert summary(run_dir)["stop_reason"] == "gradient_steps"
    assert checkpoint.newest(run_dir / "checkpoints") is not None
    assert not sleepers(name)
    scored = subprocess.run(
        command("pipeline.evaluate", f"--run_dir={run_dir}", "--episodes=2", "--policy=latest"),
        capture_output=True, text=True, check=False, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert '"episodes": 2' in scored.stdout.splitlines()[-1]
    wait_until(lambda: not sleepers(name), "what the evaluated environment has started has ended")


def test_a_terminal_that_hangs_up_saves_a_checkpoint_though_the_environment_has_the_signals(run_dir: Path) -> None:
    process = start(run_dir, *SMALL, *habit("Habits", sleeper=f"of {run_dir}"))
    wait_until(lambda: (run_dir / "policies" / "latest").exists(), "something has been learned")
    assert process.stdout is not None
    process.stdout.close()
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 1
    assert summary(run_dir)["stop_reason"] == "interrupted"
    assert checkpoint.newest(run_dir / "checkpoints") is not None
    assert (run_dir / "logs" / "supervisor.log").read_text().splitlines()[-1].endswith(" --resume")


def test_an_evaluator_that_hangs_in_every_life_ends_the_run_and_all_say_so(run_dir: Path) -> None:
    lines = (*SMALL, *habit("HangsInEvaluations"), "collect.stall_seconds=2.0")
    result = train(run_dir, *lines)
    assert result.returncode == 1, result.stdout + result.stderr
    found = summary(run_dir)
    assert found["stop_reason"] == "failed"
    assert "in a reset of its environment, lane 0: collect.stall_seconds=2 allows no more" in found["message"]
    assert "evaluator has failed 5 times in a row without progress" in found["message"]
    assert result.stdout.splitlines()[-1] == f"failed: {found['message']}"
    assert (run_dir / "logs" / "supervisor.log").read_text().splitlines()[-1].endswith(f"failed: {found['message']}")


def test_many_lanes_of_an_environment_that_is_slow_to_make_are_no_hang(run_dir: Path) -> None:
    lines = (
        *SMALL,
        *habit("SlowMake"),
        "collect.stall_seconds=3.0",
        "evaluation.episodes=8",
        "stop.gradient_steps=400",
    )
    result = train(run_dir, *lines)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no sign of life" not in result.stdout
    assert summary(run_dir)["mean_return"] is not None


def test_python_gets_the_reason_in_a_thread_of_its_own_too(run_dir: Path, tmp_path: Path) -> None:
    code = """
import sys, threading
import pipeline
caught = []
def run():
    try:
        pipeline.train(pipeline.load("cartpole", tuple(sys.argv[2:])), sys.argv[1])
    except pipeline.RunFailed as error:
        caught.append(error)
thread = threading.Thread(target=run)
thread.start(), thread.join()
(error,) = caught
print(error.exit_code, error.summary.dropped_episodes > 0, error)
"""
    lines = (*SMALL, *habit("Exits"))
    result = subprocess.run(
        [sys.executable, "-c", code, str(run_dir), *lines],
        capture_output=True, text=True, check=False, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.splitlines()[-1]
    assert last.startswith("1 True failed: ")
    assert "environment 'Exits', lane " in last
    assert "it raised SystemExit()" in last
    assert last.endswith(summary(run_dir)["message"])


def test_a_machine_that_stood_still_kills_nobody(run_dir: Path) -> None:
    process = start(run_dir, *SMALL, "collect.stall_seconds=2.0", "learner.silent_seconds=3.0")
    wait_until(lambda: (run_dir / "policies" / "latest").exists(), "something has been learned")
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in everyone:
        each.suspend()
    signal.sigtimedwait([], 8)  # no condition ends it: it is the time that is tested
    for each in reversed(everyone):
        each.resume()
    begun = checkpoint.newest(run_dir / "checkpoints")
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate()
    assert "no sign of life" not in output
    assert (begun, summary(run_dir)["stop_reason"]) == (None, "interrupted")


def test_the_face_of_the_package_has_the_error() -> None:
    assert issubclass(pipeline.RunFailed, RuntimeError)
