"""The link that can be made bad: that it delays, holds back and ends what it should, and loses nothing else."""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from bad_link import BadLink


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=send_back, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def send_back(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def link(echo: int) -> Iterator[BadLink]:
    made = BadLink(echo)
    yield made
    made.close()


@pytest.fixture
def connect(link: BadLink) -> Iterator[Callable[[], socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", link.port), 60))


def ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    return receive(connection, len(question))


def receive(connection: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (data := connection.recv(65536)):
        answer += data
    return answer


def is_silent(connection: socket.socket, seconds: float = 0.3) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(60)
    return False


def seconds_of(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def test_all_bytes_pass_both_ways_and_so_does_the_end(connect: Callable[[], socket.socket]) -> None:
    connection, data = connect(), np.random.default_rng(0).bytes(20_000_000)
    received = hashlib.sha256()

    def drain() -> None:
        while part := connection.recv(65536):
            received.update(part)

    reader = threading.Thread(target=drain)
    reader.start()
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    reader.join(60)
    assert not reader.is_alive(), "the end did not pass"
    assert received.digest() == hashlib.sha256(data).digest()


def test_a_delay_holds_for_each_way_and_not_for_each_byte(link: BadLink, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    ask(connection, b"a")
    link.delay = 0.2
    many = seconds_of(lambda: ask(connection, bytes(1_000_000)))
    assert seconds_of(lambda: ask(connection, b"b")) >= 0.4
    assert many < 61 * 0.4, "of 61 pieces"
    link.delay = 0.0
    assert ask(connection, b"c") == b"c"


def test_a_rate_is_of_all_connections_together(link: BadLink, connect: Callable[[], socket.socket]) -> None:
    connections = [connect() for _ in range(2)]
    link.rate = 500_000
    threads = [threading.Thread(target=ask, args=(connection, bytes(200_000))) for connection in connections]

    def together() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert seconds_of(together) > 0.75, "400,000 bytes at 500,000 a second"


def test_a_cut_link_holds_bytes_and_ends(link: BadLink, connect: Callable[[], socket.socket]) -> None:
    open_before, ending = connect(), connect()
    assert ask(open_before, b"a") + ask(ending, b"b") == b"ab"
    link.cut()
    open_before.sendall(b"held")
    ending.shutdown(socket.SHUT_WR)
    new = connect()
    new.sendall(b"new")
    assert is_silent(open_before)
    assert is_silent(ending)
    assert is_silent(new)
    link.restore()
    assert receive(open_before, 4) == b"held"
    assert ending.recv(1) == b""
    assert receive(new, 3) == b"new"


def test_a_reset_ends_what_is_open_and_lets_others_in(link: BadLink, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    assert ask(connection, b"a") == b"a"
    link.reset()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert ask(connect(), b"b") == b"b"


def test_a_server_that_resets_and_one_that_is_away_are_passed_on() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        link = BadLink(listener.getsockname()[1])
        stack.callback(link.close)
        first = stack.enter_context(socket.create_connection(("127.0.0.1", link.port), 60))
        server, _ = listener.accept()
        first.sendall(b"unread")
        server.recv(1, socket.MSG_PEEK)
        server.close()  # with bytes unread: a reset
        with pytest.raises(ConnectionResetError):
            first.recv(1)
        listener.close()
        with pytest.raises(
            ConnectionResetError
        ):  # by either: the link may have found the server away before `connect` returns
            stack.enter_context(socket.create_connection(("127.0.0.1", link.port), 60)).recv(1)
