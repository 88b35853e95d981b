"""Sockets that a process listens on: a port of this machine, or a path that its user alone can open."""

import contextlib
import errno
import os
import socket
from pathlib import Path

from pipeline.experiment.config import UsageError
from pipeline.messages.addresses import is_socket

_PATH_BYTES = 100  # of the 108 that Linux has room for
_BACKLOG = 512


def at(address: str, flag: str) -> socket.socket:
    """A socket that listens at an address.

    Args:
      address: `host:port`, of which port 0 takes a free one, or `unix:/path`, whose folder is made if it is not there.
      flag: that it was given by, for the message.

    Raises:
      UsageError: it is none, or nothing can listen there.
    """
    path = address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    try:
        if is_socket(address) and path:
            with contextlib.suppress(OSError):  # listening says why
                Path(path).absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return at_path(Path(path).absolute())
        if host and host != "unix" and port.isdecimal() and int(port) <= 65535:
            return at_port(host.strip("[]"), int(port))
    except UsageError as error:
        raise UsageError(f"{flag}={address}: {error}") from None
    raise UsageError(f"{flag}={address} is neither host:port (such as 127.0.0.1:9464) nor unix:/path")


def at_port(host: str, port: int) -> socket.socket:
    """A socket that listens on a port of one of this machine's addresses.

    Args:
      host: name or address.
      port: 0 takes a free one.

    Raises:
      UsageError: it cannot listen there; the message says why, in one line.
    """
    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"cannot listen on {host}:{port}: port {port} is in use") from None
        raise UsageError(f"cannot listen on {host}:{port}: {error}") from None


def at_path(path: Path) -> socket.socket:
    """A socket that listens at a path, in mode 600; one that a process which was killed has left is replaced.

    Raises:
      UsageError: the path is too long, in use, or cannot be made.
    """
    if path.exists() and not path.is_socket():
        raise UsageError(f"{path} is there already, and is no socket")
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise UsageError(f"{path} is too long for a socket: choose a folder with a shorter path")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _refuse_used(path)
            path.unlink()
        bound.bind(str(path))
        path.chmod(0o600)  # before it listens: nobody else has connected
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {path}: {error}") from None
    except UsageError:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> str:
    """Where a socket listens: `host:port`, or `unix:/path`."""
    name = bound.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def close(bound: socket.socket) -> None:
    """Closes a socket that listens, and removes its path if it has one."""
    if bound.fileno() >= 0 and bound.family == socket.AF_UNIX:
        Path(bound.getsockname()).unlink(missing_ok=True)
    bound.close()


def _refuse_used(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # left by a process that was killed
            return
    raise UsageError(f"{path} is in use by another process: choose another one")
