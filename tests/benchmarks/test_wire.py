"""What is said to have crossed a network interface, by frames made here byte by byte."""

import itertools
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reliability.wire import Wire

ROOT = Path(__file__).resolve().parent.parent.parent
HERE, THERE = "10.0.0.1", "10.0.0.2"
SYN, ACK = 0x02, 0x10


def packet(data: bytes, protocol: int) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + header + socket.inet_aton(HERE) + socket.inet_aton(THERE) + data


def segment(number: int, data: bytes = b"", flags: int = ACK) -> bytes:
    header = struct.pack("!HHIIBBHHH", 4_000, 443, number % 2**32, 0, 5 << 4, flags, 0, 0, 0)
    return packet(header + data, 6)


def record(data: bytes, kind: int = 23) -> bytes:
    return struct.pack("!BBBH", kind, 3, 3, len(data)) + data


payloads = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6)


@given(payloads, st.integers(0, 2**32 - 1), st.data())
def test_records_are_counted_however_they_are_cut_and_ordered(
    contents: list[bytes], first: int, data: st.DataObject
) -> None:
    stream = b"".join(map(record, contents))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)) | {0, len(stream)})
    pieces = [(begin, stream[begin:end]) for begin, end in itertools.pairwise(cuts)]
    order = data.draw(st.permutations(pieces + data.draw(st.lists(st.sampled_from(pieces), max_size=3))))
    wire = Wire()
    wire.take(segment(first, flags=SYN))
    frames = [segment(first + 1 + begin, piece) for begin, piece in order]
    for frame in frames:
        wire.take(frame)
    seen = wire.finish()
    assert (seen.records, seen.skipped, seen.clear) == (len(contents), 0, [])
    assert seen.sent == {HERE: len(segment(first, flags=SYN)) + sum(map(len, frames))}


@given(payloads, st.binary(min_size=5, max_size=40).filter(lambda data: data[0] not in range(20, 24)))
def test_what_is_no_record_is_shown(contents: list[bytes], clear: bytes) -> None:
    wire, stream = Wire(), b"".join(map(record, contents))
    wire.take(segment(0, flags=SYN))
    wire.take(segment(1, stream))
    wire.take(segment(1 + len(stream), clear))
    assert wire.finish().records == len(contents)
    assert wire.seen.clear == [f"{HERE}:4000 to {THERE}:443: {clear!r}"]


def test_what_began_before_is_counted_as_not_looked_at() -> None:
    wire = Wire()
    wire.take(segment(100, b"anything"))
    assert (wire.finish().skipped, wire.seen.clear) == (8, [])


def test_bytes_behind_a_gap_are_counted_as_not_looked_at() -> None:
    wire = Wire()
    wire.take(segment(0, flags=SYN))
    wire.take(segment(4, b"later"))
    assert (wire.finish().skipped, wire.seen.records) == (5, 0)


def test_datagrams_are_in_the_clear() -> None:
    wire = Wire()
    wire.take(packet(bytes(8) + b"name?", 17))
    assert wire.seen.clear[0].startswith(f"{HERE} sent a datagram")


def test_other_protocols_are_left_out() -> None:
    wire = Wire()
    wire.take(bytes(12) + b"\x08\x06" + bytes(40))  # ARP
    assert wire.finish().sent == {}


def test_the_command_listens_to_a_real_interface() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.reliability.wire", "lo"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != "listens\n":
        output, error = process.communicate()
        if "PermissionError" in error:
            pytest.skip("listening to an interface takes root")
        raise AssertionError(output + error)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"in the clear")
        assert accepted.recv(100) == b"in the clear"
        output, _ = process.communicate("")
    seen = json.loads(output)
    assert any("in the clear" in found for found in seen["clear"])
    assert seen["sent"]["127.0.0.1"] > 12
