"""Runs whose checkpoints are kept in a real server of S3, which throttles, is cut off, and refuses; `make store`."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import object_stores
import psutil
import pytest
from aiohttp import web
from object_stores import BUCKET, KEYS, SERVER, Proxy
from small_runs import gradient_steps, start, summary, train
from waiting import wait_until

from pipeline.records.object_store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("object store"),
    pytest.mark.skipif(not SERVER.exists(), reason="no .store: `make store` creates it"),
]
SMALL = ("agent.hidden_units=[8]", "evaluation.episodes=4", "replay.capacity=20_000", "stop.target_return=1e9")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with object_stores.server(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(port)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdirs(BUCKET, exist_ok=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield proxy
    proxy.close()


def mirror(name: str) -> str:
    return f"checkpoint.mirror='s3://{BUCKET}/{name}'"


def is_upload(request: web.Request) -> bool:
    return request.method in ("PUT", "POST") and "/checkpoints/0" in request.path


def first(treatments: list[str]) -> Callable[[web.Request], str]:
    """Does these things with the first uploads of checkpoints, and passes what follows."""

    def treat(request: web.Request) -> str:
        return treatments.pop(0) if treatments and is_upload(request) else "pass"

    return treat


def test_a_run_goes_on_from_a_store_that_throttles_and_cuts(proxy: Proxy, tmp_path: Path) -> None:
    proxy.treat = first(["slow"] * 3 + ["cut"] * 8 + ["slow"] * 8)
    budget, run = "stop.environment_steps=20_000", tmp_path / "run"
    done = train(run, *SMALL, mirror("first"), budget, "checkpoint.every_seconds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    of_run = summary(run)
    assert of_run["mirrored_gradient_steps"] == of_run["gradient_steps"]
    assert json.loads((run / "mirror.json").read_text())["failed"] >= 1, "what the package itself does not try again"
    assert "could not be brought to" in done.stderr
    for path in run.rglob("*"):
        assert not path.is_file() or KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path
    again = train(tmp_path / "other", *SMALL, mirror("first"), budget)
    assert again.returncode == 2
    assert "holds checkpoints of a run already" in again.stderr
    assert not (tmp_path / "other").exists()
    resumed = train(tmp_path / "new", *SMALL, mirror("first"), "stop.environment_steps=40_000", flags=("--resume",))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"of s3://{BUCKET}/first" in resumed.stderr
    result = summary(tmp_path / "new")
    assert result["environment_steps"] >= 40_000
    assert result["gradient_steps"] > of_run["gradient_steps"]
    assert result["account"]["unaccounted"] == 0
    assert result["mirrored_gradient_steps"] == result["gradient_steps"]


def test_a_kill_in_the_middle_of_an_upload_costs_what_came_after_the_last_whole_checkpoint(
    proxy: Proxy, tmp_path: Path
) -> None:
    store = Store(f"s3://{BUCKET}/killed")
    held: list[str] = []  # numbers of checkpoints: the mirror may leave some out

    def treat(request: web.Request) -> str:
        """Holds what a checkpoint from the third on has behind its first file."""
        found = re.search(r"/checkpoints/(\d+)-", request.path)
        if not found or int(found[1]) < 3 or not is_upload(request) or "learner" in request.path:
            return "pass"
        held.append(found[1])
        return "hold"

    proxy.treat = treat
    settings = mirror("killed"), "checkpoint.every_seconds=1", "stop.environment_steps=1_000_000_000"
    process = start(tmp_path / "run", *SMALL, *settings)
    try:
        wait_until(lambda: held, "a checkpoint from the third on is on its way")
        before = gradient_steps(tmp_path / "run")
        wait_until(lambda: gradient_steps(tmp_path / "run") > before, "the learner goes on meanwhile")
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            os.kill(each.pid, signal.SIGKILL)
    process.communicate()
    proxy.treat = lambda request: "pass"
    assert held[0] not in {name.partition("-")[0] for name in store.checkpoints()}
    last = store.checkpoints()[0]
    flags = ("--resume", "--launcher=inline")
    resumed = train(tmp_path / "new", *SMALL, mirror("killed"), "stop.gradient_steps=1", flags=flags)
    assert f"fetched checkpoint {last} of" in resumed.stderr, resumed.stderr
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert summary(tmp_path / "new")["gradient_steps"] >= int(last.partition("-")[2])
    names = {name.partition("/")[0] for name in store._found("")}
    assert all(name in store.checkpoints() for name in names), "the part of a checkpoint is removed"


def test_a_store_that_cannot_be_used_is_refused_before_anything_is_written(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(place: str) -> str:
        flags = ("--launcher=inline",)
        done: Any = train(tmp_path / "run", f"checkpoint.mirror='{place}'", flags=flags)
        assert done.returncode == 2, done.stdout + done.stderr
        assert not (tmp_path / "run").exists()
        (line,) = done.stderr.splitlines()
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in line
        return str(line)

    assert "The specified bucket does not exist" in refused("s3://another/x")
    with object_stores.server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{strict}")
        assert "AWS Access Key Id you provided does not exist" in refused(f"s3://{BUCKET}/x")
    assert "Could not connect" in refused(f"s3://{BUCKET}/x")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "Unable to locate credentials" in refused(f"s3://{BUCKET}/x")
