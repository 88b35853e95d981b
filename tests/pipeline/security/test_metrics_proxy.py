"""What roles serve at sockets, shown to operators by mutual TLS: who reads it, and that nobody does anything else."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from hosts import needs_haproxy

from pipeline.messages import listening
from pipeline.messages.pages import Page, Pages
from pipeline.security.certificate_authority import (
    CLIENTS,
    INFERENCE,
    INFERENCE_HOST,
    METRICS,
    METRICS_HOST,
    OPERATOR,
    PEERS,
    PEERS_HOST,
    REPLAY,
    ROLES,
    Authority,
)
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import Credentials, MetricsSide, ServerSide

SECONDS = 30.0

pytestmark = needs_haproxy


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, certificates: Authority) -> Iterator[Proxy]:
    """A proxy of two roles, of which one is there."""
    folder = tmp_path_factory.mktemp("its sockets")
    pages = Pages(
        listening.at(f"unix:{folder / 'collector-0.sock'}", "--metrics"),
        {
            "/metrics": lambda: Page("a_number 1\n"),
            "/healthz": lambda: Page("it hangs\n", 503),
            "/x": lambda: Page(""),
        },
    )
    side = MetricsSide(
        Credentials(certificates.certificate, certificates.of(METRICS)),
        "127.0.0.1", 0, folder, ("collector-0", "collector-1"),
    )  # fmt: skip
    proxy = Proxy(side, folder / "log")
    proxy.start()
    yield proxy
    proxy.stop()
    pages.close()


def ask(
    proxy: Proxy, made: Authority, role: str, path: str, method: str = "GET", host: str = METRICS_HOST
) -> tuple[int, str]:
    """Status and body; ssl.SSLError where the two do not believe each other."""
    context = ssl.create_default_context(cafile=str(made.certificate))
    if role:
        context.load_cert_chain(made.of(role))
    address, _, port = proxy.address.rpartition(":")
    with (
        socket.create_connection((address, int(port)), SECONDS) as raw,
        context.wrap_socket(raw, server_hostname=host) as client,
    ):
        client.sendall(f"{method} {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


def test_an_operator_reads_what_a_role_serves(shown: Proxy, certificates: Authority) -> None:
    assert ask(shown, certificates, OPERATOR, "/collector-0/metrics") == (200, "a_number 1\n")
    assert ask(shown, certificates, OPERATOR, "/collector-0/healthz") == (503, "it hangs\n")
    assert ask(shown, certificates, OPERATOR, "/collector-1/metrics")[0] == 503, "it is not there"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/collector-0/metrics"),
        ("GET", "/collector-0/x"),
        ("GET", "/collector-2/metrics"),
        ("GET", "/metrics"),
        ("GET", "/collector-0/../collector-0/metrics"),
        ("GET", "/collector-0//metrics"),
        ("GET", "/collector-0/%6detrics"),
    ],
)
def test_and_nothing_else(method: str, path: str, shown: Proxy, certificates: Authority) -> None:
    assert ask(shown, certificates, OPERATOR, path, method)[0] == 403


@pytest.mark.parametrize("role", CLIENTS)
def test_other_roles_read_nothing(role: str, shown: Proxy, certificates: Authority) -> None:
    assert ask(shown, certificates, role, "/collector-0/metrics")[0] == 403


@pytest.mark.parametrize("role", ["", REPLAY, METRICS])
def test_whoever_has_no_clients_certificate_has_no_answer(role: str, shown: Proxy, certificates: Authority) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(shown, certificates, role, "/collector-0/metrics")


def test_the_certificate_of_metrics_is_no_hosts(shown: Proxy, certificates: Authority, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
        ask(shown, certificates, OPERATOR, "/collector-0/metrics", host="localhost")
    names = {}
    for role in ROLES:
        certificate = x509.load_pem_x509_certificate(certificates.of(role).read_bytes())
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names[role] = set(found.get_values_for_type(x509.DNSName))
        except x509.ExtensionNotFound:
            continue
    own = {METRICS: {METRICS_HOST}, INFERENCE: {INFERENCE_HOST}, PEERS: {PEERS_HOST}}
    assert names == {REPLAY: {"localhost", "127.0.0.1"}, **own}


def test_an_operator_calls_nothing_of_a_replay(certificates: Authority, tmp_path: Path) -> None:
    credentials = Credentials(certificates.certificate, certificates.of(REPLAY))
    proxy = Proxy(ServerSide(credentials, "127.0.0.1", 0, 1, 1), tmp_path / "log")
    try:
        proxy.start()
        context = ssl.create_default_context(cafile=str(certificates.certificate))
        context.load_cert_chain(certificates.of(OPERATOR))
        context.set_alpn_protocols(["h2"])
        address, _, port = proxy.address.rpartition(":")
        with (
            socket.create_connection((address, int(port)), SECONDS) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            settings, headers = bytes.fromhex("000000040000000000"), post("/deepmind.reverb.ReverbService/ServerInfo")
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + headers)
            answer = b""
            while b"\x88" not in answer and b"403" not in answer and (piece := client.recv(4096)):
                answer += piece
        assert b"403" in answer
    finally:
        proxy.stop()


def post(path: str) -> bytes:
    """The headers of a request of HTTP/2, none of them compressed."""

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    fields = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "x"}
    block = b"".join(literal(name, value) for name, value in fields.items())
    return len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
