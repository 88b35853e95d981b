"""What crosses a network interface: who sends how much, and whether all of it is TLS.

`python -m benchmarks.reliability.wire eth0` listens until its input ends, and then prints what it has `Seen` as JSON.
"""

import contextlib
import select
import socket
import struct
import sys
from typing import NamedTuple

import msgspec

_ALL_PROTOCOLS = 0x0003
_BUFFER = 64 * 2**20
_LARGEST_FRAME = 2**18
_ETHERNET, _IPV4, _TCP, _UDP = 14, 0x0800, 6, 17
_SYN = 0x02
_HEADER = 5
_KINDS = range(20, 24)
"""Of TLS records: change of cipher, alert, handshake, data."""
_LARGEST_RECORD = 2**14 + 256
_MOST_EARLY = 1_000
_SHOWN = 40


class Seen(msgspec.Struct):
    """What has crossed the interface."""

    sent: dict[str, int]
    """Bytes by the sender's address, with headers and what was sent again."""
    records: int
    """Of TLS that were complete."""
    skipped: int
    """Bytes that were not looked at, as what came before them was not seen."""
    clear: list[str]
    """What was no TLS: who sent it, and its first bytes."""


class Segment(NamedTuple):
    """Part of one direction of a TCP connection."""

    flow: str
    begins: bool
    number: int
    """Of its first byte, modulo 2^32."""
    data: bytes


class Wire:
    """Follows every connection that begins while it listens."""

    def __init__(self) -> None:
        self.seen = Seen({}, 0, 0, [])
        self._flows: dict[str, _Flow] = {}

    def take(self, frame: bytes) -> None:
        """Takes an Ethernet frame."""
        if len(frame) < _ETHERNET + 20 or struct.unpack_from("!H", frame, 12)[0] != _IPV4:
            return
        packet = frame[_ETHERNET:]
        sender = socket.inet_ntoa(packet[12:16])
        self.seen.sent[sender] = self.seen.sent.get(sender, 0) + len(frame)
        if packet[9] == _UDP:
            self.seen.clear.append(f"{sender} sent a datagram: {packet[:_SHOWN].hex()}")
        elif packet[9] == _TCP:
            self._take(_segment(packet))

    def _take(self, segment: Segment) -> None:
        if segment.begins:
            self._flows[segment.flow] = _Flow(segment.number + 1)
        flow = self._flows.get(segment.flow)
        if flow is None or flow.is_clear:
            self.seen.skipped += len(segment.data)
            return
        before = flow.records
        flow.take(segment.number, segment.data)
        self.seen.records += flow.records - before
        if flow.is_clear:
            self.seen.clear.append(f"{segment.flow}: {segment.data[:_SHOWN]!r}")

    def finish(self) -> Seen:
        """What was seen; nothing more comes."""
        self.seen.skipped += sum(flow.waiting for flow in self._flows.values())
        return self.seen


class _Flow:
    """One direction of a connection.

    Args:
      number: of its first byte.
    """

    def __init__(self, number: int) -> None:
        self._next = number
        self._early: dict[int, bytes] = {}
        self._header = b""
        self._left = 0  # of the record that has begun
        self.records = 0
        self.is_clear = False

    @property
    def waiting(self) -> int:
        """Bytes that came, while those before them did not."""
        return sum(map(len, self._early.values()))

    def take(self, number: int, data: bytes) -> None:
        """Takes bytes with the number of the first; they may come twice, and before earlier ones."""
        if data and len(self._early) < _MOST_EARLY:
            known = self._early.get(number, b"")
            self._early[number] = max(known, data, key=len)
        progress = True
        while progress and self._early and not self.is_clear:
            progress = False
            for early in list(self._early):
                behind = (self._next - early) % 2**32
                if behind < 2**31:  # it begins at the next byte or before
                    piece = self._early.pop(early)[behind:]
                    self._next += len(piece)
                    self._read(piece)
                    progress = True

    def _read(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                self.records += not self._left
                data = data[taken:]
                continue
            taken = _HEADER - len(self._header)
            self._header, data = self._header + data[:taken], data[taken:]
            if len(self._header) == _HEADER:
                kind, major, _, self._left = struct.unpack("!BBBH", self._header)
                self._header = b""
                if kind not in _KINDS or major != 3 or not 0 < self._left <= _LARGEST_RECORD:
                    self.is_clear = True
                    return


def _segment(packet: bytes) -> Segment:
    start, length = 4 * (packet[0] & 0x0F), int.from_bytes(packet[2:4], "big")
    source, target, number = struct.unpack_from("!HHI", packet, start)
    offset, flags = packet[start + 12] >> 4, packet[start + 13]
    flow = f"{socket.inet_ntoa(packet[12:16])}:{source} to {socket.inet_ntoa(packet[16:20])}:{target}"
    return Segment(flow, bool(flags & _SYN), number, packet[start + 4 * offset : length])


def main(interface: str) -> None:
    """Listens until the input ends."""
    wire = Wire()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as tap:
        with contextlib.suppress(PermissionError):  # of a user namespace's root
            tap.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        tap.bind((interface, 0))
        print("listens", flush=True)
        while tap in select.select([tap, sys.stdin], [], [])[0]:  # what has come is taken before the end
            wire.take(tap.recv(_LARGEST_FRAME))
    print(msgspec.json.encode(wire.finish()).decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
