"""Roles that are started by hand, in any order and without a shared disk, and what becomes of them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import waiting
from one_after_another import refusals
from small_runs import inline
from waiting import SECONDS

import pipeline
from pipeline import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.contents import INTERRUPTED, TOLD_TO_LEAVE
from pipeline.messages.ports import free_port
from pipeline.records import checkpoint
from pipeline.records.results import Status, Summary

ROOT = Path(__file__).resolve().parent.parent.parent
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
            self._begin = log.tell()
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)

    def wait(self) -> int:
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended:\n{self.words()}") from None

    def text(self) -> str:
        """What this process has logged; one of the same name before it is in the file, too."""
        return self.log.read_bytes()[self._begin :].decode()

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
    waiting.wait_until(holds, what, lambda: "\n".join(f"{role.name}: {role.words()}" for role in roles))


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

    def warned() -> str:
        now = status(learner_dir)
        return " ".join(now.warnings) if now else ""

    wait_until(lambda: "shard 0 at " in warned(), "the status says who is waited for", learner)
    assert "learner.stall_seconds=" in warned()
    replays[0] = start("replay", flags, 0, f"--run_dir={replay_dir}", "--resume")
    wait_until(lambda: "resumed from" in replays[0].text(), "the shard goes on", replays[0])
    before = steps()
    wait_until(lambda: learns(before + 800), "the learner goes on with the restarted shard", learner)
    wait_until(lambda: "shard 0 at " not in warned(), "the status says so no longer", learner)
    replays[1].process.kill()
    replays[1].process.wait()
    wait_until(lambda: "shard 1 at " in warned(), "the status names the other shard", learner)
    before = steps()
    wait_until(lambda: learns(before + 800), "the learner draws from the shard that is there", learner)
    replays[1] = start("replay", flags, 1, f"--run_dir={tmp_path / 'replay-1'}", "--resume")
    wait_until(lambda: "shard 1 at " not in warned(), "the other shard is back", learner)
    learner.process.kill()
    learner.process.wait()
    learner = start("learner", flags, 0, f"--run_dir={learner_dir}", "--resume")
    wait_until(lambda: "resumed from" in learner.text(), "the learner has resumed", learner)
    wait_until(lambda: learns(before + 1_600), "the restarted learner learns", learner)
    collectors[0].process.kill()
    collectors[0].process.wait()
    collectors[0] = start("collector", flags, 0)
    wait_until(lambda: "environment steps" in collectors[0].text(), "it collects", collectors[0])
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
    assert list((tmp_path / "evaluator" / "policies").glob("*")), "the evaluator keeps policies where it runs, too"
    for shard in range(shards):
        assert list((tmp_path / f"replay-{shard}" / "checkpoints").glob("0*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "learners", "killed", "local_steps"),
    [
        ("cartpole_memory", 3, 1, 1),
        ("cartpole", 2, 0, 4),  # the chief
    ],
)
def test_learners_that_learn_together_go_on_when_one_is_killed_and_started_again(
    tmp_path: Path, start: Callable[..., Role], config: str, learners: int, killed: int, local_steps: int
) -> None:
    more = (
        "stop.environment_steps=1_000_000",
        "collect.collectors=1",
        "replay.prioritized=true",
        "evaluation.episodes=0",
        f"learner.local_steps={local_steps}",
    )
    flags = flags_of(*more, f"learner.batch_size={32 * learners}", config=config)
    learner_dir, addresses = tmp_path / "learner", [f"127.0.0.1:{free_port()}" for _ in range(learners)]
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

    team = [learner(index) for index in range(learners)]
    wait_until(lambda: learns() and saved() > 0, "they learn and the chief has written a checkpoint", *team)
    team[killed].process.kill()
    team[killed].process.wait()
    kept, at = saved(), [role.log.stat().st_size for role in team]
    team[killed] = learner(killed)
    restarts = [role for role in team if role is not team[killed]]
    wait_until(
        lambda: all(f"learner {killed} at" in role.log.read_text() for role in restarts),
        "the others have noticed",
        *team,
    )
    assert [role.process.poll() for role in team] == [None] * learners, "the same processes, as schedulers see them"
    wait_until(lambda: "resumed from" in team[0].log.read_text()[at[0] :], "the chief has resumed", *team)
    resumed = time.time()  # the status of before may be of more gradient steps than the checkpoint
    wait_until(lambda: learns(kept, resumed), "they go on", *team)
    team[-1].process.send_signal(signal.SIGTERM)
    assert [role.wait() for role in (*team, *others)] == [1, *[7] * (learners - 1), 7, 7], team[0].words()
    result = summary(learner_dir)
    assert result.stop_reason == "interrupted"
    assert result.gradient_steps > kept
    account = result.account
    assert account is not None
    assert account.unaccounted == 0
    assert account.learned == result.gradient_steps * 32 * learners, "by the chief for all of them"
    assert account.prefetched >= 0, "no more was learned from or thrown away than was drawn"
    assert account.drawn == account.learned + account.prefetched + account.discarded + account.drained
    weights = [role.log.read_text().rpartition(" with the weights ")[2].split()[0] for role in team]
    assert len(set(weights)) == 1, "all hold one network, optimizer and target included"


@pytest.mark.slow
def test_learners_that_learn_together_begin_with_the_weights_of_another_run(
    tmp_path: Path, start: Callable[..., Role]
) -> None:
    assert inline(tmp_path / "before", *SMALL, "stop.environment_steps=600", "evaluation.episodes=0") == 0
    more = (
        f"agent.initial_policy='{tmp_path / 'before'}'",
        "stop.gradient_steps=60",
        "replay.shards=2",
        "evaluation.episodes=0",
    )
    flags = flags_of(*more, shards=2)
    learner_dir, addresses = tmp_path / "learner", [f"127.0.0.1:{free_port()}" for _ in range(2)]
    others = [start("replay", flags, shard, f"--run_dir={tmp_path / f'replay-{shard}'}") for shard in range(2)]
    others.append(start("collector", flags))
    team = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        own = [f"--run_dir={learner_dir}"] if index == 0 else []
        team.append(start("learner", flags, index, *own, TF_CONFIG=json.dumps(task)))
    assert team[0].wait() == 0, team[0].words()
    assert [role.wait() for role in (team[1], *others)] == [0] * 4, team[1].words()
    assert f"begin with the weights of {tmp_path / 'before'}" in team[0].text()
    weights = [role.text().rpartition(" with the weights ")[2].split()[0] for role in team]
    assert len(set(weights)) == 1, "all began with them"
    result = summary(learner_dir)
    assert (result.stop_reason, result.started_anew) == ("gradient_steps", [])


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_learners_that_learn_together_share_a_dataset(tmp_path: Path, start: Callable[..., Role], shards: int) -> None:
    assert inline(tmp_path / "before", *SMALL, "stop.environment_steps=600", "evaluation.episodes=0") == 0
    more = (
        f"offline.dataset='{tmp_path / 'before'}'",
        "offline.share=0.75",
        "offline.share_final=0.25",
        "offline.share_decay_steps=160",
        "learner.batch_size=64",
        "collect.collectors=1",
        "agent.margin=0.8",
        "replay.prioritized=true",
        "stop.environment_steps=1_000_000",
        "evaluation.episodes=0",
    )
    flags = flags_of(*more, shards=shards)
    learner_dir, addresses = tmp_path / "learner", [f"127.0.0.1:{free_port()}" for _ in range(2)]
    others = [start("replay", flags, shard, f"--run_dir={tmp_path / f'replay-{shard}'}") for shard in range(shards)]
    others.append(start("collector", flags))

    def learner(index: int) -> Role:
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        own = [f"--run_dir={learner_dir}"] if index == 0 else []
        return start("learner", flags, index, "--resume", *own, TF_CONFIG=json.dumps(task))

    def steps() -> int:
        newest = checkpoint.newest(learner_dir / "checkpoints")
        return newest.counters.gradient_steps if newest else 0

    team = [learner(index) for index in range(2)]
    if shards > 1:
        wait_until(lambda: steps() > 80, "the chief has written a checkpoint", *team)
        team[1].process.kill()  # amid the decay: both begin anew
        team[1].process.wait()
        kept = steps()
        team[1] = learner(1)
        wait_until(lambda: steps() > max(400, kept + 80), "they go on", *team)
    else:
        wait_until(lambda: steps() > 400, "the chief has written a checkpoint behind the decay", *team)
    team[0].process.send_signal(signal.SIGTERM)
    assert [role.wait() for role in (*team, *others)] == [1, 7, *[7] * (shards + 1)], team[0].words() + team[1].words()
    result = summary(learner_dir)
    account = result.account
    assert account is not None
    assert account.unaccounted == 0
    assert account.learned == result.gradient_steps * 64, "by the chief for both"
    assert account.prefetched >= 0, "no more was learned from or thrown away than was drawn"
    assert account.drawn == account.learned + account.prefetched + account.discarded + account.drained
    # Of 32 windows of each learner 24 at first, 8 after 160 steps, and 8 gradient steps a call.
    of_calls = [int(32 * (0.75 - 0.5 * min(1.0, at / 160)) + 0.5) * 8 * 2 for at in range(0, result.gradient_steps, 8)]
    ahead = result.dataset_windows - sum(of_calls)  # of calls that the end let nobody learn from, by the chief alone
    assert ahead in range(0, 20 * 64 + 1, 64), (result.dataset_windows, sum(of_calls))
    weights = [role.log.read_text().rpartition(" with the weights ")[2].split()[0] for role in team]
    assert len(set(weights)) == 1, "all hold one network, optimizer and target included"
    assert (learner_dir / "dataset" / "dataset_priorities.npy").is_file()


def test_the_learners_process_can_be_the_replay_and_roles_of_another_experiment_take_no_part(
    tmp_path: Path, start: Callable[..., Role]
) -> None:
    flags = flags_of("stop.environment_steps=4000", "collect.collectors=1")
    learner = start("learner", flags, 0, "--embedded", f"--run_dir={tmp_path / 'learner'}")
    more = ["--set=agent.discount=0.5"], 0, f"--run_dir={tmp_path / 'other'}"
    for other in [start(role, [*flags, *more[0]], *more[1:]) for role in ("collector", "evaluator")]:
        assert other.wait() == 2
        assert "agent.discount=0.5 and the learner with 0.99: give all roles the same --config" in other.words()
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


def listens_to_notice(role: Role) -> bool:
    """Whether the process has a handler of SIGTERM by now, rather than ending by it."""
    caught = Path(f"/proc/{role.process.pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_roles_that_are_given_notice_are_to_be_started_again_and_lose_nothing(
    tmp_path: Path, start: Callable[..., Role]
) -> None:
    central, relay = "collect.inference='central'", f"127.0.0.1:{free_port()}"
    flags = flags_of("collect.report_seconds=1.0", "stop.environment_steps=0", "evaluation.images=false", shards=2)
    at = f"--set={central}", f"--inference=unix:{tmp_path / 'acting.sock'}"
    more: dict[str, tuple[str, ...]] = {
        **{f"replay-{shard}": (f"--run_dir={tmp_path / f'replay-{shard}'}", "--resume") for shard in range(2)},
        "collector-0": at,
        "collector-1": (f"--weights={relay}",),
        "evaluator-0": (),
        "relay-0": (f"--listen={relay}",),
        "inference-0": at,
        "learner-0": (f"--run_dir={tmp_path / 'learner'}", "--resume"),
    }
    roles: dict[str, Role] = {}

    def begin(*names: str) -> None:
        for name in names:
            role, _, index = name.partition("-")
            roles[name] = start(role, flags, int(index), *more[name])

    def give_notice(*names: str) -> None:
        for name in names:
            wait_until(lambda name=name: listens_to_notice(roles[name]), f"{name} listens", roles[name])  # type: ignore[misc]
            roles[name].process.send_signal(signal.SIGTERM)
        codes = {name: roles[name].wait() for name in names}
        assert codes == dict.fromkeys(names, INTERRUPTED), "0 would mean that the run has reached its stop condition"

    def goes_on(after: str) -> None:
        first = status(tmp_path / "learner")

        def both() -> bool:
            nonlocal first
            now = status(tmp_path / "learner")
            if first is None or now is None or not first.gradient_steps:
                first = now
                return False
            grown = now.environment_steps - first.environment_steps, now.gradient_steps - first.gradient_steps
            return grown > (1_000, 400) and grown[1] > 400

        wait_until(both, f"the run goes on after {after}", roles["learner-0"])

    others = [name for name in more if not name.startswith(("replay", "learner"))]
    begin(*others)
    give_notice(*others)  # while they wait for the replay, and for less than the 300 s of that
    begin(*more)
    goes_on("the start")
    give_notice(*others)
    begin(*others)
    goes_on("notice to all but the replay's servers")
    give_notice("replay-0", "replay-1")
    begin("replay-0", "replay-1")
    goes_on("notice to the replay's servers")
    give_notice("learner-0")
    left = {name: role.wait() for name, role in roles.items() if name != "learner-0"}
    assert left == dict.fromkeys(left, TOLD_TO_LEAVE), "the run may be resumed"
    account = summary(tmp_path / "learner").account
    assert account is not None
    assert account.unaccounted == account.in_flight == 0, account
    assert not any(account.lost.values()), account


def reading(module: str, *arguments: str, folder: Path) -> str:
    """What a reading command says, tried from another folder than the clone."""
    command = [sys.executable, "-m", f"pipeline.{module}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_learners_directory_is_the_runs(tmp_path: Path, start: Callable[..., Role]) -> None:
    overrides = "stop.environment_steps=1_000_000", "collect.collectors=1", "evaluation.every_steps=500"
    flags, run_dir, replay_dir = flags_of(*overrides), tmp_path / "learner", tmp_path / "replay"
    others = [start("collector", flags), start("replay", flags, 0, f"--run_dir={replay_dir}")]
    evaluator = start("evaluator", flags)
    stranger = start("collector", flags, 0, "--set=agent.discount=0.5")
    learner = start("learner", flags, 0, f"--run_dir={run_dir}")

    def evaluations() -> list[dict[str, Any]]:
        path = RunDirectory(run_dir).evaluations
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    wait_until(lambda: len(evaluations()) >= 3, "three evaluations have been made", learner, evaluator)
    assert stranger.wait() == 2
    evaluator.process.kill()
    evaluator.process.wait()
    made = len(evaluations())
    evaluator = start("evaluator", flags)  # on another host: it knows of none before
    wait_until(lambda: len(evaluations()) >= made + 3, "three more have been made", learner, evaluator)
    words = run_dir / "logs" / "evaluator.log"
    wait_until(lambda: "drew an episode" in words.read_text(), "the evaluator's log has come", learner, evaluator)
    assert pipeline.Run(run_dir).is_running
    learner.process.send_signal(signal.SIGTERM)
    assert [role.wait() for role in (learner, evaluator, *others)] == [1, 7, 7, 7], learner.words()

    found = evaluations()
    best = max(each["mean_return"] for each in found)
    before = [max([-1.0, *(each["mean_return"] for each in found[:place])]) for place in range(len(found))]
    assert [each["is_best"] for each in found] == [
        each["mean_return"] > least for each, least in zip(found, before, strict=True)
    ]
    assert pipeline.load_policy(run_dir).mean_return >= best, "the policy of a last evaluation may come without it"
    assert pipeline.load_policy(run_dir, policy="latest").gradient_steps >= found[-1]["gradient_steps"]
    assert len(pipeline.evaluate(run_dir, episodes=2).returns) == 2
    seen = pipeline.Run(run_dir)
    assert seen.config["environment"]["id"] == "CartPole-v1"
    assert seen.summary is not None
    assert seen.summary["evaluations"] == len(found)
    assert len(seen.checkpoints) > 0
    assert len(seen.curve().y) > 0
    for name, says in (
        ("learner", "evaluation: Evaluation("),
        ("evaluator", "drew an episode"),
        ("replay-0", "listens on port"),
        ("collector-0", "agent.discount=0.5 and the learner with"),
    ):
        assert says in (run_dir / "logs" / f"{name}.log").read_text(), name
    fault = "ended with exit code 2: this role was started with agent.discount=0.5"
    assert fault in (run_dir / "logs" / "learner.log").read_text()

    where = f"--run_dir={run_dir}"
    assert "mean evaluation return" in reading("status", where, folder=tmp_path)
    assert json.loads(reading("evaluate", where, "--episodes=2", folder=tmp_path).splitlines()[-1])["episodes"] == 2
    assert "return" in reading("play", where, folder=tmp_path)
    assert "interface.json" in reading("export", where, f"--out={tmp_path / 'model'}", folder=tmp_path)
    assert str(replay_dir) in reading("replay", "inspect", where, folder=tmp_path)
    out = f"--out={tmp_path / 'dataset'}"
    reading("replay", "export", where, "--format=tfrecord", out, folder=tmp_path)
    assert list((tmp_path / "dataset").iterdir())
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.serve", where, "--port=0"],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(" at ")[1].strip()
        request = urllib.request.Request(f"{url}:predict", json.dumps({"instances": [[0.1, 0, 0, 0]]}).encode())
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            assert "action" in json.load(answer)["predictions"][0]
    finally:
        server.terminate()
        server.wait(SECONDS)

    replay_dir.rename(tmp_path / "elsewhere")  # as seen from another host
    from pipeline.datasets import stored_replay  # it imports TensorFlow

    with pytest.raises(UsageError, match=f"{replay_dir} on .*copy it to {run_dir / 'replay-0'}"):
        stored_replay.read(run_dir)
    (tmp_path / "elsewhere").rename(run_dir / "replay-0")
    assert stored_replay.read(run_dir).windows > 0


def test_an_evaluator_leaves_the_directory_of_another_role_alone(tmp_path: Path, start: Callable[..., Role]) -> None:
    flags, folder = flags_of(), tmp_path / "run"
    run = RunDirectory(folder)
    run.lock()
    try:
        evaluator = start("evaluator", flags, 0, f"--run_dir={folder}")
        assert evaluator.wait() == 2
        assert "is in use by a run" in evaluator.words()
    finally:
        run.unlock()
    assert [path.name for path in folder.iterdir()] == [".lock"]


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
