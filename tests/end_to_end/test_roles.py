"""Roles that are started by hand, in any order and without a shared disk, and what becomes of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from one_after_another import refusals

from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records import checkpoint
from pipeline.records.results import Status, Summary

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 200.0
SMALL = (
    "learner.steps_per_call=8", 'learner.loop="plain"', "replay.min_size=128", "replay.samples_per_insert=4",
    "evaluation.episodes=2", "evaluation.every_steps=2000", "stop.target_return=1e9", "collect.collectors=2",
    "checkpoint.every_seconds=1.0", "collect.report_seconds=0.1",
)  # fmt: skip


class Role:
    """A role's process, as somebody starts it in a shell."""

    def __init__(
        self,
        folder: Path,
        role: str,
        flags: list[str],
        index: int = 0,
        *more: str,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.name, self.log = f"{role}-{index}", folder / f"{role}-{index}.log"
        command = [sys.executable, "-m", "pipeline.role", f"--role={role}", f"--index={index}", *flags, *more]
        with self.log.open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)

    def wait(self) -> int:
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended:\n{self.words()}") from None

    def words(self) -> str:
        return self.log.read_text()[-3000:]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Role]]:
    """Starts roles, and ends what is left of them."""
    roles: list[Role] = []

    def begin(role: str, flags: list[str], index: int = 0, *more: str, **variables: str) -> Role:
        roles.append(Role(tmp_path, role, flags, index, *more, variables=variables))
        return roles[-1]

    yield begin
    for role in roles:
        role.process.kill()
        role.process.wait()


def flags_of(*overrides: str, shards: int = 1, config: str = "cartpole", base: tuple[str, ...] = SMALL) -> list[str]:
    replay = ",".join(f"127.0.0.1:{free_port()}" for _ in range(shards))
    return [f"--config={config}", f"--replay={replay}", *(f"--set={line}" for line in (*base, *overrides))]


def status(run: Path) -> Status | None:
    path = RunDirectory(run).status
    return msgspec.json.decode(path.read_bytes(), type=Status) if path.exists() else None


def wait_until(holds: Callable[[], bool], what: str, *roles: Role) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        words = "\n".join(f"{role.name}: {role.words()}" for role in roles)
        assert time.monotonic() < deadline, f"waited {SECONDS:.0f} s until {what}\n{words}"
        time.sleep(0.1)


def summary(run: Path) -> Summary:
    return msgspec.json.decode(RunDirectory(run).summary.read_bytes(), type=Summary)


@pytest.mark.slow
def test_roles_find_each_other_in_any_order_and_outlive_each_other(tmp_path: Path, start: Callable[..., Role]) -> None:
    shards = 2  # learners that learn together have one
    flags = flags_of("stop.environment_steps=1_000_000", shards=shards)
    learner_dir, replay_dir = tmp_path / "learner", tmp_path / "replay-0"
    collectors = [start("collector", flags, index) for index in range(2)]
    evaluator = start("evaluator", flags, 0, f"--run_dir={tmp_path / 'evaluator'}")
    learner = start("learner", flags, 0, f"--run_dir={learner_dir}", "--resume")
    replays = [start("replay", flags, shard, f"--run_dir={tmp_path / f'replay-{shard}'}") for shard in range(shards)]

    def learns(beyond: int = 0) -> bool:
        now = status(learner_dir)
        return now is not None and now.phase == "learning" and now.gradient_steps > beyond

    def steps() -> int:
        now = status(learner_dir)
        return now.gradient_steps if now else 0

    def environment_steps() -> int:
        now = status(learner_dir)
        return now.environment_steps if now else 0

    wait_until(learns, "the learner learns", learner, *replays)
    wait_until(lambda: any((replay_dir / "checkpoints").glob("0*")), "a shard has written a checkpoint", replays[0])
    replays[0].process.kill()
    replays[0].process.wait()
    replays[0] = start("replay", flags, 0, f"--run_dir={replay_dir}", "--resume")
    wait_until(lambda: "resumed from" in replays[0].log.read_text(), "the shard goes on", replays[0])
    before = steps()
    wait_until(lambda: learns(before + 800), "the learner goes on with the restarted shard", learner)
    learner.process.kill()
    learner.process.wait()
    learner = start("learner", flags, 0, f"--run_dir={learner_dir}", "--resume")
    wait_until(lambda: "resumed from" in learner.log.read_text(), "the learner has resumed", learner)
    wait_until(lambda: learns(before + 1_600), "the restarted learner learns", learner)
    collectors[0].process.kill()
    collectors[0].process.wait()
    collectors[0] = start("collector", flags, 0)
    wait_until(lambda: "environment steps" in collectors[0].log.read_text().rpartition("role:")[2], "it collects")
    collected = environment_steps()
    wait_until(lambda: environment_steps() > collected + 500, "the learner hears of more", learner)
    learner.process.send_signal(signal.SIGTERM)
    assert learner.wait() == 1
    assert [role.wait() for role in (*collectors, evaluator, *replays)] == [7] * (3 + shards), "the run may be resumed"
    result = summary(learner_dir)
    assert result.stop_reason == "interrupted"
    account = result.account
    assert account is not None
    assert account.unaccounted == account.in_flight == 0, account
    assert set(account.lost) <= {"replay restarted", "collector fell silent"}
    assert account.begun == account.stored + sum(account.lost.values())
    assert list((tmp_path / "evaluator" / "policies").glob("*")), "the evaluator writes policies where it runs"
    for shard in range(shards):
        assert list((tmp_path / f"replay-{shard}" / "checkpoints").glob("0*"))


@pytest.mark.slow
def test_learners_that_learn_together_go_on_when_one_is_killed_and_started_again(
    tmp_path: Path, start: Callable[..., Role]
) -> None:
    flags = flags_of("stop.environment_steps=1_000_000", "collect.collectors=1", "replay.prioritized=true")
    learner_dir, addresses = tmp_path / "learner", [f"127.0.0.1:{free_port()}" for _ in range(2)]
    others = [start("collector", flags), start("replay", flags, 0, f"--run_dir={tmp_path / 'replay'}")]

    def learner(index: int) -> Role:
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        more = [f"--run_dir={learner_dir}"] if index == 0 else []
        return start("learner", flags, index, "--resume", *more, TF_CONFIG=json.dumps(task))

    def learns(beyond: int = 0, written_after: float = 0.0) -> bool:
        now = status(learner_dir)
        if now is None or (learner_dir / "status.json").stat().st_mtime <= written_after:
            return False
        return now.phase == "learning" and now.gradient_steps > beyond

    def saved() -> int:
        newest = checkpoint.newest(learner_dir / "checkpoints")
        return newest.counters.gradient_steps if newest else 0

    chief, second = learner(0), learner(1)
    wait_until(lambda: learns() and saved() > 0, "they learn and the chief has written a checkpoint", chief, second)
    second.process.kill()
    second.process.wait()
    kept = saved()
    second = learner(1)
    wait_until(lambda: "resumed from" in chief.log.read_text(), "the chief has started anew", chief, second)
    assert "learner 1 at" in chief.log.read_text()
    assert chief.process.poll() is None, "it is the same process, as its scheduler sees it"
    resumed = time.time()  # the status of before may be of more gradient steps than the checkpoint
    wait_until(lambda: learns(kept, resumed), "they go on", chief, second)
    second.process.send_signal(signal.SIGTERM)
    assert [role.wait() for role in (second, chief, *others)] == [7, 1, 7, 7], chief.words()
    result = summary(learner_dir)
    assert result.stop_reason == "interrupted"
    assert result.gradient_steps > kept
    assert result.account is not None
    assert result.account.unaccounted == 0
    assert result.account.prefetched >= 0, "no more was learned from or thrown away than was drawn"


def test_the_learners_process_can_be_the_replay_and_roles_of_another_experiment_take_no_part(
    tmp_path: Path, start: Callable[..., Role]
) -> None:
    flags = flags_of("stop.environment_steps=4000", "collect.collectors=1")
    learner = start("learner", flags, 0, "--embedded", f"--run_dir={tmp_path / 'learner'}")
    more = ["--set=agent.discount=0.5"], 0, f"--run_dir={tmp_path / 'other'}"
    for other in [start(role, [*flags, *more[0]], *more[1:]) for role in ("collector", "evaluator")]:
        assert other.wait() == 2
        assert "agent.discount=0.5 and the learner with 0.98: give all roles the same --config" in other.words()
    others = [start("collector", flags), start("evaluator", flags, 0, f"--run_dir={tmp_path / 'evaluator'}")]
    assert learner.wait() == 0, learner.words()
    assert [role.wait() for role in others] == [0, 0]
    result = summary(tmp_path / "learner")
    assert result.environment_steps >= 4000
    assert result.account is not None
    assert result.account.unaccounted == 0


@pytest.mark.slow
def test_a_relay_hands_the_publications_on(tmp_path: Path, start: Callable[..., Role]) -> None:
    flags = flags_of("stop.environment_steps=4000", "collect.collectors=1")
    relay_address = f"127.0.0.1:{free_port()}"
    relay = start("relay", flags, 0, f"--listen={relay_address}")
    collector = start("collector", flags, 0, f"--weights={relay_address}")
    learner = start("learner", flags, 0, "--embedded", f"--run_dir={tmp_path / 'learner'}")
    evaluator = start("evaluator", flags, 0, f"--weights={relay_address}", f"--run_dir={tmp_path / 'evaluator'}")
    assert learner.wait() == 0, learner.words()
    assert [role.wait() for role in (collector, evaluator)] == [0, 0]
    relay.process.terminate()
    assert relay.wait() == 0


REFUSED: list[tuple[list[str], str]] = [
    ([], "--role is missing"),
    (["--role=collector"], "--replay is missing for --role=collector"),
    (["--role=collector", "--replay=here"], "'here' is not host:port"),
    (["--role=collector", "--replay=a:1,a:1"], "names an address twice"),
    (["--role=collector", "--replay=a:1"], "--config is missing"),
    (["--role=collector", "--replay=a:1", "--config=cartpole", "--index=7"], "numbered from 0"),
    (
        ["--role=collector", "--replay=a:1", "--config=cartpole", "--metrics=here"],
        "--metrics=here is neither host:port",
    ),
    (
        ["--role=collector", "--replay=a:1", "--config=cartpole", "--metrics=203.0.113.1:1"],
        "--metrics=203.0.113.1:1: cannot listen on 203.0.113.1:1",
    ),
    (["--role=collector", "--replay=a:1", "--config=cartpole", "--log_format=xml"], "--log_format=xml"),
    (
        ["--role=collector", "--replay=a:1", "--config=cartpole", "--index=7", "--set=collect.max_collectors=7"],
        "there are 7 collect.max_collectors",
    ),
    (
        ["--role=replay", "--replay=a:1,b:1", "--config=cartpole", "--index=2", "--run_dir=r"],
        "there are 2 --replay addresses",
    ),
    (["--role=replay", "--replay=a:1", "--config=cartpole"], "--run_dir is missing for --role=replay"),
    (["--role=replay", "--replay=unix:/x", "--config=cartpole", "--run_dir=r"], "a server cannot listen at"),
    (["--role=relay", "--replay=a:1", "--config=cartpole"], "--listen is missing"),
    (["--role=learner", "--replay=a:1,b:1", "--embedded", "--config=cartpole"], "--embedded is one server"),
    (["--role=learner", "--replay=a:1", "--config=cartpole", "--set=replay.shards=2"], "--replay has 1 addresses"),
    (["--role=learner", "--replay=a:1,b:1", "--config=cartpole_ppo"], "set replay.shards=1"),
    (["--role=learner", "--replay=a:1", "--config=cartpole", "more"], "unexpected argument 'more'"),
]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    refusals("role", REFUSED, folder=tmp_path)
    assert not list(tmp_path.iterdir())
