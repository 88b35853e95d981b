"""Collectors of another host at the acting server, by mutual TLS: their actions stay the same, others stay out."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acting import SECONDS, Serving, asking
from hosts import needs_haproxy
from relay import Relay
from waiting import wait_until

from agents import ArraySpec, Specs, build
from pipeline.acting.central_words import Hello, packed
from pipeline.acting.network_program import convert, make_actor
from pipeline.experiment.config import parse
from pipeline.messages.contents import Array, Variables
from pipeline.security.certificate_authority import CLIENTS, INFERENCE, INFERENCE_HOST, OPERATOR, REPLAY, Authority
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import ClientSide, Credentials, InferenceSide

LANES = 4
SPECS = Specs({"camera": ArraySpec((8, 8, 1), "uint8", (255,))}, 2)
LINES = (
    "collect.inference='central'", f"collect.lanes={LANES}", "collect.collectors=4", "agent.kind='r2d2'",
    "agent.hidden_units=[8]", "agent.lstm_units=6", "replay.steps_per_item=1",
)  # fmt: skip
MARKER = b"CAN-YOU-READ-ME?"

pytestmark = needs_haproxy


@pytest.fixture(scope="module")
def experiment() -> Any:
    return parse("", LINES)


@pytest.fixture(scope="module")
def variables(experiment: Any) -> Variables:
    agent = build("r2d2", SPECS, experiment.agent)
    program = convert(agent.acting_model, SPECS, agent.noise_units + experiment.agent.state_units)
    random = np.random.default_rng(0)
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in agent.acting_model.weights]
    return Variables(1, 0, program=program, weights=tuple(map(Array.of, weights)))


@pytest.fixture
def start(certificates: Authority, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts a proxy, with the certificate of a role."""
    started: list[Proxy] = []

    def begin(make: Callable[..., Any], role: str, *others: Any, **more: Any) -> Proxy:
        side = make(Credentials(certificates.certificate, certificates.of(role)), *others, **more)
        started.append(Proxy(side, tmp_path / "log"))
        started[-1].start()
        return started[-1]

    yield begin
    for proxy in started:
        proxy.stop()


def port_of(proxy: Proxy) -> int:
    return int(proxy.address.rpartition(":")[2])


def client_of(start: Callable[..., Proxy], tmp_path: Path, port: int) -> Proxy:
    return start(
        ClientSide, "collector", tmp_path / "s", "localhost", 1, inference_host="localhost", inference_port=port
    )


def test_actions_are_those_of_acting_alone_whatever_is_killed_and_nobody_reads_them(
    experiment: Any, variables: Variables, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    """The server and each of the proxies are killed and come back; states go on as if nothing had been."""
    weights = [array.numpy() for array in variables.weights]
    own = make_actor(experiment.agent, SPECS, LANES, variables.program, weights)
    running, place = None, f"unix:{tmp_path / 'its place' / 'acting.sock'}"
    running = Serving(experiment, SPECS, variables, place)
    behind = start(InferenceSide, INFERENCE, "127.0.0.1", 0, running.address)
    network = Relay(port_of(behind))
    client = client_of(start, tmp_path, network.port)
    seen, draws = np.random.default_rng(0), (np.random.default_rng(1), np.random.default_rng(1))
    with asking(client.inference_address, experiment, SPECS, MARKER.decode()) as actor:
        for step in range(40):
            if step == 10:
                running.stop()
                running = Serving(experiment, SPECS, variables, place)
            if step in (20, 30):
                proxy = behind if step == 20 else client
                assert proxy._process is not None
                proxy._process.kill()
                wait_until(lambda proxy=proxy: proxy.poll() is not None, "the proxy has ended")  # type: ignore[misc]
                threading.Timer(0.3, proxy.start).start()
            observation = {"camera": seen.integers(0, 256, (LANES, 8, 8, 1), np.uint8)}
            begins = np.arange(LANES) == step % (2 * LANES)
            for each in (own, actor):
                experiment.agent.begin_states(each.state, begins, None)
            np.testing.assert_array_equal(actor.q_values(observation, draws[0]), own.q_values(observation, draws[1]))
            np.testing.assert_array_equal(actor.state, own.state)
    running.stop()
    assert len(network.passed) > 40 * LANES * 64, "all of it went that way"
    assert MARKER not in network.passed
    network.close()


def answer_to(port: int, certificates: Authority, role: str) -> bytes:
    """What the acting server says to whoever has this certificate; empty where nothing."""
    context = ssl.create_default_context(cafile=str(certificates.certificate))
    if role:
        context.load_cert_chain(certificates.of(role))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=INFERENCE_HOST) as connection,
        ):
            connection.sendall(packed(Hello("who", LANES)))
            return connection.recv(4)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_collectors_alone_reach_the_acting_server(
    experiment: Any, variables: Variables, start: Callable[..., Proxy], certificates: Authority, tmp_path: Path
) -> None:
    running = Serving(experiment, SPECS, variables, "127.0.0.1:0")
    port = port_of(start(InferenceSide, INFERENCE, "127.0.0.1", 0, running.address))
    for role in ("", REPLAY, INFERENCE, OPERATOR, *(role for role in CLIENTS if role != "collector")):
        assert answer_to(port, certificates, role) == b"", role
    assert not running.server._clients, "not even a connection has come there"
    assert answer_to(port, certificates, "collector") != b""
    wait_until(lambda: "learner acting server" in (tmp_path / "log").read_text(), "the log says who was refused")
    assert "evaluator acting server" in (tmp_path / "log").read_text()
    running.stop()


def test_a_collector_believes_the_acting_servers_certificate_alone(
    experiment: Any, variables: Variables, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    running = Serving(experiment, SPECS, variables, "127.0.0.1:0")
    posing = start(InferenceSide, REPLAY, "127.0.0.1", 0, running.address)
    proxy = client_of(start, tmp_path, port_of(posing))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(proxy.inference_address.removeprefix("unix:"))
        connection.sendall(packed(Hello("who", LANES)))
        assert connection.recv(4) == b""
    running.stop()
