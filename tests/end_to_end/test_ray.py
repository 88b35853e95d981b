"""Runs on a Ray cluster of several nodes, all on this machine: nodes come and go, actors are killed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from waiting import SECONDS

from pipeline.drill.faults import Drilled
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.results import Summary

pytest.importorskip("ray", reason="Ray is not installed: pip install .[ray]")

pytestmark = [
    pytest.mark.timeout(900),  # much waits for Ray, which waits for much
    pytest.mark.xdist_group("ray"),  # one cluster for all
]
ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    "learner.steps_per_call=8", 'learner.loop="plain"', "replay.min_size=128", "replay.samples_per_insert=4",
    "evaluation.episodes=2", "evaluation.every_steps=20000", "stop.target_return=1e9", "checkpoint.every_seconds=1.0",
    "replay.capacity=1000000",
)  # fmt: skip
OBJECT_BYTES = 80 * 2**20
STARTS = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head has room for learner, evaluator and one more role."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    add_node(cluster, num_cpus=3, include_dashboard=False)
    yield cluster
    cluster.shutdown()


def add_node(cluster: Any, num_cpus: int = 1, **arguments: Any) -> Any:
    """Starts a node, the head first; tries again where Ray's own processes gave up after 15 s, as on a busy machine."""
    for starts_left in reversed(range(STARTS)):
        try:
            return cluster.add_node(num_cpus=num_cpus, object_store_memory=OBJECT_BYTES, **arguments)
        except Exception as error:  # Ray has none of its own for this
            if "timed out during startup" not in str(error) or not starts_left:
                raise
    raise AssertionError("a node is tried once at least")


@pytest.fixture
def drilled(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Drilled]]:
    """Starts a run on the cluster, and sees that it leaves nothing behind."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}")
    runs: list[Drilled] = []

    def start(*overrides: str) -> Drilled:
        sets = (f"--set={line}" for line in (*SMALL, *overrides))
        flags = ["--config=cartpole", *sets, "--launcher=ray", f"--ray_address={cluster.address}"]
        runs.append(Drilled(RunDirectory(tmp_path / "run"), flags, [*flags, "--resume"]))
        runs[-1].start()
        return runs[-1]

    yield start
    for run in runs:
        if run.supervisor is not None:
            run.supervisor.kill()
            run.supervisor.wait()
        assert run.wait_until(lambda run=run: not roles(run) and not actors(), 30.0), (roles(run), actors())  # type: ignore[misc]


def roles(run: Drilled, role: str = "", index: int = 0) -> list[psutil.Process]:
    """Processes of the run's roles, on any node."""
    wanted = {f"--role={role}", f"--index={index}"} if role else set()
    folder = f"--run_dir={run.run.path}"
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(argument.startswith(folder) for argument in line) and wanted <= set(line) and "pipeline.role" in line:
            found.append(process)
    return found


def actors() -> list[psutil.Process]:
    """Actors of roles, on the nodes that this process has started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith("ray::Role") and process.status() != psutil.STATUS_ZOMBIE
    ]


def is_gone(run: Drilled, process: psutil.Process) -> bool:
    return process.pid not in {found.pid for found in roles(run)}  # its parent is gone too: it may be left a zombie


def wait(run: Drilled, holds: Callable[[], bool], what: str) -> None:
    assert run.wait_until(holds, SECONDS), f"waited {SECONDS} s until {what}\n{run.output.read_text()[-3000:]}"


def collected(run: Drilled) -> int:
    status = run.status()
    return status.environment_steps if status else 0


def learned(run: Drilled) -> int:
    status = run.status()
    return status.gradient_steps if status and status.phase == "learning" else 0


def goes_on(run: Drilled) -> None:
    before = collected(run), learned(run)
    wait(run, lambda: collected(run) > before[0] + 1_000 and learned(run) > before[1], "it collects and learns again")


def only(run: Drilled, role: str, index: int = 0) -> psutil.Process:
    (process,) = roles(run, role, index)
    return process


def kill_actor_and_await(run: Drilled, role: str) -> None:
    """Kills a role's actor; its process goes with it, and another comes in its place."""
    process = only(run, role)
    actor = process.parent()
    assert actor is not None
    assert actor.name().startswith("ray::Role")
    actor.kill()
    wait(
        run, lambda: [found.pid for found in roles(run, role)] not in ([], [process.pid]), f"the {role} is there again"
    )
    assert is_gone(run, process)


@pytest.mark.slow
def test_nodes_come_and_go_and_actors_are_killed(cluster: Any, drilled: Callable[..., Drilled]) -> None:
    run = drilled("collect.max_collectors=2", "stop.environment_steps=0")
    wait(run, lambda: learned(run) > 0 and run.saved() is not None, "there is a checkpoint")
    assert not roles(run, "collector", 1), "there is no room for it"

    node = add_node(cluster)
    wait(run, lambda: bool(roles(run, "collector", 1)), "the new node has a collector")
    newcomer = only(run, "collector", 1)
    assert (run.run.path / "collector-1" / "logs" / "collector-1.log").is_file()
    goes_on(run)

    cluster.remove_node(node, allow_graceful=False)
    wait(run, lambda: is_gone(run, newcomer), "its collector is gone with it")
    wait(run, lambda: "collector-1 is gone with" in run.output.read_text(), "that is said")
    goes_on(run)

    kill_actor_and_await(run, "collector")
    goes_on(run)

    saved = run.saved()
    assert saved is not None
    kill_actor_and_await(run, "learner")
    wait(run, lambda: learned(run) > saved.gradient_steps, "it learns again, from the checkpoint on")
    goes_on(run)

    node = add_node(cluster)
    wait(run, lambda: "collector-1 has been started again" in run.output.read_text(), "the next node has it")
    cluster.remove_node(node, allow_graceful=False)  # the run ends before Ray has missed it
    assert run.end() == 1, run.output.read_text()[-3000:]
    summary = msgspec.json.decode(run.run.summary.read_bytes(), type=Summary)
    assert summary.stop_reason == "interrupted"
    assert summary.account is not None
    assert summary.account.unaccounted == 0, summary
    output = run.output.read_text()
    for sentence in ("collector-0 was lost with its actor", "learner was lost with its actor"):
        assert sentence in output, output
    assert output.count("collector-1 is gone with") == 2, output


def test_a_run_with_its_replay_apart_ends_at_its_budget(cluster: Any, drilled: Callable[..., Drilled]) -> None:
    add_node(cluster)
    run = drilled("replay.shards=1", "stop.environment_steps=5000")
    assert run.supervisor is not None
    assert run.supervisor.wait(SECONDS) == 0, run.output.read_text()[-3000:]
    summary = msgspec.json.decode(run.run.summary.read_bytes(), type=Summary)
    assert summary.environment_steps >= 5_000
    assert summary.lost_transitions == 0
    assert "replay: OPEN" in run.output.read_text()
    assert list((run.run.shard(0) / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("address", "override", "words"),
    [("127.0.0.1:1", "seed=0", "no Ray cluster at '127.0.0.1:1'"), ("", "replay.shards=9", "need 11: start it with")],
)
def test_a_cluster_that_will_not_do_is_refused(
    cluster: Any, tmp_path: Path, address: str, override: str, words: str
) -> None:
    command = [sys.executable, "-m", "pipeline.train", "--config=cartpole", f"--run_dir={tmp_path / 'run'}"]
    command += ["--launcher=ray", f"--ray_address={address or cluster.address}", f"--set={override}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in result.stderr
    assert not (tmp_path / "run").exists()
