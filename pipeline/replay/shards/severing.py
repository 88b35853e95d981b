"""Cuts a server of this process off from everybody else, before it writes its last checkpoint.

What a server takes after its last checkpoint goes with it. So that nobody has had that confirmed, no connection of
another process is left by then, and no new one comes: who has something on its way sends it to the next server.
"""

import os
import socket
import time
from contextlib import suppress

_DESCRIPTORS = "/proc/self/fd"
_LOOK_SECONDS = 0.02
"""Between two looks for connections that were being accepted."""


def sever(port: int) -> None:
    """Ends all connections to a server of this process but this process's own, and has it take no more.

    Args:
      port: that it listens on.
    """
    while _cut(port):
        time.sleep(_LOOK_SECONDS)


def _cut(port: int) -> int:
    """Does so with those that there are; returns their number."""
    found = [copy for name in os.listdir(_DESCRIPTORS) if (copy := _socket(int(name))) is not None]
    ends = [(copy, _end(copy.getsockname()), _peer(copy)) for copy in found]
    own, cut = {ours for _, ours, _ in ends}, 0
    for copy, ours, theirs in ends:
        with copy, suppress(OSError):  # it has ended meanwhile, or is cut already
            if ours[1] == port and theirs not in own:
                copy.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def _socket(descriptor: int) -> socket.socket | None:
    """A copy of a TCP socket; None of another file. Others own the descriptor, and may close it at any time."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        found = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    if found.type == socket.SOCK_STREAM and found.family in (socket.AF_INET, socket.AF_INET6):
        return found
    found.close()
    return None


def _peer(copy: socket.socket) -> tuple[str, int] | None:
    """Address and port of the other end; None of one that listens."""
    with suppress(OSError):
        return _end(copy.getpeername())
    return None


def _end(name: tuple[str, int]) -> tuple[str, int]:
    return name[0].removeprefix("::ffff:"), name[1]
