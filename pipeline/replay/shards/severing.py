"""Cuts a server of this process off from everybody else, before it writes its last checkpoint.

What a server takes after its last checkpoint goes with it. So that nobody has had that confirmed, no connection of
another process is left by then, and no new one comes: who has something on its way sends it to the next server.
"""

import os
import socket
import time
from contextlib import suppress

from pipeline.messages.traffic import copy_of_socket, end_of

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
    found = [copy for name in os.listdir(_DESCRIPTORS) if (copy := copy_of_socket(int(name))) is not None]
    ends = [(copy, end_of(copy.getsockname()), _peer(copy)) for copy in found]
    own, cut = {ours for _, ours, _ in ends}, 0
    for copy, ours, theirs in ends:
        with copy, suppress(OSError):  # it has ended meanwhile, or is cut already
            if ours[1] == port and theirs not in own:
                copy.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def _peer(copy: socket.socket) -> tuple[str, int] | None:
    """Address and port of the other end; None of one that listens."""
    with suppress(OSError):
        return end_of(copy.getpeername())
    return None
