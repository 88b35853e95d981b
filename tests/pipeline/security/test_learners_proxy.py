"""Learners of several on other hosts: their bytes pass by mutual TLS alone, and nobody else's get in."""

import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hosts import needs_haproxy
from relay import Relay
from waiting import SECONDS, wait_until

from pipeline.messages.ports import free_port
from pipeline.security import loopback
from pipeline.security.certificate_authority import PEERS, PEERS_HOST, ROLES, Authority
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import Credentials, PeersSide

ROOT = Path(__file__).resolve().parents[3]
TWO = "127.0.0.1:9100", "127.0.0.1:9101"
MARKER = b"CAN-YOU-READ-ME?"

pytestmark = needs_haproxy


class Echo(socketserver.BaseRequestHandler):
    """In the place of TensorFlow's server: says who it is, and what it was sent."""

    def handle(self) -> None:
        self.request.sendall(self.server.name)  # type: ignore[attr-defined]
        while words := self.request.recv(65_536):
            self.request.sendall(words)


class Learners(NamedTuple):
    """Two, each with its proxy, as on two hosts: a port on the one host is another's on the other."""

    proxies: list[Proxy]
    ways: list[tuple[int, bytes]]
    """By learner: the port on its own host under which it finds the other one, and what that one says."""
    network: Relay
    log: Path


@pytest.fixture
def learners(certificates: Authority, tmp_path: Path) -> Iterator[Learners]:
    yield from pair(certificates, PEERS, tmp_path)


def pair(certificates: Authority, role: str, tmp_path: Path) -> Iterator[Learners]:
    servers: list[Any] = []
    for name in (b"learner 0", b"learner 1"):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
        server.name = name  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    own = [server.server_address[1] for server in servers]
    others, log = [free_port(), free_port()], tmp_path / "log"
    credentials = Credentials(certificates.certificate, certificates.of(role))
    # The first one's calls go through a relay that keeps what passes.
    second = Proxy(
        PeersSide(credentials, "127.0.0.1", 0, 1, (others[1], own[1]), (("localhost", free_port()), ("localhost", 1))),
        log,
    )
    network = Relay(port_of(second))
    to_second = (("localhost", 1), ("localhost", network.port))
    first = Proxy(PeersSide(credentials, "127.0.0.1", 0, 0, (own[0], others[0]), to_second), log)
    for proxy in (first, second):
        proxy.start()
    yield Learners([first, second], [(others[0], b"learner 1"), (others[1], b"learner 0")], network, log)
    for proxy in (first, second):
        proxy.stop()
    network.close()
    for server in servers:
        server.shutdown()
        server.server_close()


def port_of(proxy: Proxy) -> int:
    return int(proxy.address.rpartition(":")[2])


def answer(port: int, words: bytes, least: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(words)
        found = b""
        while len(found) < least and (more := connection.recv(65_536)):
            found += more
        return found


def test_learners_find_each_other_though_proxies_are_killed_and_nobody_reads_them(learners: Learners) -> None:
    port, name = learners.ways[0]
    numbers = MARKER * 100_000
    assert answer(port, numbers, len(name) + len(numbers)) == name + numbers
    for proxy in learners.proxies:
        assert proxy._process is not None
        proxy._process.kill()
        wait_until(lambda proxy=proxy: proxy.poll() is not None, "the proxy has ended")  # type: ignore[misc]
        threading.Timer(0.3, proxy.start).start()
        assert answer(port, MARKER, len(name) + len(MARKER)) == name + MARKER, "who calls meanwhile waits"
    assert len(learners.network.passed) > len(numbers), "all of it went that way"
    assert MARKER not in learners.network.passed


def test_ports_of_the_others_are_of_this_machine_alone(learners: Learners) -> None:
    for port, _ in learners.ways:
        assert loopback.listeners(port) == ["127.0.0.1"]


def test_learners_certificates_alone_get_in(learners: Learners, certificates: Authority) -> None:
    def said(role: str) -> bytes:
        context = ssl.create_default_context(cafile=str(certificates.certificate))
        if role:
            context.load_cert_chain(certificates.of(role))
        try:
            with (
                socket.create_connection(("127.0.0.1", port_of(learners.proxies[1])), SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=PEERS_HOST) as connection,
            ):
                return connection.recv(9)
        except (ssl.SSLError, ConnectionError):
            return b""

    for role in ("", *ROLES):
        assert said(role) == (b"learner 1" if role == PEERS else b""), role
    wait_until(lambda: "evaluator learner:" in learners.log.read_text(), "the log says who was refused")


def test_nobody_else_can_pose_as_a_learner(certificates: Authority, tmp_path: Path) -> None:
    for posing in pair(certificates, "replay", tmp_path):
        assert answer(posing.ways[0][0], MARKER, 1) == b""


@pytest.mark.parametrize(
    ("workers", "flags", "words"),
    [
        ((), (), "TF_CONFIG is missing"),
        (TWO, (), "--learners= is not HOST:PORT"),
        (TWO, ("--learners=a:1",), "--learners has 1 addresses, and TF_CONFIG names 2"),
        ((TWO[0], "b:9101"), ("--learners=a:1,b:2",), "TF_CONFIG names b:9101: behind proxies each learner is"),
        (TWO, ("--learners=a:1,b:2",), "--certificates is missing"),
    ],
)
def test_mistakes_are_one_line(workers: tuple[str, ...], flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 0}}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(task) if workers else ""}
    command = [sys.executable, "-m", "pipeline.proxy", "--side=learners", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
