"""Bytes that this process has sent and received over TCP, as the kernel has counted them. No TensorFlow.

Reverb's connections are made by its C++, which tells nothing of them. But their sockets are files of this process, and
Linux counts for each connection the bytes that its peer has acknowledged and those that have come.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Collection

_DESCRIPTORS = "/proc/self/fd"
_BYTES = struct.Struct("120x2Q")
"""Of `struct tcp_info` (linux/tcp.h): tcpi_bytes_acked and tcpi_bytes_received, which it has since Linux 4.1."""


class Traffic:
    """Bytes of all TCP connections that this process has had, those over the loopback interface included.

    What is counted has passed, but not all is counted. Missing are bytes that the peer has not acknowledged yet; those
    of a connection after the last `read` before its end, so that one which began and ended in between is missing as a
    whole; and those through sockets with a path, as to `pipeline.proxy`, of which the kernel keeps no such counts. A
    connection's beginning and its end may count as a byte each.

    A `read` takes some 7 us for each file that the process has open.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._buffer, self._size = ctypes.create_string_buffer(_BYTES.size), ctypes.c_uint32()
        self._open: dict[int, tuple[int, int]] = {}  # by inode: another socket gets the descriptor of a closed one
        self._closed = (0, 0)

    def read(self) -> tuple[int, int]:
        """Bytes sent and bytes received so far, without the protocols below TCP and without what was sent again."""
        present = {}
        for name in os.listdir(_DESCRIPTORS):
            if (connection := self._connection(int(name))) is not None:
                inode, counted = connection
                present[inode] = counted
        gone = [counted for inode, counted in self._open.items() if inode not in present]
        self._closed = _sum(self._closed, *gone)
        self._open = present
        return _sum(self._closed, *present.values())

    def _connection(self, descriptor: int) -> tuple[int, tuple[int, int]] | None:
        """Inode and bytes of a TCP connection; None of another file, and where the kernel does not count.

        The descriptor may be closed and another's at any time: its inode is asked for before and after.
        """
        self._size.value = _BYTES.size
        try:
            inode = os.fstat(descriptor).st_ino
            of = descriptor, socket.IPPROTO_TCP, socket.TCP_INFO
            if self._library.getsockopt(*of, self._buffer, ctypes.byref(self._size)) != 0:
                return None
            if self._size.value < _BYTES.size or os.fstat(descriptor).st_ino != inode:
                return None
        except OSError:
            return None
        return inode, _BYTES.unpack(self._buffer.raw)


class Arrivals(Traffic):
    """Bytes that other processes have sent to a server of this one, and got from it, over TCP; see `Traffic`.

    Through a proxy, which is a process of its own on the server's host, they come by TCP whatever is before it.

    Args:
      port: that the server listens on.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._own: set[tuple[str, int]] = set()
        self.received: dict[str, int] = {}
        """By each peer that there has been, as "address:port", when it was last looked at."""

    def read(self) -> tuple[int, int]:
        """Bytes that the server has sent and received so far."""
        names = (_names(int(name)) for name in os.listdir(_DESCRIPTORS))
        self._own = {name[0] for name in names if name is not None}
        return super().read()

    def _connection(self, descriptor: int) -> tuple[int, tuple[int, int]] | None:
        found = _names(descriptor)
        if found is None or found[0][1] != self._port or found[1] in self._own:
            return None
        counted = super()._connection(descriptor)
        if counted is not None:
            self.received[_name(found[1])] = counted[1][1]
        return counted


class Departures(Traffic):
    """Bytes of this process's connections to servers at some ports; see `Traffic`.

    Args:
      ports: of the servers.
    """

    def __init__(self, ports: Collection[int]) -> None:
        super().__init__()
        self._ports = ports
        self.names: set[str] = set()
        """Under which the servers see them, as in `Arrivals.received`."""

    def _connection(self, descriptor: int) -> tuple[int, tuple[int, int]] | None:
        found = _names(descriptor)
        if found is None or found[1][1] not in self._ports:
            return None
        self.names.add(_name(found[0]))
        return super()._connection(descriptor)


def _name(end: tuple[str, int]) -> str:
    return f"{end[0]}:{end[1]}"


def copy_of_socket(descriptor: int) -> socket.socket | None:
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


def end_of(name: tuple[str, int]) -> tuple[str, int]:
    """Address and port of one end; of IPv4 addresses within IPv6 as those of IPv4."""
    return name[0].removeprefix("::ffff:"), name[1]


def _names(descriptor: int) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Address and port of both ends of a TCP connection, this process's first; None of another file."""
    if (found := copy_of_socket(descriptor)) is None:
        return None
    with found:
        try:
            return end_of(found.getsockname()), end_of(found.getpeername())
        except OSError:
            return None


def _sum(*counts: tuple[int, int]) -> tuple[int, int]:
    return sum(sent for sent, _ in counts), sum(received for _, received in counts)
