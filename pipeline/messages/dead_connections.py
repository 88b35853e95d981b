"""Closes TCP connections to servers that have stopped answering, as their host or the way there is down.

Linux sends what is not acknowledged again and again for a quarter of an hour, after pauses that double up to two
minutes: a link that was cut for a minute is used again up to a minute after it is back, and nobody looks whether the
server's name stands for another host by then. gRPC, which would open another connection, hears nothing. So Linux is
told to give up sooner.
"""

import os
import socket
import stat
import threading
import time
from collections.abc import Iterable

from pipeline.messages.addresses import is_socket, port_of

SILENT_SECONDS = 15
"""Without an acknowledgement of what was sent, though it was sent again. `pipeline.proxy` has the same."""
_DESCRIPTORS = "/proc/self/fd"
_LOOK_SECONDS = 1.0


def time_out_connections(addresses: Iterable[str]) -> None:
    """From now on, connections of this process to servers at these addresses end when they have been silent.

    Args:
      addresses: as `addresses.parse` takes them. A proxy's sockets are left out: it sees to that itself.
    """
    if ports := {port_of(address, "an address") for address in addresses if not is_socket(address)}:
        threading.Thread(target=_look_for_ever, args=(ports,), name="silence", daemon=True).start()


def _look_for_ever(ports: set[int]) -> None:
    while True:
        for name in os.listdir(_DESCRIPTORS):
            _limit(int(name), ports)
        time.sleep(_LOOK_SECONDS)


def _limit(descriptor: int, ports: set[int]) -> None:
    """Sets TCP_USER_TIMEOUT on a descriptor if it is a connection to one of the servers.

    Others own the descriptor, and may close it at any time.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getpeername()[1] in ports:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    except OSError:  # closed meanwhile, or not connected
        return
