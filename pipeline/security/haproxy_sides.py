"""What each haproxy does, as typed structs, and the configuration that tells it. No TensorFlow."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.experiment.config import UsageError
from pipeline.messages.addresses import is_socket
from pipeline.messages.dead_connections import SILENT_SECONDS
from pipeline.security.certificate_authority import (
    CLIENTS,
    INFERENCE_HOST,
    OPERATOR,
    PEERS,
    PEERS_HOST,
    canonical_host,
)

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
_BUFFER_BYTES, _LARGE_BUFFER_BYTES = 16_384, 65_536
"""haproxy's own, which bounds a request's headers, and what carries observations of images in half the time."""
_COMMON = """\
global
    maxconn {connections}
    nbthread 1
    tune.bufsize {buffer_bytes}
    log stderr format raw daemon
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
    tune.ssl.cachesize 0
defaults
    mode http
    log global
    log-format "%ci:%cp [%tr] %[var(txn.role)] %HM %HP %ST"
    error-log-format "%ci:%cp [%t] no connection: %[fc_err_str] %[ssl_fc_err_str]"
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
    inference_host: str = ""
    """Name or address of the acting server's host; empty where collectors act by themselves."""
    inference_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of the proxy there."""
    connections: Annotated[int, Meta(ge=1)] = 1000


class InferenceSide(msgspec.Struct, frozen=True):
    """The proxy on the acting server's host, for collectors of other hosts."""

    credentials: Credentials
    host: str
    """Address or name of this host's interface to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)]
    """To listen on; 0 takes a free one."""
    inference: str
    """Of the acting server, on this host: as its --inference has it."""
    connections: Annotated[int, Meta(ge=1)] = 1000
    connections_per_peer: Annotated[int, Meta(ge=1)] = 500
    """Of one address, those included that have not shown a certificate yet."""


class PeersSide(msgspec.Struct, frozen=True):
    """The proxy beside a learner of several: lets the others in to it, and it out to them."""

    credentials: Credentials
    host: str
    """Address or name of this host's interface to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)]
    """To listen on; 0 takes a free one."""
    index: Annotated[int, Meta(ge=0)]
    """Of this host's learner."""
    learners: tuple[int, ...]
    """By their indices: the port of each one's TensorFlow server on its own host, by which the others know it, too."""
    proxies: tuple[tuple[str, int], ...]
    """Host and port of each one's proxy; that of this host's learner is not called."""
    connections: Annotated[int, Meta(ge=1)] = 1000
    connections_per_peer: Annotated[int, Meta(ge=1)] = 500
    """Of one address, those included that have not shown a certificate yet."""

    @property
    def others(self) -> list[int]:
        """Indices of the learners of other hosts."""
        return [index for index in range(len(self.learners)) if index != self.index]


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


Side = ServerSide | ClientSide | InferenceSide | PeersSide | MetricsSide


def configuration(side: Side, descriptors: list[int]) -> str:
    """What haproxy is told.

    Args:
      side: what it does.
      descriptors: sockets that it listens on; of a client side for frames, messages and, if it leads there, actions; of
        a peers side for the others, and for each of its learner's ways to them.

    Raises:
      UsageError: a host is not found, or a path cannot be written down.
    """
    carries_bytes = isinstance(side, InferenceSide | PeersSide) or bool(getattr(side, "inference_host", ""))
    buffer_bytes = _LARGE_BUFFER_BYTES if carries_bytes else _BUFFER_BYTES
    common = _COMMON.format(connections=side.connections, buffer_bytes=buffer_bytes)
    if isinstance(side, ClientSide):
        sections = _client(side, descriptors)
    elif isinstance(side, PeersSide):
        sections = _peers(side, descriptors)
    else:
        (descriptor,) = descriptors
        if isinstance(side, ServerSide):
            sections = _server(side, descriptor)
        else:
            sections = _inference(side, descriptor) if isinstance(side, InferenceSide) else _metrics(side, descriptor)
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
        *_few_of_one_peer(side.connections_per_peer),
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
    frames, messages, *acting = descriptors
    sections = [
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
    if acting:
        there = (
            f"{_address(side.inference_host, side.inference_port)} {_tls(side.credentials)} verifyhost {INFERENCE_HOST}"
        )
        sections += _out_by_certificate("acting", acting[0], "acting server", there)
    return sections


def _inference(side: InferenceSide, descriptor: int) -> list[str]:
    """Bytes of collectors alone, which the acting server reads itself: they are no HTTP."""
    at = side.inference
    target = f"unix@{_quoted(Path(at.removeprefix('unix:')).absolute())}" if is_socket(at) else at
    return _in_by_certificate(side, descriptor, "collector", "acting server", target)


def _peers(side: PeersSide, descriptors: list[int]) -> list[str]:
    """Bytes of learners alone, as TensorFlow sends them: a learner finds the others at ports of its own host."""
    own, *ways = descriptors
    sections = _in_by_certificate(side, own, PEERS, "learner", f"127.0.0.1:{side.learners[side.index]}")
    for descriptor, index in zip(ways, side.others, strict=True):
        there = f"{_address(*side.proxies[index])} {_tls(side.credentials)} verifyhost {PEERS_HOST}"
        sections += _out_by_certificate(f"learner_{index}", descriptor, f"learner {index}", there)
    return sections


def _in_by_certificate(side: InferenceSide | PeersSide, descriptor: int, role: str, who: str, target: str) -> list[str]:
    """Passes on the bytes of those who have a role's certificate, and cuts off all others."""
    return [
        "frontend peers",
        *_bytes_alone("clitcpka"),
        *_log_of_bytes(who),
        f"    bind fd@{descriptor} {_tls(side.credentials)} tcp-ut {SILENT_SECONDS}s",
        *_few_of_one_peer(side.connections_per_peer),
        "    tcp-request content set-var(txn.role) ssl_c_s_dn(CN)",
        f"    tcp-request content reject unless {{ var(txn.role) -m str {role} }}",
        "    default_backend own",
        "backend own",
        *_bytes_alone("srvtcpka"),
        f"    server own {target}",
    ]


def _out_by_certificate(name: str, descriptor: int, whom: str, there: str) -> list[str]:
    """Passes bytes of this host's roles on to a proxy that has the certificate asked for."""
    return [
        f"frontend {name}",
        *_bytes_alone("clitcpka"),
        f"    bind fd@{descriptor}",
        "    option dontlognull",
        *_log_of_bytes(whom),
        f"    default_backend {name}",
        f"backend {name}",
        *_bytes_alone("srvtcpka"),
        f"    server {name} {there} tcp-ut {SILENT_SECONDS}s",
    ]


def _bytes_alone(keep_alive: str) -> list[str]:
    """Passes bytes; a peer that vanished is noticed, though who waits for an answer sends nothing."""
    return [
        "    mode tcp",
        f"    {keep_alive}-idle {SILENT_SECONDS}s",
        f"    {keep_alive}-intvl 5s",
        f"    {keep_alive}-cnt 3",
    ]


def _log_of_bytes(whom: str) -> list[str]:
    return [
        f'    log-format "%ci:%cp [%t] %[var(txn.role)] {whom}: %B bytes %ts"',
        "    option dontlog-normal",
    ]


def _few_of_one_peer(connections: int) -> list[str]:
    return [
        "    stick-table type ipv6 size 10k expire 1h store conn_cur",
        "    tcp-request connection track-sc0 src",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {connections} }}",
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
