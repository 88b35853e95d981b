"""Runs with an acting server: each role is killed, roles are started by hand, and launchers without one refuse."""

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import small_runs
from small_runs import SHRUNK, command, environment, inline
from waiting import SECONDS

from pipeline.drill.faults import Drilled
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records.results import Summary

CENTRAL = "collect.inference='central'"
LINES = (
    *SHRUNK[:-1], CENTRAL, "collect.collectors=2", "collect.lanes=4", "replay.samples_per_insert=4",
    "checkpoint.every_seconds=1.0", "replay.capacity=1000000", "evaluation.every_steps=2000",
)  # fmt: skip


@pytest.fixture
def drilled(tmp_path: Path) -> Iterator[Drilled]:
    flags = ["--config=cartpole", *(f"--set={line}" for line in LINES)]
    run = Drilled(RunDirectory(tmp_path / "run"), flags, [*flags, "--resume"])
    run.start()
    yield run
    assert run.supervisor is not None
    run.supervisor.kill()
    run.supervisor.wait()
    assert run.wait_until(lambda: not run.processes(), SECONDS)


def collected(run: Drilled) -> int:
    status = run.status()
    return status.environment_steps if status else 0


def steps_on(run: Drilled, after: str) -> None:
    before = collected(run)
    assert run.wait_until(lambda: collected(run) > before + 1_000, SECONDS), (
        f"waited {SECONDS} s until it collects again after {after}\n{run.output.read_text()[-3000:]}"
    )


def stands_still(run: Drilled) -> bool:
    before = collected(run)
    time.sleep(1.0)
    return before == collected(run)


@pytest.mark.slow
def test_a_kill_of_each_role_costs_no_more_than_what_has_a_name(drilled: Drilled) -> None:
    run, chance = drilled, random.Random(0)
    assert run.wait_until(lambda: collected(run) > 1_000 and run.saved() is not None, SECONDS), run.output.read_text()
    collectors = {process.pid for process in run.processes("collector")}
    run.process("inference", chance).kill()
    steps_on(run, "the acting server was killed")
    assert {process.pid for process in run.processes("collector")} == collectors, "they have waited for it"
    frozen = run.process("inference", chance)
    frozen.suspend()
    before = collected(run)
    assert run.wait_until(lambda: stands_still(run), SECONDS), "collectors go on without their server"
    assert collected(run) < before + 10_000
    frozen.resume()
    steps_on(run, "the acting server was frozen")
    for role in ("collector", "learner"):
        run.process(role, chance).kill()
        steps_on(run, f"a {role} was killed")
    assert run.end() == 1, run.output.read_text()[-3000:]
    summary = msgspec.json.decode(run.run.summary.read_bytes(), type=Summary)
    account = summary.account
    assert account is not None
    assert (account.unaccounted, account.in_flight) == (0, 0)
    assert set(account.lost) <= {
        "collector killed", "replay restarted", "unconfirmed at the end", "collector fell silent",
    }  # fmt: skip
    assert account.begun == account.stored + sum(account.lost.values())
    output = run.output.read_text()
    assert "inference was killed (SIGKILL)" in output
    assert "traceback" not in output.lower()


@pytest.mark.slow
def test_roles_by_hand_act_at_a_server_beside_one_that_acts_by_itself(tmp_path: Path) -> None:
    """Collector 0 acts at the server, collector 1 by itself, as one on another machine would."""
    replay, place = f"--replay=127.0.0.1:{free_port()}", f"--inference=unix:{tmp_path / 'acting.sock'}"
    lines = (*SHRUNK[:-1], "stop.gradient_steps=600", "collect.collectors=2", "collect.lanes=4")
    roles = {
        "learner": (f"--run_dir={tmp_path / 'learner'}", "--embedded", f"--set={CENTRAL}"),
        "inference": (place, f"--set={CENTRAL}"),
        "collector-0": ("--index=0", place, f"--set={CENTRAL}"),
        "collector-1": ("--index=1",),
        "evaluator": (f"--set={CENTRAL}",),
    }
    started: dict[str, Any] = {}
    try:
        for name, flags in roles.items():
            line = command("pipeline.role", f"--role={name.partition('-')[0]}", "--config=cartpole", replay, *flags)
            started[name] = subprocess.Popen(
                [*line, *(f"--set={each}" for each in lines)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=small_runs.ROOT,
            )  # fmt: skip
        said = {name: process.communicate()[0] for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    codes = {name: process.returncode for name, process in started.items()}
    assert codes == dict.fromkeys(roles, 0), said
    assert "collector-0." in said["inference"]
    assert "collector-1." not in said["inference"]
    summary = small_runs.summary(tmp_path / "learner")
    assert summary["account"]["unaccounted"] == 0
    assert not (tmp_path / "acting.sock").exists()


def test_a_launcher_refuses_what_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--launcher=inline starts no acting server"):
        inline(tmp_path / "run", CENTRAL)
    with pytest.raises(UsageError, match=r"local_steps=2 is of several learners, and --launcher=inline starts one"):
        inline(tmp_path / "run", "learner.local_steps=2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--role=inference",), "set collect.inference='central'"),
        (("--role=inference", f"--set={CENTRAL}"), "--inference is missing for --role=inference"),
        (("--role=learner", "--set=learner.local_steps=4"), "several of them need TF_CONFIG"),
        (("--role=collector", f"--set={CENTRAL}", "--inference=10.1.2.3:9"), "at a socket of pipeline.proxy"),
    ],
)
@pytest.mark.slow
def test_roles_by_hand_refuse_in_one_line(flags: tuple[str, ...], words: str) -> None:
    line = command("pipeline.role", "--config=cartpole", "--replay=127.0.0.1:9", *flags)
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
