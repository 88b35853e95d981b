"""Connections to a replay's port are given up when their server is silent; others are left as they are."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from waiting import wait_until

from pipeline.messages.dead_connections import SILENT_SECONDS, time_out_connections


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def limit_of(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_connections_to_the_port_are_limited_and_no_others(listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()) as elsewhere:
        with socket.create_connection(address) as before:
            time_out_connections([f"127.0.0.1:{address[1]}"])
            with socket.create_connection(address) as after:
                wait_until(lambda: limit_of(before) == limit_of(after) == 1_000 * SILENT_SECONDS, "both are limited")
        assert limit_of(elsewhere) == 0


def test_a_proxys_sockets_need_no_thread() -> None:
    threads = threading.active_count()
    time_out_connections(["unix:/somewhere/replay"])
    assert threading.active_count() == threads


def test_descriptors_that_others_close_meanwhile_do_no_harm(run_python: Callable[..., str]) -> None:
    # In a process of its own: descriptors are closed and used again while the thread looks at them.
    code = """
import os, socket, threading, time
from pipeline.messages import dead_connections
dead_connections._LOOK_SECONDS = 0.0
with socket.create_server(("127.0.0.1", 0)) as server:
    dead_connections.time_out_connections([f"127.0.0.1:{server.getsockname()[1]}"])
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        with socket.create_connection(server.getsockname()) as one, server.accept()[0] as two:
            one.sendall(b"whole")
            assert two.recv(5) == b"whole"
        with open(os.devnull, "wb") as file:
            file.write(b"x")
    assert any(thread.name == "silence" for thread in threading.enumerate())
print("unharmed")
"""
    assert "unharmed" in run_python(code)
