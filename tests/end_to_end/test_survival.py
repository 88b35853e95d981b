"""Runs whose processes are killed, hang and crash: what goes on, what ends, and that the ledger balances."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from replay_writing import STRANGE, write_as_stranger
from waiting import SECONDS

from pipeline import environments
from pipeline.drill.faults import Drilled
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records.results import Summary
from pipeline.replay.frames import FrameLayout

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    "learner.steps_per_call=8", 'learner.loop="plain"', "replay.min_size=128", "replay.samples_per_insert=4",
    "evaluation.episodes=2", "evaluation.every_steps=2000", "stop.environment_steps=0", "stop.target_return=1e9",
    "checkpoint.every_seconds=1.0", "replay.capacity=1000000",
)  # fmt: skip
BY_CHANCE = random.Random(0)
LANES = 16


@pytest.fixture
def drilled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Drilled]]:
    """Starts runs in a folder, and ends what is left of them."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}")
    runs: list[Drilled] = []

    def start(*overrides: str, config: str = "cartpole", base: tuple[str, ...] = SMALL) -> Drilled:
        flags = [f"--config={config}", *(f"--set={line}" for line in (*base, *overrides))]
        runs.append(Drilled(RunDirectory(tmp_path / "run"), flags, [*flags, "--resume"]))
        runs[-1].start()
        return runs[-1]

    yield start
    for run in runs:
        if run.supervisor is not None:
            run.supervisor.kill()
            run.supervisor.wait()
        assert run.wait_until(lambda run=run: not run.processes(), SECONDS)  # type: ignore[misc]


def walk(name: str, **kwargs: str) -> tuple[str, ...]:
    arguments = tuple(f"environment.kwargs.{key}={json.dumps(value)}" for key, value in kwargs.items())
    return ('environment.id=""', f'environment.import_path="environments_that_fail:{name}"', *arguments)


def learns(run: Drilled, beyond: int = 0) -> bool:
    status = run.status()
    return status is not None and status.phase == "learning" and status.gradient_steps > beyond


def collected(run: Drilled) -> int:
    status = run.status()
    return status.environment_steps if status else 0


def wait(run: Drilled, holds: Callable[[], bool], what: str) -> None:
    assert run.wait_until(holds, SECONDS), f"waited {SECONDS} s until {what}\n{run.output.read_text()[-3000:]}"


def only(run: Drilled, role: str) -> psutil.Process:
    return run.process(role, BY_CHANCE)


def ended(run: Drilled, code: int = 1) -> Summary:
    """The summary of a run that was given notice to leave."""
    assert run.end() == code, run.output.read_text()[-3000:]
    return msgspec.json.decode(run.run.summary.read_bytes(), type=Summary)


def kill_and_await(run: Drilled, role: str) -> psutil.Process:
    """Kills a role's process; the one that has come in its place."""
    old = only(run, role)
    old.kill()
    wait(run, lambda: any(found.pid != old.pid for found in run.processes(role)), f"the {role} is there again")
    return only(run, role)


def test_a_kill_of_each_role_costs_no_more_than_what_has_a_name(drilled: Callable[..., Drilled]) -> None:
    run = drilled("replay.shards=1")
    shard = RunDirectory(run.run.shard(0)).checkpoints
    wait(run, lambda: learns(run) and run.saved() is not None and any(shard.glob("0*")), "there are checkpoints")
    before = {role: only(run, role).pid for role in ("evaluator", "collector", "replay", "learner")}
    present = dict(before)
    for role in before:
        present[role] = kill_and_await(run, role).pid
        assert {name: only(run, name).pid for name in present} == present, "the others went on"
        goes_on(run)
        if role == "evaluator":
            evaluated = evaluations(run)
            wait(run, lambda of=evaluated: evaluations(run) != of, "the other evaluator evaluates")  # type: ignore[misc]
    summary = ended(run)
    account = summary.account
    assert account is not None
    assert (account.unaccounted, account.in_flight) == (0, 0)
    # What a collector could not hand over, as it had not reached the restarted server again, is named too.
    named = {"collector killed", "replay restarted", "unconfirmed at the end", "collector fell silent"}
    assert set(account.lost) <= named
    assert account.begun == account.stored + sum(account.lost.values())
    assert (summary.stop_reason, summary.message) == ("interrupted", "")
    assert "traceback" not in run.output.read_text().lower()


def evaluations(run: Drilled) -> list[tuple[float, float]]:
    status = run.status()
    return status.recent_evaluations if status else []


def goes_on(run: Drilled) -> None:
    """Waits until a run has collected and learned more than it says now."""
    before = run.status()
    assert before is not None
    wait(run, lambda: collected(run) > before.environment_steps + 500, "it collects again")
    wait(run, lambda: learns(run, before.gradient_steps + 100), "it learns again")


@pytest.mark.slow
def test_each_role_is_restarted_and_the_others_go_on(drilled: Callable[..., Drilled], tmp_path: Path) -> None:
    run = drilled(*walk("Tallied", folder=str(tmp_path / "tallies")))
    wait(run, lambda: learns(run) and run.saved() is not None, "there is a checkpoint")
    evaluator, learner, first_collector = (only(run, role).pid for role in ("evaluator", "learner", "collector"))

    collector = kill_and_await(run, "collector")
    before = collected(run)
    wait(run, lambda: collected(run) > before + 500, "it collects again")
    assert (only(run, "learner").pid, only(run, "evaluator").pid) == (learner, evaluator)

    kill_and_await(run, "evaluator")
    saved = run.saved()
    assert saved is not None
    kill_and_await(run, "learner")
    before = collected(run)
    wait(run, lambda: learns(run, saved.gradient_steps), "it learns again")
    wait(run, lambda: collected(run) > before + 500, "it collects again")
    assert only(run, "collector").pid == collector.pid, "it waited for the learner, and went on"

    status = run.status()
    assert status is not None
    assert status.environment_steps >= saved.environment_steps
    summary = ended(run)
    account = summary.account
    assert account is not None
    assert (account.unaccounted, account.in_flight) == (0, 0)
    # What was killed just after a checkpoint, with nothing on its way, has lost nothing.
    assert set(account.lost) <= {"collector killed", "replay restarted"}
    assert 0 <= account.lost.get("collector killed", 0) <= account.in_flight_bound
    assert account.begun == account.stored + sum(account.lost.values())
    assert account.drawn == account.learned + account.discarded + account.drained + account.prefetched
    assert account.prefetched >= 0

    # What the environments of the collectors themselves counted, each in a file.
    steps = resets = 0
    for path in (tmp_path / "tallies").iterdir():
        if int(path.name.split("-")[0]) in (first_collector, collector.pid) and path.stat().st_size:
            counted = np.frombuffer(path.read_bytes(), np.int64)
            steps, resets = steps + int(counted[0]), resets + int(counted[1]) - 1  # its first reset is no frame
    assert 0 <= steps - summary.environment_steps <= LANES, "of the step in which the collector was killed, at most"
    assert 0 <= steps + resets - account.begun <= LANES
    assert "traceback" not in run.output.read_text().lower()


@pytest.mark.slow
def test_one_of_two_replays_is_restarted_and_the_others_go_on(drilled: Callable[..., Drilled]) -> None:
    run = drilled("replay.shards=2", "collect.collectors=2")
    folders = [RunDirectory(run.run.shard(shard)) for shard in range(2)]
    wait(run, lambda: learns(run) and all(any(f.checkpoints.glob("0*")) for f in folders), "there are checkpoints")
    learner = only(run, "learner").pid
    replay = only(run, "replay")
    replay.kill()
    wait(run, lambda: len({p.pid for p in run.processes("replay")} - {replay.pid}) == 2, "it is there again")
    before = run.status()
    assert before is not None
    wait(run, lambda: collected(run) > before.environment_steps + 2_000, "collectors go on")
    wait(run, lambda: learns(run, before.gradient_steps + 400), "the learner goes on")
    assert only(run, "learner").pid == learner, "it waited for the replay"
    kill_and_await(run, "learner")
    before = run.status()
    assert before is not None
    wait(run, lambda: learns(run, before.gradient_steps), "another learner goes on with the replay that there is")
    summary = ended(run)
    account = summary.account
    assert account is not None
    assert (account.unaccounted, account.in_flight) == (0, 0)
    # What a collector could not hand over, as it had not reached the restarted server again, is named too.
    assert set(account.lost) <= {"replay restarted", "unconfirmed at the end", "collector fell silent"}
    assert account.begun == account.stored + sum(account.lost.values())
    assert summary.message == ""

    # Learner and replay go on from checkpoints of their own.
    run.start()
    wait(run, lambda: learns(run, summary.gradient_steps), "the resumed run learns")
    resumed = ended(run)
    assert resumed.account is not None
    assert resumed.account.unaccounted == 0
    assert resumed.account.stored > account.stored


@pytest.mark.slow
def test_what_the_end_of_a_run_waits_for_in_vain_is_said(drilled: Callable[..., Drilled]) -> None:
    run = drilled("stop.environment_steps=20000")
    wait(run, lambda: learns(run), "it learns")
    evaluator = only(run, "evaluator")
    evaluator.suspend()
    wait(run, lambda: (status := run.status()) is not None and status.phase == "evaluating", "the run ends")
    evaluator.kill()  # that no other process comes in its place is for its supervisor to say, and what then is missing
    assert run.supervisor is not None
    assert run.supervisor.wait(SECONDS) == 0, run.output.read_text()[-3000:]
    output = run.output.read_text()
    assert "evaluator was killed (SIGKILL)\nevaluator is not restarted: the run ends" in output, output
    assert "s for the last evaluation, in vain" in output, output


@pytest.mark.slow
def test_a_collector_that_hangs_is_restarted(drilled: Callable[..., Drilled], tmp_path: Path) -> None:
    run = drilled(*walk("Hanging", marker=str(tmp_path / "marker")), "collect.stall_seconds=2.0", "collect.lanes=4")
    words = "collector-0 has given no sign of life for 2 s and is restarted"
    wait(run, lambda: words in run.output.read_text(), "the one that hangs is restarted")
    before = collected(run)
    wait(run, lambda: learns(run) and collected(run) > before + 500, "another one collects")
    account = ended(run).account
    assert account is not None
    assert account.unaccounted == 0


@pytest.mark.slow
def test_a_collector_that_crashes_again_and_again_ends_the_run_with_its_last_words(
    drilled: Callable[..., Drilled],
) -> None:
    run = drilled(*walk("Leaving"), "collect.lanes=4")
    assert run.supervisor is not None
    assert run.supervisor.wait(SECONDS) == 1
    output = run.output.read_text()
    assert "collector-0 ended with exit code 7" in output
    assert "this environment leaves" in output
    assert "has failed 5 times in a row without progress" in output
    assert len(list(run.run.recorders.glob("collector-0.*"))) == 5


@pytest.mark.slow
def test_a_killed_supervisor_takes_all_with_it_and_the_run_goes_on(drilled: Callable[..., Drilled]) -> None:
    run = drilled()
    wait(run, lambda: learns(run) and run.saved() is not None, "there is a checkpoint")
    saved = run.saved()
    assert run.supervisor is not None
    assert saved is not None
    second = subprocess.run(
        [sys.executable, "-m", "pipeline.train", f"--run_dir={run.run.path}", "--resume"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (second.returncode, second.stderr.count("in use")) == (2, 1), "one run at a time"
    run.supervisor.kill()
    run.supervisor.wait()
    wait(run, lambda: not run.processes(), "nothing is left")
    run.start()
    wait(run, lambda: learns(run, saved.gradient_steps), "it goes on")
    summary = ended(run)
    assert summary.environment_steps > saved.environment_steps
    assert summary.account is not None
    assert summary.account.unaccounted == 0


@pytest.mark.slow
def test_a_frozen_learner_is_replaced(drilled: Callable[..., Drilled]) -> None:
    run = drilled("learner.silent_seconds=4.0")
    wait(run, lambda: learns(run) and run.saved() is not None, "there is a checkpoint")
    learner = only(run, "learner")
    learner.suspend()
    wait(run, lambda: not learner.is_running(), "the frozen process is ended")
    before = run.status()
    assert before is not None
    wait(run, lambda: learns(run, before.gradient_steps), "another one learns")
    account = ended(run).account
    assert account is not None
    assert account.unaccounted == 0


ON_POLICY = ("stop.environment_steps=0", "stop.target_return=1e9", "checkpoint.every_seconds=1.0", SMALL[1])


@pytest.mark.slow
def test_on_policy_both_sides_begin_anew_after_a_kill(drilled: Callable[..., Drilled]) -> None:
    run = drilled(config="cartpole_ppo", base=ON_POLICY)
    wait(run, lambda: learns(run, 20) and run.saved() is not None, "it learns")
    for role in ("collector", "learner", "collector"):
        kill_and_await(run, role)
        status = run.status()
        assert status is not None
        wait(run, lambda beyond=status.gradient_steps + 20: learns(run, beyond), "it goes on")  # type: ignore[misc]
    account = ended(run).account
    assert account is not None
    assert account.unaccounted == 0


@pytest.mark.slow
def table_of(run: Drilled) -> str:
    """Name of a run's table of experience."""
    experiment = run.run.experiment()
    return FrameLayout.of(experiment, environments.describe(experiment.environment)).table


def test_a_malformed_item_of_a_peer_is_passed_over(drilled: Callable[..., Drilled]) -> None:
    """The server takes what its signature forbids: who draws it throws the draw away, and says so."""
    port = free_port()
    run = drilled(f"replay.port={port}", 'replay.private="loopback"')
    wait(run, lambda: learns(run) and run.saved() is not None, "there is a checkpoint")
    learner = only(run, "learner")
    experiment = run.run.experiment()
    with socket.create_connection(("127.0.0.1", port), 10.0) as peer:
        peer.sendall(b"\x00garbage that is no HTTP/2" * 1000)
    for columns in STRANGE * 2:
        write_as_stranger(f"127.0.0.1:{port}", table_of(run), columns)
    wait(run, lambda: getattr(run.status(), "refused_draws", 0) > 0, "the learner has met such an item")
    before = run.status()
    assert before is not None
    assert any("draws of items that none of the run's roles has written" in warning for warning in before.warnings)
    wait(run, lambda: learns(run, before.gradient_steps + 100), "it goes on")
    assert only(run, "learner").pid == learner.pid
    summary = ended(run)
    assert summary.refused_draws >= before.refused_draws
    assert summary.account is not None
    strangers = len(STRANGE) * 2 * experiment.windows_per_item  # nobody has begun what is counted as stored
    assert -strangers <= summary.account.unaccounted <= 0


def test_a_malformed_item_on_policy_costs_one_restart(drilled: Callable[..., Drilled]) -> None:
    """What is drawn with it is what the round waits for, so the round begins anew."""
    port = free_port()
    run = drilled(f"replay.port={port}", 'replay.private="loopback"', config="cartpole_ppo", base=ON_POLICY)
    wait(run, lambda: learns(run) and run.saved() is not None, "there is a checkpoint")
    learner = only(run, "learner")
    write_as_stranger(f"127.0.0.1:{port}", table_of(run), STRANGE[0])
    wait(run, lambda: not learner.is_running(), "the learner has met the item")
    before = run.status()
    assert before is not None
    wait(run, lambda: learns(run, before.gradient_steps + 20), "another learner goes on")
    account = ended(run).account
    assert account is not None
    assert abs(account.unaccounted) <= run.run.experiment().windows_per_item, "a stranger's item is nobody's"
