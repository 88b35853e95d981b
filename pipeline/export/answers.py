"""Replies to predict requests, made beside the server's loop: small ones together in a thread, large ones apart."""

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import queue
import resource
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.export import predict_json
from pipeline.export.directory import ExportedPolicy
from pipeline.export.predict_json import BadRequest, Reader
from pipeline.export.served_policy import NoAction, ServedPolicy

log = logging.getLogger(__name__)

_SMALL = 8 * 2**10
_SMALL_ROWS = 4
_NUMBER = 8
"""Bytes that a number takes in JSON, about."""
_ADDRESS_SPACE = 8 * 2**30
"""Bytes that the process of large requests may map: a body of 64 MiB becomes ten times as much in Python's objects."""
_LARGE_SECONDS = 60.0
"""For one large request; 64 MiB of small numbers take about 15 s."""
_START_SECONDS = 120.0
_NICE = 10
"""Of the process of large requests: the small ones come first."""
_MOST_WAITING = 512
_MOST_TOGETHER = 64
_MOST_LARGE_BYTES = 256 * 2**20
_ENDS = "the server ends, and has not come to this request: ask another one"
_MOST_LARGE = 32
"""Large requests whose bodies are read, wait or are answered."""


class Reply(NamedTuple):
    """The status and the body of a reply."""

    status: int
    body: bytes


class Busy(Exception):
    """There is more to do than may wait, in one line."""


class _Waiting(NamedTuple):
    body: bytes
    reply: "asyncio.Future[Reply]"


class Answers:
    """Answers requests with a policy.

    Small requests that wait for the thread are answered by one call of the network. Large ones go to a process of
    their own, which starts with the first, so that nothing small waits for them.

    Args:
      policy: what answers.

    Raises:
      UsageError: there is no such shield.
    """

    def __init__(self, policy: ExportedPolicy) -> None:
        self._policy, self._reader = ServedPolicy(policy), Reader(policy.interface)
        self.interface = policy.interface
        numbers = sum(math.prod(tensor.shape) for tensor in policy.interface.inputs().values())
        self.small_bytes = max(_SMALL, _SMALL_ROWS * numbers * _NUMBER)
        """A body of so many is small: the others do not notice it."""
        self._small: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting = self._large_ones = self._large_bytes = 0
        self._large = _LargeRequests(policy)
        self._large_thread = ThreadPoolExecutor(1, "large requests")
        self._loop = asyncio.get_running_loop()
        self._promised: set[asyncio.Future[Reply]] = set()
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, name="small requests", daemon=True)
        self._thread.start()

    async def small(self, body: bytes) -> Reply:
        """The reply to a small request.

        Raises:
          Busy: too many wait, or the server ends.
        """
        if self._waiting >= _MOST_WAITING:
            raise Busy(f"{_MOST_WAITING} requests wait already: ask again later")
        reply = self._promise()
        self._waiting += 1
        try:
            self._small.put(_Waiting(body, reply))
            return await reply
        finally:
            self._waiting -= 1

    @contextmanager
    def place(self, size: int) -> Iterator[None]:
        """A place among the large requests, for a body of `size` bytes from its reading on.

        Raises:
          Busy: there is none.
        """
        if self._large_ones >= _MOST_LARGE or self._large_bytes + size > _MOST_LARGE_BYTES:
            raise Busy(f"{self._large_ones} large requests are under way: ask again later, or send fewer rows at once")
        self._large_ones += 1
        self._large_bytes += size
        try:
            yield
        finally:
            self._large_ones -= 1
            self._large_bytes -= size

    async def large(self, body: bytes) -> Reply:
        """The reply to a large request; its place has to be taken.

        Raises:
          Busy: the server ends.
        """
        reply = self._promise()

        def answer() -> None:
            found = Reply(*self._large.answer(body))
            self._loop.call_soon_threadsafe(_deliver, [_Waiting(body, reply)], [found])

        self._large_thread.submit(answer)
        return await reply

    def _promise(self) -> "asyncio.Future[Reply]":
        """A reply that comes, or the word that it does not."""
        if self._is_leaving:
            raise Busy(_ENDS)
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._promised.add(reply)
        reply.add_done_callback(self._promised.discard)
        return reply

    def leave(self) -> None:
        """Refuses what waits for its reply, and what comes from now on."""
        self._is_leaving = True
        for reply in list(self._promised):
            if not reply.done():
                reply.set_exception(Busy(_ENDS))

    def close(self) -> None:
        """Ends thread and process; `leave` first, or what they have under way gets no reply."""
        self._small.put(None)
        self._large.close()
        self._large_thread.shutdown(wait=True)
        self._thread.join()

    def _run(self) -> None:
        while waiting := self._next():
            replies = answer_together(self._policy, self._reader, [each.body for each in waiting])
            self._loop.call_soon_threadsafe(_deliver, waiting, replies)

    def _next(self) -> list[_Waiting]:
        """All that wait, at least one; nothing at the end."""
        found = []
        each = self._small.get()
        while each is not None:
            found.append(each)
            if len(found) == _MOST_TOGETHER or self._small.empty():
                return found
            each = self._small.get()
        return []


def _deliver(waiting: Sequence[_Waiting], replies: Sequence[Reply]) -> None:
    for each, reply in zip(waiting, replies, strict=True):
        if not each.reply.done():  # its client may have left
            each.reply.set_result(reply)


class _Read(NamedTuple):
    arrays: dict[str, NDArray[Any]]
    by_rows: bool


class _LargeRequests:
    """A process that answers one request at a time; it starts with the first, and again after it was lost.

    Args:
      policy: what answers.
    """

    def __init__(self, policy: ExportedPolicy) -> None:
        self._policy = policy
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._lock = threading.Lock()

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the reply; 503 where the process was lost or took too long."""
        try:
            connection = self._started()
            connection.send_bytes(body)
            if not connection.poll(_LARGE_SECONDS):
                self._end()
                return 503, predict_json.failure(
                    f"the request took more than {_LARGE_SECONDS:.0f} s: send fewer rows at once"
                )
            status = int.from_bytes(connection.recv_bytes())
            return status, connection.recv_bytes()
        except (EOFError, OSError) as error:
            log.warning("the process of large requests was lost: %s", error or type(error).__name__)
            self._end()
            return 503, predict_json.failure(
                "the process that answers large requests was lost: send fewer rows at once"
            )

    def close(self) -> None:
        """Ends the process, and the request that it has under way."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        self._end()

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve_large, args=(theirs, self._policy), name="large requests", daemon=True)
        with self._lock:
            if self._closed:
                raise EOFError("the server ends")
            process.start()
            self._process, self._connection = process, ours
        theirs.close()
        if not ours.poll(_START_SECONDS):
            raise EOFError(f"it was not there after {_START_SECONDS:.0f} s")
        ours.recv_bytes()
        return ours

    def _end(self) -> None:
        with self._lock:
            process, connection = self._process, self._connection
            self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join()
            process.close()
        if connection is not None:
            connection.close()


def _serve_large(connection: Connection, exported: ExportedPolicy) -> None:
    """What runs in the process of large requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the whole group; the server ends this process
    os.nice(_NICE)
    gc.disable()  # rows become millions of objects without a cycle, and looking through them takes ten times the rest
    policy, reader = ServedPolicy(exported), Reader(exported.interface)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, hard))
    connection.send_bytes(b"ready")
    while True:
        try:
            body = connection.recv_bytes()
        except EOFError:
            return
        (reply,) = answer_together(policy, reader, [body])
        connection.send_bytes(reply.status.to_bytes(2))
        connection.send_bytes(reply.body)


def answer_together(policy: ServedPolicy, reader: Reader, bodies: Sequence[bytes]) -> list[Reply]:
    """The replies to several requests, by as few calls of the network as can be.

    Each gets what it would get alone: 200, 400 for what is wrong with it, or 500 where policy or shield fail. Where one
    has no action or fails, all are answered one by one.
    """
    replies: list[Reply | None] = [None] * len(bodies)
    alike: dict[tuple[str, ...], list[tuple[int, _Read]]] = {}
    for index, body in enumerate(bodies):
        try:
            request = reader.request(body)
            read = _Read(reader.arrays(request), request.by_rows)
        except BadRequest as error:
            replies[index] = Reply(400, predict_json.failure(str(error)))
        except Exception as error:
            replies[index] = _failed(error)
        else:
            alike.setdefault(tuple(read.arrays), []).append((index, read))
    for group in alike.values():
        for (index, _), reply in zip(group, _act(policy, [read for _, read in group]), strict=True):
            replies[index] = reply
    return [reply for reply in replies if reply is not None]


def _act(policy: ServedPolicy, group: Sequence[_Read]) -> list[Reply]:
    counts = [len(next(iter(read.arrays.values()))) for read in group]
    try:
        outputs = policy.act({name: np.concatenate([read.arrays[name] for read in group]) for name in group[0].arrays})
    except Exception as error:
        if len(group) > 1:
            return [reply for read in group for reply in _act(policy, [read])]
        if isinstance(error, NoAction):
            return [Reply(400, predict_json.failure(str(error)))]
        return [_failed(error)]
    ends = np.cumsum(counts)
    return [
        Reply(200, predict_json.reply(_rows(outputs, end - count, end), read.by_rows))
        for read, count, end in zip(group, counts, ends, strict=True)
    ]


def _rows(outputs: Mapping[str, NDArray[Any]], start: int, end: int) -> dict[str, NDArray[Any]]:
    return {name: array[start:end] for name, array in outputs.items()}


def _failed(error: Exception) -> Reply:
    """Of the shield's, or ours: the log has its traceback."""
    if isinstance(error, MemoryError):
        return Reply(413, predict_json.failure("the request needs too much memory: send fewer rows at once"))
    log.error("a request failed", exc_info=error)
    return Reply(500, predict_json.failure(f"{type(error).__name__}: {error}"))
