"""What clients can do to a server that answers others: hold, crowd, flood, and ask for what nobody could answer."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from untrained import untrained_run

from pipeline.export import answers, directory, http_server
from pipeline.export.directory import ExportedPolicy
from pipeline.export.predict_json import Reader
from pipeline.export.served_policy import ServedPolicy
from pipeline.messages import connections
from pipeline.messages.connections import Connections

pytestmark = pytest.mark.xdist_group("serving")  # one policy for all
SECONDS = 60.0
HEAD = b"POST /v1/models/policy:predict HTTP/1.1\r\nHost: localhost\r\n"
ROW = [0.1, 0.2, 0.3, 0.4]

Client = Callable[[int, Connections], Awaitable[None]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ExportedPolicy:
    run = tmp_path_factory.mktemp("serving") / "run"
    untrained_run(run, "environment.id='CartPole-v1'", "agent.hidden_units=[8]")
    return directory.of_run(run, "best")


def served(policy: ExportedPolicy, client: Client) -> None:
    """Serves a client that runs in the server's loop."""

    async def both() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            async with http_server.serving(policy, listening) as found, asyncio.timeout(SECONDS):
                await client(port, found)

    asyncio.run(both())


def message(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def rows(count: int) -> bytes:
    return json.dumps({"instances": [ROW] * count}).encode()


async def reply_of(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def ask(port: int, body: bytes) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(body))
    answered = await reply_of(reader)
    writer.close()
    return answered


async def until(condition: Callable[[], bool], said: str) -> None:
    for _ in range(int(SECONDS / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(said)


@pytest.mark.parametrize(
    ("part", "deadline"),
    [
        (b"", "_HEAD_SECONDS"),
        (HEAD[:20], "_HEAD_SECONDS"),
        (HEAD + b"Content-Length: 500\r\n\r\n{", "_BODY"),
        (message(rows(1)), "_IDLE_SECONDS"),
        (message(rows(1)) + HEAD[:20], "_IDLE_SECONDS"),
    ],
)
def test_a_client_that_keeps_the_server_waiting_is_cut(
    policy: ExportedPolicy, part: bytes, deadline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deadline == "_BODY":
        monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)
        monkeypatch.setattr(http_server, "BODY_SECONDS", 1e9)
    else:
        monkeypatch.setattr(connections, deadline, 0.3)

    async def client(port: int, found: Connections) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(part)
        await until(lambda: len(found) == 1, "the connection was not taken")
        with contextlib.suppress(ConnectionResetError):
            await reader.read()  # to the end: the server closes
        await until(lambda: not len(found), "the connection stays in the books")
        writer.close()
        assert (await ask(port, rows(1)))[0] == 200

    served(policy, client)


def test_a_slow_body_is_told_so(policy: ExportedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "BODY_SECONDS", 0.3)

    async def client(port: int, _: Connections) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 500\r\n\r\n{")
        status, said = await reply_of(reader)
        assert (status, "did not arrive" in said["error"]) == (408, True)
        writer.close()

    served(policy, client)


@pytest.mark.parametrize("held", [b"", HEAD, HEAD + b"Content-Length: 500\r\n\r\n{"])
def test_connections_that_only_wait_make_room_for_others(
    policy: ExportedPolicy, held: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_MOST_CONNECTIONS", 5)

    async def client(port: int, found: Connections) -> None:
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(held)
            writers.append(writer)
            assert (await ask(port, rows(1)))[0] == 200
            assert len(found) <= 5
        for writer in writers:
            writer.close()

    served(policy, client)


def test_what_is_answered_keeps_its_connection(policy: ExportedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_MOST_CONNECTIONS", 2)

    async def client(port: int, found: Connections) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message(rows(20_000)))  # large: its process takes a while to start
        await asyncio.sleep(0.2)
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        status, said = await reply_of(reader)
        assert (status, len(said["predictions"])) == (200, 20_000)
        for each in (writer, *(other for _, other in crowd)):
            each.close()
        assert len(found) <= 2

    served(policy, client)


def test_large_requests_are_answered_as_small_ones_are(policy: ExportedPolicy) -> None:
    async def client(port: int, _: Connections) -> None:
        _, small = await ask(port, rows(1))
        status, large = await ask(port, rows(5_000))
        assert status == 200
        assert large["predictions"] == small["predictions"] * 5_000
        assert (await ask(port, b'{"instances": [%s]}' % (b"[1], " * 5_000 + b"[1]")))[0] == 400

    served(policy, client)


def test_the_process_of_large_requests_comes_back_after_it_was_killed(policy: ExportedPolicy) -> None:
    async def client(port: int, _: Connections) -> None:
        assert (await ask(port, rows(5_000)))[0] == 200
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        status, said = await ask(port, rows(5_000))
        assert (status, "was lost" in said["error"]) == (503, True)
        assert (await ask(port, rows(1)))[0] == 200
        assert (await ask(port, rows(5_000)))[0] == 200

    def children() -> list[int]:
        found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        names = [int(pid) for each in found for pid in each.read_text().split()]
        return [pid for pid in names if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    served(policy, client)
    assert not children()


def test_more_than_may_wait_is_sent_away(policy: ExportedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_MOST_LARGE_BYTES", 100_000)
    monkeypatch.setattr(answers, "_MOST_WAITING", 0)

    async def client(port: int, _: Connections) -> None:
        for body in (rows(50_000), rows(1)):
            status, said = await ask(port, body)
            assert (status, "ask again later" in said["error"]) == (503, True)

    served(policy, client)


@pytest.mark.parametrize("opening", [b"[", b'{"instances": [', b'{"inputs": {"a": '])
@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_what_is_nested_too_deeply_is_refused(policy: ExportedPolicy, opening: bytes, depth: int) -> None:
    async def client(port: int, _: Connections) -> None:
        status, said = await ask(port, b'{"instances": ' + opening * depth)
        assert (status, "predict request" in said["error"]) == (400, True)
        assert (await ask(port, rows(1)))[0] == 200

    served(policy, client)


def test_requests_that_come_together_are_answered_as_each_alone(policy: ExportedPolicy) -> None:
    served_policy, reader = ServedPolicy(policy), Reader(policy.interface)
    random = np.random.default_rng(0)
    bodies = [json.dumps({"inputs": random.uniform(-1, 1, (count, 4)).tolist()}).encode() for count in (1, 3, 300, 2)]
    bodies[2:2] = [b"{", b'{"inputs": [[1]]}']
    alone = [answers.answer_together(served_policy, reader, [body])[0] for body in bodies]
    assert answers.answer_together(served_policy, reader, bodies) == alone
    assert [reply.status for reply in alone] == [200, 200, 400, 400, 200, 200]


def test_many_clients_at_once_are_all_answered(policy: ExportedPolicy) -> None:
    async def client(port: int, _: Connections) -> None:
        alone = await ask(port, rows(1))
        assert await asyncio.gather(*(ask(port, rows(1)) for _ in range(200))) == [alone] * 200

    served(policy, client)


def test_nobody_notices_clients_that_do_their_worst(policy: ExportedPolicy) -> None:
    from benchmarks.parts import bad_clients

    async def client(port: int, _: Connections) -> None:
        bad = asyncio.create_task(bad_clients.all_of(port, 5 * len(bad_clients.KINDS)))
        alone = await ask(port, rows(1))
        assert [await ask(port, rows(1)) for _ in range(300)] == [alone] * 300
        bad.cancel()
        await asyncio.gather(bad, return_exceptions=True)

    served(policy, client)


def test_requests_that_wait_when_the_server_ends_are_told_so(
    policy: ExportedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "LEAVE_SECONDS", 1.5)
    goes_on, whole = threading.Event(), ServedPolicy.act
    calls: list[int] = []

    def slow(self: ServedPolicy, inputs: Any) -> Any:
        """As with a shield that takes its time."""
        calls.append(len(inputs))
        goes_on.wait(SECONDS / 20)
        return whole(self, inputs)

    monkeypatch.setattr(ServedPolicy, "act", slow)

    async def leave() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            async with http_server.serving(policy, listening):
                async with asyncio.timeout(SECONDS):
                    under_way = asyncio.create_task(ask(port, rows(1)))
                    while not calls:
                        await asyncio.sleep(0.01)
                    waiting = [asyncio.create_task(ask(port, body)) for body in (rows(1), rows(5_000), rows(5_000))]
                    await asyncio.sleep(0.2)
        replies = await asyncio.gather(under_way, *waiting)
        # Large ones are answered by a process of their own, which nothing slows down here: they may be in time.
        assert [status for status, _ in replies[:2]] == [503] * 2
        assert all(status == 200 or (status == 503 and "the server ends" in said["error"]) for status, said in replies)

    try:
        asyncio.run(leave())
    finally:
        goes_on.set()
