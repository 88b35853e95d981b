"""Lets the roles of other hosts in to a replay, or a host's own roles out to it, by mutual TLS; needs haproxy.

Examples, for a run with --set=replay.port=9000 --set=replay.weights_port=9001:
  on the replay's host   python -m pipeline.proxy --side=server --certificates=certificates --listen=0.0.0.0:9443 \\
                           --replay_port=9000 --weights_port=9001
  on a collector's host  python -m pipeline.proxy --side=client --certificates=certificates --role=collector \\
                           --connect=learner-host:9443 --sockets=/run/user/1000/replay
  beside the acting server, for collectors of other hosts, which then have --connect_inference=learner-host:9444
                         python -m pipeline.proxy --side=inference --certificates=certificates --listen=0.0.0.0:9444 \\
                           --inference=unix:/run/user/1000/acting.sock
  beside each learner of several on other hosts; TF_CONFIG as the learner has it, each learner at a port of 127.0.0.1
                         python -m pipeline.proxy --side=learners --certificates=certificates --listen=0.0.0.0:9445 \\
                           --learners=learner-a:9445,learner-b:9445
  for Prometheus         python -m pipeline.proxy --side=metrics --certificates=certificates --listen=0.0.0.0:9464 \\
                           --sockets=/run/user/1000/metrics --roles=collector-0,collector-1

It runs until it is interrupted. docs/several_hosts.md has the certificates and what each role may do.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.learner.workers import team
from pipeline.messages.addresses import guard_of, host_of, is_socket, parse
from pipeline.runtime.process import interruption
from pipeline.security.certificate_authority import (
    CLIENTS,
    INFERENCE,
    METRICS,
    PEERS,
    REPLAY,
    Authority,
    canonical_host,
)
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import (
    ClientSide,
    Credentials,
    InferenceSide,
    MetricsSide,
    PeersSide,
    ServerSide,
    Side,
)

_SIDE = flags.DEFINE_enum(
    "side",
    None,
    ["server", "client", "inference", "learners", "metrics"],
    "server: of the replay; client: of other hosts; inference: of the acting server; learners: of each of several; "
    "metrics: of any host, for operators.",
)
_CERTIFICATES = flags.DEFINE_string("certificates", None, "Folder with ca.pem and the role's .pem file.")
_LISTEN = flags.DEFINE_string(
    "listen", "0.0.0.0:9443", "HOST:PORT that a side other than client listens on, for other hosts; port 0: a free one."
)
_REPLAY_PORT = flags.DEFINE_integer("replay_port", 0, "The run's replay.port, of a server side.")
_WEIGHTS_PORT = flags.DEFINE_integer("weights_port", 0, "The run's replay.weights_port, of a server side.")
_CONNECT = flags.DEFINE_string("connect", None, "HOST:PORT of the server side, as its certificate names it.")
_CONNECT_INFERENCE = flags.DEFINE_string(
    "connect_inference", "", "HOST:PORT of the inference side, for a client side whose collectors act there."
)
_INFERENCE = flags.DEFINE_string("inference", None, "Of an inference side: the acting server's own --inference.")
_LEARNERS = flags.DEFINE_string(
    "learners", None, "Of a learners side: HOST:PORT of the proxy beside each of them, in the order of TF_CONFIG."
)
_ROLE = flags.DEFINE_enum("role", "collector", list(CLIENTS), "Whose certificate a client side shows.")
_SOCKETS = flags.DEFINE_string("sockets", None, "Folder for the sockets of a client side, which its roles connect to.")
_ROLES = flags.DEFINE_list("roles", [], "Of a metrics side: whose sockets are in --sockets, such as collector-0.")
_LOG = flags.DEFINE_string("log", "/dev/stderr", "Takes refused requests and failed handshakes.")

_POLL_SECONDS = 0.1
_RESTART_SECONDS = 1.0
_ROLE_NAME = re.compile(r"(replay|learner|inference|collector|evaluator|relay|supervisor)-\d+")
_MOST_FAILURES = 5
"""Ends in a row, each soon after the start, after which a restart does not help."""


def main(arguments: list[str]) -> int:
    """Keeps a proxy running until SIGINT or SIGTERM."""
    refuse_more(arguments)
    if _SIDE.value is None:
        raise UsageError(
            "--side is missing: server on the replay's host, client on others, inference, learners, or metrics"
        )
    interrupted = interruption()
    proxy = Proxy(_SIDES[_SIDE.value](), Path(_LOG.value))
    try:
        proxy.start()
        if _SIDE.value == "server":
            print(f"lets roles in at {proxy.address}", flush=True)
        elif _SIDE.value == "inference":
            print(f"lets collectors in to the acting server at {proxy.address}", flush=True)
        elif _SIDE.value == "learners":
            print(f"lets the other learners in at {proxy.address}", flush=True)
        elif _SIDE.value == "metrics":
            print(f"shows operators https://{proxy.address}/{_ROLES.value[0]}/metrics and others", flush=True)
        else:
            acting = f", the acting server at {proxy.inference_address}" if proxy.inference_address else ""
            replay = f"the replay is at {proxy.address}, for weights and reports at {proxy.messages_address}"
            print(f"{replay}{acting}", flush=True)
        return _watch(proxy, interrupted)
    finally:
        proxy.stop()


def _watch(proxy: Proxy, interrupted: threading.Event) -> int:
    """Restarts the proxy when it ends; the exit code when that does not help or the user has had enough."""
    failures, lived = 0, 0.0
    while not interrupted.wait(_POLL_SECONDS):
        lived += _POLL_SECONDS
        if (code := proxy.poll()) is None:
            continue
        failures = failures + 1 if lived < _RESTART_SECONDS * _MOST_FAILURES else 1
        if failures >= _MOST_FAILURES:
            print(f"error: haproxy has ended {failures} times in a row, at last with {code}", file=sys.stderr)
            return 1
        print(f"haproxy ended with {code} and is restarted", file=sys.stderr, flush=True)
        interrupted.wait(_RESTART_SECONDS)
        proxy.start()
        lived = 0.0
    return 0


def _server_side() -> ServerSide:
    for name, port in (("replay_port", _REPLAY_PORT.value), ("weights_port", _WEIGHTS_PORT.value)):
        if not 1 <= port <= 65535:
            raise UsageError(f"--{name} is missing: start the run with --set=replay.{name.removeprefix('replay_')}=N")
    host, port = _host_and_port("listen", _LISTEN.value)
    return ServerSide(_credentials(REPLAY), host, port, _REPLAY_PORT.value, _WEIGHTS_PORT.value)


def _client_side() -> ClientSide:
    if not _SOCKETS.value:
        raise UsageError("--sockets is missing: a folder for the sockets that this host's roles connect to")
    host, port = _host_and_port("connect", _CONNECT.value or "")
    inference = "", 0
    if _CONNECT_INFERENCE.value:
        if _ROLE.value != "collector":
            raise UsageError(f"--connect_inference is for collectors, not for --role={_ROLE.value}: leave it out")
        inference = _host_and_port("connect_inference", _CONNECT_INFERENCE.value)
    return ClientSide(_credentials(_ROLE.value), Path(_SOCKETS.value), host, port, *inference)


def _inference_side() -> InferenceSide:
    if not _INFERENCE.value:
        raise UsageError("--inference is missing: where does the acting server listen, unix:/path or 127.0.0.1:PORT?")
    (inference,) = parse(_INFERENCE.value, "--inference")
    if not is_socket(inference) and guard_of(host_of(inference), "off") != "loopback":
        raise UsageError(f"--inference={inference}: the acting server of this host is at unix:/path or 127.0.0.1:PORT")
    return InferenceSide(_credentials(INFERENCE), *_host_and_port("listen", _LISTEN.value), inference)


def _peers_side() -> PeersSide:
    if (cluster := team.cluster(os.environ)) is None:
        raise UsageError("TF_CONFIG is missing: it names all learners, as for pipeline.role --role=learner")
    for address in cluster.addresses:
        if host_of(address) != "127.0.0.1":
            raise UsageError(
                f"TF_CONFIG names {address}: behind proxies each learner is at a port of its own of 127.0.0.1, such as "
                f"127.0.0.1:{address.rpartition(':')[2]}, on all hosts"
            )
    proxies = tuple(_host_and_port("learners", part) for part in (_LEARNERS.value or "").split(","))
    if len(proxies) != len(cluster.addresses):
        raise UsageError(
            f"--learners has {len(proxies)} addresses, and TF_CONFIG names {len(cluster.addresses)} learners: give "
            "HOST:PORT of each one's proxy, in that order"
        )
    ports = tuple(int(address.rpartition(":")[2]) for address in cluster.addresses)
    host, port = _host_and_port("listen", _LISTEN.value)
    return PeersSide(_credentials(PEERS), host, port, cluster.index, ports, proxies)


def _metrics_side() -> MetricsSide:
    if not _SOCKETS.value:
        raise UsageError("--sockets is missing: the folder in which this host's roles serve their metrics")
    if not _ROLES.value:
        raise UsageError("--roles is missing: which roles are on this host, such as collector-0,collector-1?")
    for role in _ROLES.value:
        if not _ROLE_NAME.fullmatch(role):
            raise UsageError(f"--roles has {role!r}, which is no role and number, such as collector-0")
    host, port = _host_and_port("listen", _LISTEN.value)
    roles = tuple(dict.fromkeys(_ROLES.value))
    return MetricsSide(_credentials(METRICS), host, port, Path(_SOCKETS.value).absolute(), roles)


_SIDES: dict[str, Callable[[], Side]] = {
    "server": _server_side,
    "client": _client_side,
    "inference": _inference_side,
    "learners": _peers_side,
    "metrics": _metrics_side,
}


def _credentials(role: str) -> Credentials:
    if not _CERTIFICATES.value:
        raise UsageError(f"--certificates is missing: the folder with ca.pem and {role}.pem")
    authority = Authority(Path(_CERTIFICATES.value))
    return Credentials(authority.certificate, authority.of(role))


def _host_and_port(flag: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--{flag}={text} is not HOST:PORT")
    return canonical_host(host), int(port)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
