"""Clients of `pipeline.serve` that hold connections, send slowly, much or nonsense, or do not read.

A load beside which others are to be answered.

Example:
  python -m benchmarks.parts.bad_clients 8501 200   # the server's port, and how many clients; SIGTERM ends them
"""

import asyncio
import itertools
import random
import sys
from collections.abc import Awaitable, Callable

PREDICT = b"POST /v1/models/policy:predict HTTP/1.1\r\nHost: localhost\r\n"
_PAUSE_SECONDS = 0.5
_MUCH_PAUSE_SECONDS = 5.0
"""Of those who send much: it is the server's work that they are to be a load of, not the machine's memory bandwidth."""

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _request(body: bytes) -> bytes:
    return PREDICT + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a part of a head, and waits."""
    writer.write(PREDICT[: random.randrange(1, len(PREDICT))])
    await reader.read()


async def slow_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends headers for ever."""
    writer.write(PREDICT)
    for number in itertools.count():
        writer.write(b"X-%d: 1\r\n" % number)
        await writer.drain()
        await asyncio.sleep(_PAUSE_SECONDS)


async def slow_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announces a body and sends it byte by byte."""
    writer.write(PREDICT + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(_PAUSE_SECONDS)


async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends 6 MB of observations, and reads the reply."""
    writer.write(_request(b'{"instances": [%s[0.1, 0.2, 0.3, 0.4]]}' % (b"[0.1234,0.2,0.31,0.4], " * 250_000)))
    await reader.read(2**26)
    await asyncio.sleep(_MUCH_PAUSE_SECONDS)


async def deep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends lists in lists, 100,000 deep."""
    writer.write(_request(b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
    await reader.read(2**16)


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends what is no HTTP."""
    writer.write(random.randbytes(1_000))
    await reader.read()


async def unread(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks again and again, and never reads."""
    while True:
        writer.write(_request(b'{"instances": [%s[0.1, 0.2, 0.3, 0.4]]}' % (b"[0.1234,0.2,0.31,0.4], " * 1_000)))
        await writer.drain()
        await asyncio.sleep(_PAUSE_SECONDS)


KINDS: tuple[Client, ...] = (half_a_head, slow_head, slow_body, much, deep, nonsense, unread)


async def one(port: int, kind: Client) -> None:
    """Comes again whenever it was sent away."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await kind(reader, writer)
            finally:
                writer.close()
        except OSError:
            pass
        await asyncio.sleep(_PAUSE_SECONDS)


async def all_of(port: int, count: int) -> None:
    """So many clients, of each kind in turn, until they are cancelled."""
    await asyncio.gather(*(one(port, KINDS[number % len(KINDS)]) for number in range(count)))


if __name__ == "__main__":
    asyncio.run(all_of(int(sys.argv[1]), int(sys.argv[2])))
