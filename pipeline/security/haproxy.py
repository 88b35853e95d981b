"""Mutual TLS between hosts: haproxy beside each role, its configuration made from typed structs. No TensorFlow.

Reverb knows neither encryption nor users. On the replay's host a proxy takes TLS 1.3 connections of those who have a
certificate of the run's authority, looks at the certificate's role and at the gRPC method, and passes what the role may
call on to Reverb in clear on the loopback interface. On the other hosts a proxy listens on sockets that only its user
can open, for the host's roles, and connects to that one.
"""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.experiment.config import UsageError
from pipeline.messages import listening
from pipeline.messages.dead_connections import SILENT_SECONDS
from pipeline.security.certificate_authority import CLIENTS, OPERATOR, canonical_host

METHODS: Mapping[str, tuple[str, ...]] = {
    "learner": ("ServerInfo", "InsertStream", "SampleStream", "MutatePriorities", "Reset", "Checkpoint"),
    "collector": ("ServerInfo", "InsertStream", "SampleStream"),
    "evaluator": ("ServerInfo", "InsertStream", "SampleStream"),
}
"""What the roles may call. Nobody may call InitializeConnection: behind a proxy every peer seems to be local, and one
with the server's process id (in another container) would be handed a pointer into the server's memory."""
UNTRUSTED_READERS = ("collector", "evaluator")
"""Their SampleStream goes to the server that has the weights alone: the table asked for is not in a request's path."""

_SERVICE = "/deepmind.reverb.ReverbService/"
_PAGES = ("metrics", "healthz", "readyz")
_PAGE_SECONDS = 30
_STOP_SECONDS = 5.0
_COMMON = """\
global
    maxconn {connections}
    nbthread 1
    log stderr format raw daemon
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
    tune.ssl.cachesize 0
defaults
    mode http
    log global
    log-format "%ci:%cp [%tr] %[var(txn.role)] %HM %HP %ST"
    error-log-format "%ci:%cp [%tr] no connection: %[fc_err_str] %[ssl_fc_err_str]"
    http-reuse never
    timeout connect 5s
    timeout http-request 10s
    timeout http-keep-alive 10m
    timeout client 24h
    timeout server 24h
    option clitcpka
    clitcpka-idle 60s
    clitcpka-intvl 15s
    clitcpka-cnt 4
    option srvtcpka
    srvtcpka-idle 60s
    srvtcpka-intvl 15s
    srvtcpka-cnt 4
"""
"""A stream may be silent for a day, as one that the rate limiter holds back. A peer that has vanished is noticed after
`SILENT_SECONDS` if something is sent to it, and else within two minutes. TLS sessions are not resumed: each connection
has its certificate checked. Connections onward are not shared: each role's process has its own all the way, as a writer
that is held back holds up what shares its connection."""


class Credentials(msgspec.Struct, frozen=True):
    """Who this host is, and whom it trusts."""

    authority: Path
    """Certificate of the authority."""
    certificate: Path
    """Key and certificate of this host's role, in one file of mode 600."""


class ServerSide(msgspec.Struct, frozen=True):
    """The proxy on the replay's host."""

    credentials: Credentials
    host: str
    """Address or name of this host's interface to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)]
    """To listen on; 0 takes a free one."""
    replay_port: Annotated[int, Meta(ge=1, le=65535)]
    """Of the Reverb server, on this host."""
    weights_port: Annotated[int, Meta(ge=1, le=65535)]
    """Of the Reverb server that has the weights alone (`replay.weights_port`)."""
    connections: Annotated[int, Meta(ge=1)] = 1000
    connections_per_peer: Annotated[int, Meta(ge=1)] = 500
    """Of one address, those included that have not shown a certificate yet."""


class ClientSide(msgspec.Struct, frozen=True):
    """The proxy on the host of collectors, or of an evaluator."""

    credentials: Credentials
    sockets: Path
    """Folder for the sockets that the host's roles connect to."""
    host: str
    """Name or address of the replay's host; its certificate has to be for it."""
    port: Annotated[int, Meta(ge=1, le=65535)]
    """Of the proxy there."""
    connections: Annotated[int, Meta(ge=1)] = 1000


class MetricsSide(msgspec.Struct, frozen=True):
    """The proxy on any host that shows operators what its roles serve at sockets."""

    credentials: Credentials
    host: str
    """Address or name of this host's interface to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)]
    """To listen on; 0 takes a free one."""
    sockets: Path
    """Folder of the sockets: `collector-0.sock`, and so on."""
    roles: tuple[str, ...]
    """Which there may be, such as "collector-0"."""
    connections: Annotated[int, Meta(ge=1)] = 100


Side = ServerSide | ClientSide | MetricsSide


class Proxy:
    """A haproxy process, started, watched and restarted by its owner, with which it ends.

    Its sockets are bound here and outlive the process: those who connect while it is restarted wait.

    Args:
      side: what it does.
      log: takes what haproxy says: each refused request with its role, each failed handshake.

    Raises:
      UsageError: haproxy is missing or refuses the settings, the port is in use, or a file is missing or open to
        other users.
    """

    def __init__(self, side: Side, log: Path) -> None:
        self._side, self._log = side, log
        self._program = _program()
        _check(side.credentials)
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = _bind(side)
        self._configuration = os.memfd_create("haproxy.cfg")  # a file that is gone with its last reader
        try:
            os.write(self._configuration, _configuration(side, [bound.fileno() for bound in self._sockets]).encode())
            self._refuse_bad_settings()
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Of a client side, the replay as its roles have to name it; of a server side, `host:port` listened on."""
        if isinstance(self._side, ClientSide):
            return f"unix:{self._sockets[0].getsockname()}"
        host, port = self._sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def messages_address(self) -> str:
        """Of a client side, the replay for weights and reports, which pass while the rate limiter holds frames back.

        haproxy reads no further stream of a connection while one of its streams waits.
        """
        return f"unix:{self._sockets[-1].getsockname()}"

    @property
    def pid(self) -> int | None:
        """Of the process last started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process, also in the place of one that has ended.

        Call it in a thread that lives as long as the proxy should: Linux ties the process to that.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.runtime.ends_with_parent", str(os.getpid()), *self._command("-db")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._descriptors,
                start_new_session=True,  # a terminal's Ctrl-C is for the owner
            )

    def poll(self) -> int | None:
        """The return code of a process that has ended; None of one that runs."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """Ends the process with all connections, and gives back sockets and files."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for bound in self._sockets:
            listening.close(bound)
        if self._configuration >= 0:
            os.close(self._configuration)
            self._configuration = -1

    @property
    def _descriptors(self) -> list[int]:
        return [self._configuration, *(bound.fileno() for bound in self._sockets)]

    def _command(self, mode: str) -> list[str]:
        return [self._program, mode, "-f", f"/proc/self/fd/{self._configuration}"]

    def _refuse_bad_settings(self) -> None:
        result = subprocess.run(
            self._command("-c"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            pass_fds=self._descriptors,
        )
        if result.returncode != 0:
            alerts = [line.partition(" : ")[2] for line in result.stderr.splitlines() if "[ALERT]" in line]
            raise UsageError(f"haproxy refuses its settings: {(alerts or [result.stderr.strip()])[0]}")


def _program() -> str:
    # Debian has it in a folder that is on the PATH of root alone.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("haproxy", path=search)
    if program is None:
        raise UsageError("haproxy is not installed: install your system's package haproxy (2.6 or later)")
    return program


def _check(credentials: Credentials) -> None:
    for path in (credentials.authority, credentials.certificate):
        if not path.is_file():
            raise UsageError(f"{path} is missing: make it with python -m pipeline.certificates and copy it here")
    if stat.S_IMODE(credentials.certificate.stat().st_mode) & 0o077:
        raise UsageError(f"{credentials.certificate} is open to other users: chmod 600 {credentials.certificate}")


def _bind(side: Side) -> list[socket.socket]:
    """Listening sockets: of a client side one for frames and one for messages, of others one."""
    if not isinstance(side, ClientSide):
        return [listening.at_port(side.host, side.port)]
    try:
        side.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{side.sockets} cannot be made: {error}") from None
    bound: list[socket.socket] = []
    try:
        bound += [listening.at_path(side.sockets.resolve() / f"{name}.sock") for name in ("frames", "messages")]
    except BaseException:
        for earlier in bound:
            earlier.close()
        raise
    return bound


def _configuration(side: Side, descriptors: list[int]) -> str:
    common = _COMMON.format(connections=side.connections)
    if isinstance(side, ClientSide):
        sections = _client(side, descriptors)
    else:
        (descriptor,) = descriptors
        sections = _server(side, descriptor) if isinstance(side, ServerSide) else _metrics(side, descriptor)
    return common + "\n".join(sections) + "\n"


def _server(side: ServerSide, descriptor: int) -> list[str]:
    """A whitelist by role and method, and backends that do not hold each other up.

    A path is compared whole, with its query, and as it was sent: no method of Reverb's has a query or another spelling.
    """
    rules: list[str] = []
    for role in CLIENTS:
        paths = " ".join(_SERVICE + method for method in METHODS[role])
        rules.append(f"    acl is_{role} var(txn.role) -m str {role}")
        rules.append(f"    http-request set-var(txn.allowed) bool(true) if is_{role} {{ pathq -m str {paths} }}")
    return [
        "frontend peers",
        f"    bind fd@{descriptor} {_tls(side.credentials)} alpn h2 proto h2 tcp-ut {SILENT_SECONDS}s",
        "    stick-table type ipv6 size 10k expire 1h store conn_cur",
        "    tcp-request connection track-sc0 src",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {side.connections_per_peer} }}",
        "    http-request set-var(txn.role) ssl_c_s_dn(CN)",
        *rules,
        # Every sampler asks for this first, and goes on without.
        f"    http-request set-log-level silent if {{ pathq -m str {_SERVICE}InitializeConnection }}",
        "    http-request deny unless METH_POST { var(txn.allowed) -m bool }",
        "    http-request set-log-level silent",
        f"    acl samples pathq -m str {_SERVICE}SampleStream",
        f"    use_backend weights if samples {' || samples '.join(f'is_{role}' for role in UNTRUSTED_READERS)}",
        "    use_backend samples if samples",
        "    default_backend replay",
        *_backend("replay", f"127.0.0.1:{side.replay_port}"),
        *_backend("samples", f"127.0.0.1:{side.replay_port}"),
        *_backend("weights", f"127.0.0.1:{side.weights_port}"),
    ]


def _client(side: ClientSide, descriptors: list[int]) -> list[str]:
    host = canonical_host(side.host)
    target = f"{_address(host, side.port)} {_tls(side.credentials)} verifyhost {host} alpn h2"
    frames, messages = descriptors
    return [
        "frontend frames",
        f"    bind fd@{frames} proto h2",
        "    option dontlognull",
        "    http-request set-log-level silent",
        "    default_backend frames",
        "frontend messages",
        f"    bind fd@{messages} proto h2",
        "    option dontlognull",
        "    http-request set-log-level silent",
        "    default_backend messages",
        *_backend("frames", target),
        *_backend("messages", target),
    ]


def _metrics(side: MetricsSide, descriptor: int) -> list[str]:
    """What each role serves, under its name, for operators alone."""
    paths = {role: " ".join(f"/{role}/{page}" for page in _PAGES) for role in side.roles}
    sections = [
        "frontend operators",
        f"    bind fd@{descriptor} {_tls(side.credentials)} tcp-ut {SILENT_SECONDS}s",
        f"    timeout client {_PAGE_SECONDS}s",
        "    http-request set-var(txn.role) ssl_c_s_dn(CN)",
        *(f"    acl is_page path {pages}" for pages in paths.values()),
        f"    http-request deny unless METH_GET is_page {{ var(txn.role) -m str {OPERATOR} }}",
        "    http-request set-log-level silent",
        *(f"    use_backend {role} if {{ path {pages} }}" for role, pages in paths.items()),
    ]
    for role in side.roles:
        sections += [
            f"backend {role}",
            f"    timeout server {_PAGE_SECONDS}s",
            f"    http-request replace-path /{role}(/.*) \\1",
            f"    server {role} unix@{_quoted(side.sockets / f'{role}.sock')}",
        ]
    return sections


def _address(host: str, port: int) -> str:
    """Where a host is now: haproxy leaves `tcp-ut` out of the connections to one that it was given by name."""
    try:
        ((*_, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"the host {host} is not found: {error}") from None
    return f"[{address[0]}]:{port}" if ":" in address[0] else f"{address[0]}:{port}"


def _backend(name: str, target: str) -> list[str]:
    return [f"backend {name}", f"    server {name} {target} proto h2 tcp-ut {SILENT_SECONDS}s"]


def _tls(credentials: Credentials) -> str:
    certificate, authority = _quoted(credentials.certificate), _quoted(credentials.authority)
    return f"ssl crt {certificate} ca-file {authority} verify required"


def _quoted(path: Path) -> str:
    """A path as one word of haproxy's configuration."""
    text = str(path.resolve())
    if not text.isprintable():
        raise UsageError(f"{text!r} has characters that no file of certificates should have in its path")
    return "'" + text.replace("'", "'\\''") + "'"
