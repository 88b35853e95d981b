"""What a request of so many bytes and its short reply take, by each transport."""

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pipeline.messages import listening
from pipeline.security.certificate_authority import Authority
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import ClientSide, Credentials, InferenceSide, Side

_REPLY_BYTES = 400
_ASKED = 300
"""Requests of a measurement of a transport."""


def _echo(bound: socket.socket, size: int) -> None:
    connection, _ = bound.accept()
    buffer = bytearray(size)
    while True:
        have = 0
        while have < size:
            count = connection.recv_into(memoryview(buffer)[have:])
            if not count:
                return
            have += count
        connection.sendall(bytes(_REPLY_BYTES))


def _over_socket(bound: socket.socket, size: int, stack: ExitStack, way: str = "") -> Callable[[bytes], None]:
    """By a connection to a socket that listens, or to a path from which another way leads there."""
    process = multiprocessing.get_context("fork").Process(target=_echo, args=(bound, size), daemon=True)
    process.start()
    stack.callback(process.join)
    family = socket.AF_UNIX if way else bound.family
    connection = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    connection.connect(way or bound.getsockname())
    if family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = bytearray(_REPLY_BYTES)

    def ask(data: bytes) -> None:
        connection.sendall(data)
        have = 0
        while have < len(back):
            have += connection.recv_into(memoryview(back)[have:])

    return ask


def _over_unix(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reverb-dqn-"))
    return _over_socket(stack.enter_context(listening.at_path(Path(folder) / "echo.sock")), size, stack)


def _over_tcp(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    return _over_socket(stack.enter_context(listening.at_port("127.0.0.1", 0)), size, stack)


def _over_tls(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    """By both proxies, as a collector of another host asks; the hosts are this machine."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reverb-dqn-")))
    made = Authority(folder / "certificates")
    made.create(["localhost"], days=1, authority_days=1)
    bound = stack.enter_context(listening.at_port("127.0.0.1", 0))

    def start(side: Side) -> Proxy:
        proxy = Proxy(side, folder / "log")
        stack.callback(proxy.stop)
        proxy.start()
        return proxy

    of_server, of_collector = (Credentials(made.certificate, made.of(role)) for role in ("inference", "collector"))
    there = start(InferenceSide(of_server, "127.0.0.1", 0, listening.address_of(bound)))
    port = int(there.address.rpartition(":")[2])
    here = start(ClientSide(of_collector, folder / "s", "localhost", 1, "localhost", port))
    return _over_socket(bound, size, stack, here.inference_address.removeprefix("unix:"))


def _over_memory(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    """Shared memory, and a byte over a socket that says that something is there."""
    import mmap

    shared, (here, there) = mmap.mmap(-1, size + _REPLY_BYTES), socket.socketpair()

    def answer() -> None:
        here.close()
        while there.recv(1):
            bytes(shared[:size])
            shared[size:] = bytes(_REPLY_BYTES)
            there.send(b"x")

    process = multiprocessing.get_context("fork").Process(target=answer, daemon=True)
    process.start()
    stack.callback(process.join)
    there.close()
    stack.callback(here.close)

    def ask(data: bytes) -> None:
        shared[:size] = data
        here.send(b"x")
        here.recv(1)
        bytes(shared[size:])

    return ask


def _over_grpc(_: int, stack: ExitStack) -> Callable[[bytes], None]:
    """A stream of gRPC in Python, over a Unix socket."""
    import queue

    import grpc  # type: ignore[import-untyped]

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reverb-dqn-"))
    address, unbounded = f"unix:{folder}/echo.sock", [("grpc.max_receive_message_length", -1)]
    answering = multiprocessing.get_context("spawn").Process(target=_answer_grpc, args=(address,), daemon=True)
    answering.start()
    stack.callback(answering.kill)
    channel = grpc.insecure_channel(address, options=unbounded)
    grpc.channel_ready_future(channel).result(60.0)
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    replies = channel.stream_stream("/echo/ask")(iter(asked.get, None))
    stack.callback(channel.close)
    stack.callback(asked.put, None)

    def ask(data: bytes) -> None:
        asked.put(data)
        next(replies)

    return ask


def _answer_grpc(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    handler = grpc.stream_stream_rpc_method_handler(lambda asked, _: (bytes(_REPLY_BYTES) for _ in asked))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"ask": handler}),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


_WAYS: dict[str, Callable[[int, ExitStack], Callable[[bytes], None]]] = {
    "shared memory": _over_memory,
    "Unix socket": _over_unix,
    "TCP": _over_tcp,
    "gRPC": _over_grpc,
    "both proxies, TLS": _over_tls,
}


def measure(size: int, repeats: int) -> list[tuple[str, ...]]:
    """Rows of the table: bytes, transport, and microseconds of a request and its reply.

    Args:
      size: bytes of a request.
      repeats: measurements of each transport.
    """
    data = np.random.default_rng(0).bytes(size)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _WAYS}
    for _ in range(repeats):
        for name, way in _WAYS.items():
            with ExitStack() as stack:
                ask = way(size, stack)
                for _ in range(20):
                    ask(data)
                took = []
                for _ in range(_ASKED):
                    began = time.perf_counter()
                    ask(data)
                    took.append(1e6 * (time.perf_counter() - began))
                p50, p99 = np.percentile(took, [50, 99]).tolist()
                found[name].append((p50, p99))
    rows: list[tuple[str, ...]] = []
    for name, measured in found.items():
        p50, p99 = (statistics.median(each[column] for each in measured) for column in (0, 1))
        rows.append((f"{size:,}", name, f"{p50:,.0f}", f"{p99:,.0f}"))
        print(*rows[-1], sep=" | ", flush=True)
    return rows
