"""Ports of this machine."""

import errno
import socket

from pipeline.experiment.config import UsageError

_ATTEMPTS = 20

HOST = "127.0.0.1"
"""Where the roles of one machine find the replay. Not "localhost": that is ::1 first, and where the server is on IPv4's
loopback address alone, another user of the machine could listen there in its place."""


def free_port() -> int:
    """A port that nothing listens on now.

    Raises:
      OSError: none was found.
    """
    for _ in range(_ATTEMPTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("0.0.0.0", 0))
            port = int(probe.getsockname()[1])
        if not _is_used(port):
            return port
    raise OSError(errno.EADDRINUSE, "no port is free of listeners of both IPv4 and IPv6")


def refuse_used_port(port: int) -> None:
    """Refuses a port that something listens on; 0 stands for a free one and passes.

    gRPC listens with SO_REUSEPORT: a second server on the port would start and share its connections. A run with a
    network namespace of its own has all ports to itself in there. What is used outside is refused for it all the same:
    whether it gets a namespace must not decide which ports will do.

    Raises:
      UsageError: it is in use.
    """
    if port and _is_used(port):
        raise UsageError(f"port {port} is in use: choose another replay.port or replay.weights_port")


def _is_used(port: int) -> bool:
    # A socket of IPv6 does not always stand for IPv4 too, and there are machines without it.
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue
        with probe:
            # Connections that have ended hold a port for a minute; only a listening socket is in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # IPv6 that is compiled in and turned off
                    return True
    return False
