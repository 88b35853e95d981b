"""A policy over HTTP: the real command, and requests as clients of TensorFlow Serving send them."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from untrained import untrained_run
from waiting import SECONDS

from pipeline.export import directory
from pipeline.export.directory import ExportedPolicy
from pipeline.export.served_policy import ServedPolicy

pytestmark = pytest.mark.xdist_group("serve")  # one server for all
ROOT = Path(__file__).resolve().parent.parent.parent
PREDICT = "/v1/models/policy:predict"


class Server(NamedTuple):
    process: "subprocess.Popen[str]"
    port: int
    policy: ExportedPolicy
    run_dir: Path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}


def start(*flags: str) -> tuple["subprocess.Popen[str]", int]:
    """The command, once it says that it listens."""
    line = [sys.executable, "-m", "pipeline.serve", "--port=0", *flags]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment())
    assert process.stdout is not None
    said = process.stdout.readline()
    assert " at http://127.0.0.1:" in said, said + "".join(process.stderr or ())
    return process, int(said.rpartition(":")[2].partition("/")[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves a dict of observations with categories from 1, masks by the environment, and a stack of two."""
    run = tmp_path_factory.mktemp("serve") / "run"
    arguments = "environment.kwargs={kind='dict', masks=true}"
    path = "environment.import_path='environments_for_tests:Observing'"
    untrained_run(run, "environment.id=''", path, arguments, "environment.frame_stack=2", "agent.hidden_units=[8]")
    process, port = start(f"--run_dir={run}")
    yield Server(process, port, directory.of_run(run, "best"), run)
    process.terminate()
    assert process.wait(SECONDS) == 0


def ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def inputs_of(rows: int) -> dict[str, Any]:
    random = np.random.default_rng(rows)
    mask = random.random((rows, 2)) < 0.5
    mask[:, 0] |= ~mask[:, 1]
    return {
        "speed": random.uniform(-1.0, 1.0, (rows, 4)).astype(np.float32),
        "gear": random.integers(1, 6, (rows, 2)),
        "action_mask": mask,
    }


def columns(rows: int) -> dict[str, Any]:
    return {name: array.tolist() for name, array in inputs_of(rows).items()}


def rows_of(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_rows_and_columns_are_answered_alike(server: Server, rows: int) -> None:
    wanted = {name: array.tolist() for name, array in ServedPolicy(server.policy).act(inputs_of(rows)).items()}
    assert ask(server, "POST", PREDICT, {"inputs": columns(rows)}) == (200, {"outputs": wanted})
    by_row = {"signature_name": "serving_default", "instances": rows_of(columns(rows))}
    assert ask(server, "POST", PREDICT, by_row) == (200, {"predictions": rows_of(wanted)})


def test_it_says_what_it_is(server: Server) -> None:
    status, said = ask(server, "GET", "/v1/models/policy")
    assert (status, said["model_version_status"][0]["state"]) == (200, "AVAILABLE")
    status, said = ask(server, "GET", "/v1/models/policy/metadata")
    signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert status == 200
    assert set(signature["inputs"]) == {"speed", "gear", "action_mask"}
    assert signature["inputs"]["gear"]["dtype"] == "DT_INT64"
    assert [each["size"] for each in signature["inputs"]["speed"]["tensor_shape"]["dim"]] == ["-1", "4"]
    assert set(signature["outputs"]) == {"action", "q_values"}


def changed(**values: Any) -> dict[str, Any]:
    return {"inputs": {name: value for name, value in {**columns(2), **values}.items() if value is not None}}


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"{", "not a predict request"),
        (b"\xff", "not a predict request"),
        (b"[]", "not a predict request"),
        ({}, "either 'instances' or 'inputs'"),
        ({"instances": [1], "inputs": [1]}, "either 'instances' or 'inputs'"),
        ({"instances": []}, "at least one"),
        ({"instances": {}}, "at least one"),
        ({"instances": [[1.0]]}, "name the inputs"),
        ({"instances": [{"speed": [0.0] * 4}, {"gear": [1, 1]}]}, "the same inputs"),
        ({"inputs": {}, "signature_name": "other"}, "no signature 'other'"),
        (changed(speed=None), "input 'speed' is missing"),
        (changed(action_mask=None), "input 'action_mask' is missing"),
        (changed(color=[1]), "no input 'color'"),
        (changed(speed=[[0.0] * 3] * 2), "shape [B, 4], not [2, 3]"),
        (changed(speed=1.0), "shape [B, 4], not []"),
        (changed(speed=[[0.0] * 4, [0.0]]), "ragged"),
        (changed(speed=[["fast"] * 4] * 2), "must be float32"),
        (changed(speed=[[1e39] * 4] * 2), "float32's range"),
        (changed(gear=[[0, 1]] * 2), "from 1 to 5"),
        (changed(gear=[[1.5, 1]] * 2), "must be int64"),
        (changed(gear=[[1, 10**30]] * 2), "must be int64"),
        (changed(action_mask=[[2, 1]] * 2), "from 0 to 1"),
        (changed(action_mask=[[True, False], [False, False]]), "row 1: no action is allowed"),
        (changed(speed=[[0.0] * 4] * 3), "different batch sizes"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server: Server, body: Any, part: str) -> None:
    status, said = ask(server, "POST", PREDICT, body)
    assert (status, part in said["error"]) == (400, True), said
    assert "\n" not in said["error"]


def test_what_is_not_there_is_said(server: Server) -> None:
    assert ask(server, "POST", "/v1/models/other:predict", {})[0] == 404
    assert ask(server, "GET", PREDICT)[0] == 405
    assert ask(server, "POST", PREDICT, {"inputs": columns(1)})[0] == 200  # none of it did any harm


def test_an_exported_policy_is_served_too(server: Server, tmp_path: Path) -> None:
    directory.write(directory.origin(server.run_dir, "best"), tmp_path / "out")
    process, port = start(f"--model={tmp_path / 'out'}")
    asked = {"inputs": columns(3)}
    assert ask(server._replace(port=port), "POST", PREDICT, asked) == ask(server, "POST", PREDICT, asked)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    assert process.communicate()[1].count("Traceback") == 0


def test_what_cannot_be_served_is_one_line(server: Server, tmp_path: Path) -> None:
    run = f"--run_dir={server.run_dir}"
    for flags, part in [
        ((), "give either --model"),
        ((run, f"--model={tmp_path}"), "give either --model"),
        ((f"--model={tmp_path}",), "holds no exported policy"),
        ((run, "--policy=latest"), "no policy in"),
        ((run, f"--port={server.port}"), f"port {server.port} is in use"),
        ((run, "--host=no.such.host.invalid"), "--host=no.such.host.invalid"),
    ]:
        line = [sys.executable, "-m", "pipeline.serve", "--port=0", *flags]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
        assert (done.returncode, part in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not done.stdout
