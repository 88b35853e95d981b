"""Whole runs that keep others out of their replay, or say that they do not."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import outsiders
import psutil
import pytest
from outsiders import AS_NOBODY, NOBODY, attempt, can, unprivileged
from waiting import SECONDS, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
SHRUNK = (
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.images=false",
    "evaluation.every_steps=500",
    "stop.environment_steps=0",
    "stop.target_return=1e9",
    "collect.collectors=1",
)
BRIEF = (*SHRUNK, "stop.gradient_steps=400")
REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"
LISTENS = re.compile(
    r"the replay listens on (?P<at>.*), port (?P<port>\d+); network interfaces here: (?P<interfaces>.*)"
)
ISOLATED = "in a network namespace of the run's own"

needs_namespaces = pytest.mark.skipif(
    not can(*unprivileged("unshare", "--user", "--net", "true")), reason="this kernel lets no user make namespaces"
)


def command(run_dir: Path, *overrides: str, flags: tuple[str, ...] = ()) -> list[str]:
    sets = [f"--set={line}" for line in overrides]
    return [sys.executable, "-m", "pipeline.train", "--config=cartpole", f"--run_dir={run_dir}", *sets, *flags]


def environment(*first: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*first, ROOT, ROOT / "tests" / "support")))}


def finish(arguments: list[str], *libraries: Path) -> Any:
    return subprocess.run(arguments, capture_output=True, text=True, env=environment(*libraries), check=False, cwd=ROOT)


def seen_by_the_learner(run_dir: Path) -> Any:
    """What the learner's log says of its server."""
    log = run_dir / "logs" / "learner.log"
    deadline = time.monotonic() + SECONDS
    while not (found := LISTENS.search(log.read_text() if log.exists() else "")):
        assert time.monotonic() < deadline, "the learner has started its server"
        time.sleep(0.1)
    return found


def processes_of(run_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if f"--run_dir={run_dir}" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    yield path
    wait_until(lambda: not processes_of(path), "all processes of the run have ended")


@pytest.fixture
def run_dir_of_nobody() -> Iterator[Path]:
    """A run directory where an unprivileged user may write; pytest's own are closed to all but who runs it."""
    folder = Path(tempfile.mkdtemp(prefix="unprivileged-", dir="/tmp"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    yield folder / "run"
    wait_until(lambda: not processes_of(folder / "run"), "all processes of the run have ended")
    shutil.rmtree(folder)


def out_of_namespaces(*rest: str) -> list[str]:
    """The rest as a command where the kernel grants no more namespaces."""
    limits = "".join(f"echo 0 > /proc/sys/user/max_{kind}_namespaces; " for kind in ("user", "net"))
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", f'set -e; {limits} exec "$@"', "sh"]
    if not can(*prefix, "true"):
        pytest.skip("the limits are set in a user namespace, which cannot be made here")
    return [*prefix, *rest]


@needs_namespaces
def test_an_unprivileged_run_is_out_of_everyones_reach(run_dir_of_nobody: Path) -> None:
    run_dir = run_dir_of_nobody
    flags = ("--require_private",)
    arguments = unprivileged(*command(run_dir, *BRIEF, "stop.gradient_steps=2000", flags=flags))
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=ROOT
    )
    try:
        found = seen_by_the_learner(run_dir)
        assert (found["at"], found["interfaces"]) == ("127.0.0.1", "lo")
        port = int(found["port"])
        assert attempt("127.0.0.1", port) == REFUSED
        if os.geteuid() == 0:
            assert attempt("127.0.0.1", port, before=AS_NOBODY) == REFUSED, "not by the same user either, from outside"
    finally:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert ISOLATED in output
    assert output.count("replay: ") == 1
    assert 'private = "namespace"' in (run_dir / "config.toml").read_text(), "a resumed run demands it, too"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["gradient_steps"] >= 2000
    assert summary["mean_return"] is not None
    status = json.loads((run_dir / "status.json").read_text())
    assert status["resident_bytes"]["supervisor"] > 0, "the learner has looked at its parent's memory"
    owner = run_dir.stat().st_uid
    assert owner != 0
    assert {path.stat().st_uid for path in run_dir.rglob("*")} == {owner}


@needs_namespaces
@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing_running_in_its_namespace(run_dir_of_nobody: Path) -> None:
    run_dir = run_dir_of_nobody
    process = subprocess.Popen(
        unprivileged(*command(run_dir, *SHRUNK)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=ROOT,
    )
    assert seen_by_the_learner(run_dir)["interfaces"] == "lo"
    assert len(processes_of(run_dir)) > 3
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(run_dir), "the roles have died with their supervisor")


@needs_namespaces
@pytest.mark.slow
def test_a_collector_that_is_restarted_is_where_the_replay_is(run_dir_of_nobody: Path) -> None:
    run_dir = run_dir_of_nobody
    process = subprocess.Popen(
        unprivileged(*command(run_dir, *SHRUNK)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=ROOT,
    )
    try:
        wait_until(lambda: gradient_steps(run_dir) > 100, "the run learns")
        (first,) = collectors_once_inside(run_dir, without=())
        network = os.readlink(f"/proc/{first.pid}/ns/net")
        assert network != os.readlink("/proc/self/ns/net")
        first.kill()
        (second,) = collectors_once_inside(run_dir, without=(first.pid,))
        assert os.readlink(f"/proc/{second.pid}/ns/net") == network
        # Far more than what the first had stored allows, at the ratio of samples to inserts.
        further = gradient_steps(run_dir) + 5_000
        wait_until(lambda: gradient_steps(run_dir) > further, "the run learns from what the second collects")
    finally:
        process.terminate()
        process.wait(120)
    assert json.loads((run_dir / "summary.json").read_text())["stop_reason"] == "interrupted"


def gradient_steps(run_dir: Path) -> int:
    try:
        return int(json.loads((run_dir / "status.json").read_text())["gradient_steps"])
    except FileNotFoundError:
        return 0


def collectors_once_inside(run_dir: Path, without: tuple[int, ...]) -> list[psutil.Process]:
    """The collectors that run, once one does whose process has entered the namespace and become the role."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = [
            process
            for process in processes_of(run_dir)
            if process.pid not in without
            and "--role=collector" in process.cmdline()
            and not any(argument.endswith("namespace.py") for argument in process.cmdline())
        ]
        return bool(found)

    wait_until(is_there, "a collector has started")
    return found


@pytest.mark.slow
def test_a_run_without_namespaces_says_who_can_reach_it(run_dir: Path) -> None:
    result = finish(out_of_namespaces(*command(run_dir, *BRIEF, flags=("--require_private",))))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no other machine reaches it, but other users of this one do" in result.stdout
    assert seen_by_the_learner(run_dir)["at"] == "127.0.0.1"


def test_a_run_that_cannot_be_private_is_refused_if_it_has_to_be(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    outsiders.library_without_entry(tmp_path / "library")
    arguments = out_of_namespaces(*command(run_dir, *BRIEF, flags=("--require_private",)))
    result = finish(arguments, tmp_path / "library")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: --require_private cannot be kept here: ")
    assert "no network namespace" in result.stderr
    assert "offset table" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not run_dir.exists()


@pytest.mark.slow
def test_a_run_that_is_open_says_so_loudly(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    outsiders.library_without_entry(tmp_path / "library")
    result = finish(out_of_namespaces(*command(run_dir, *BRIEF)), tmp_path / "library")
    assert result.returncode == 0, result.stdout + result.stderr
    (said,) = re.findall(r"OPEN to everyone who reaches port (\d+) .* firewall", result.stdout)
    (logged,) = re.findall(r"WARNING .* listens on ::, port (\d+); .*: OPEN to whoever", log_of(run_dir))
    assert said == logged


def log_of(run_dir: Path) -> str:
    return (run_dir / "logs" / "learner.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("private", ["off", "loopback"])
def test_a_run_takes_the_measure_that_it_is_told(run_dir: Path, private: str) -> None:
    result = finish(command(run_dir, *BRIEF, f"replay.private={private!r}"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert seen_by_the_learner(run_dir)["at"] == {"off": "::", "loopback": "127.0.0.1"}[private]
    assert {"off": "OPEN", "loopback": "127.0.0.1:"}[private] in result.stdout
    again = finish(command(run_dir, *BRIEF, "stop.gradient_steps=500", flags=("--resume",)))
    assert again.returncode == 0, again.stdout + again.stderr
    assert ISOLATED in again.stdout or "127.0.0.1" in again.stdout, "a resumed run may take another"


@pytest.mark.slow
def test_an_inline_run_listens_on_the_loopback_address(run_dir: Path) -> None:
    code = """
import logging, sys
import pipeline

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
summary = pipeline.train(pipeline.load("cartpole", tuple(sys.argv[2:])), sys.argv[1], launcher="inline",
                         require_private=True)
print(summary.gradient_steps)
"""
    result = finish([sys.executable, "-c", code, str(run_dir), *BRIEF])
    assert result.returncode == 0, result.stdout + result.stderr
    assert LISTENS.search(result.stdout)["at"] == "127.0.0.1"
    assert result.stdout.splitlines()[-1] == "400"


@pytest.mark.slow
def test_a_program_that_trains_stays_in_its_own_network(run_dir: Path) -> None:
    code = """
import os, sys
import pipeline

def here():
    kinds = ("net", "user")
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds], len(os.listdir("/proc/self/fd"))

before = here()
pipeline.train(pipeline.load("cartpole", tuple(sys.argv[2:])), sys.argv[1])
assert here() == before, (before, here())
"""
    result = finish([sys.executable, "-c", code, str(run_dir), *BRIEF])
    assert result.returncode == 0, result.stdout + result.stderr
