"""Ports of this machine."""

import socket

from pipeline.config import UsageError


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def refuse_used_port(port: int) -> None:
    """Refuses a port that something listens on; 0 stands for a free one and passes.

    gRPC listens with SO_REUSEPORT: a second server on the port would start and share its connections.

    Raises:
      UsageError: it is in use.
    """
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        # Connections that have ended hold a port for a minute; only a listening socket is in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("::", port))
        except OSError:
            raise UsageError(f"port {port} is in use: choose another replay.port or replay.weights_port") from None
