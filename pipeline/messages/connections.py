"""Connections that clients cannot hold for ever: a deadline for each part of a request, and a bound on their number."""

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

log = logging.getLogger(__name__)

_HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte or a new connection on."""
_IDLE_SECONDS = 60.0
"""Between two requests, and for the client to read a reply."""
BODY_SECONDS = 30.0
LEAVE_SECONDS = 5.0
"""For requests under way when the server is told to end."""
_UNREAD_SECONDS = 1.0
"""In which the rest of a body that was refused is read, so that its client sees why."""
_BACKLOG = 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """The connections of a server, each with a deadline for what its client is to do next.

    At the most there may be, a new one takes the place of the one whose client is waited for longest; those whose
    requests are being answered are left alone.

    Args:
      handler: makes the protocol of one connection.
      most: connections at once.
    """

    def __init__(self, handler: Callable[[], asyncio.Protocol], most: int) -> None:
        self._handler, self._most = handler, most
        self._all: dict[asyncio.BaseTransport, _Connection] = {}
        self._waited_for: OrderedDict[_Connection, None] = OrderedDict()
        self._cut = 0

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Connection(self._handler(), self)

    def __len__(self) -> int:
        return len(self._all)

    def body_is_due(self, transport: asyncio.BaseTransport | None) -> None:
        """A request's head is there, and its body is read."""
        self._change(transport, BODY_SECONDS)

    def is_answered(self, transport: asyncio.BaseTransport | None) -> None:
        """A request is there as a whole: the client is waited for no more."""
        self._change(transport, None)

    def reply_is_due(self, transport: asyncio.BaseTransport | None) -> None:
        """The reply is being sent: the client is to read it, and may send another request."""
        self._change(transport, _IDLE_SECONDS)

    def _change(self, transport: asyncio.BaseTransport | None, seconds: float | None) -> None:
        if transport is not None and (connection := self._all.get(transport)):
            self.wait(connection, seconds)

    def add(self, connection: "_Connection", transport: asyncio.Transport) -> None:
        """Takes up a new connection, in the place of another one where there are too many."""
        if len(self._all) >= self._most:
            longest = next(iter(self._waited_for), None)
            self._note_cut()
            if longest is None:  # all are being answered
                transport.abort()
                return
            longest.cut()
        self._all[transport] = connection
        self.wait(connection, _HEAD_SECONDS)

    def wait(self, connection: "_Connection", seconds: float | None) -> None:
        """Gives a connection its next deadline, or none while it is answered."""
        connection.set_deadline(seconds)
        self._waited_for.pop(connection, None)
        if seconds is not None:
            self._waited_for[connection] = None

    def head_begins(self, connection: "_Connection") -> None:
        """The first bytes of a request have come; the place in the row of those waited for stays."""
        connection.set_deadline(_HEAD_SECONDS)

    def remove(self, connection: "_Connection", transport: asyncio.BaseTransport) -> None:
        """Forgets a connection that has ended."""
        connection.set_deadline(None)
        self._all.pop(transport, None)
        self._waited_for.pop(connection, None)

    def _note_cut(self) -> None:
        self._cut += 1
        if self._cut & (self._cut - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            log.warning("%d connections at once: %d cut so far, to let others in", self._most, self._cut)


CONNECTIONS = web.AppKey("connections", Connections)
"""An application's, while it answers."""


@asynccontextmanager
async def answering(app: web.Application, listening: socket.socket, most: int) -> AsyncIterator[Connections]:
    """Has an application answer HTTP while the context is open, and at its end what is under way.

    Args:
      app: what answers; it gets the deadlines around its own middlewares.
      listening: where requests come in; it is closed at the end.
      most: connections at once.

    Yields:
      The connections, which are also the application's `CONNECTIONS`.
    """
    app.middlewares.insert(0, _with_deadlines)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_SECONDS, lingering_time=_UNREAD_SECONDS)

    def handler() -> asyncio.Protocol:
        server = runner.server
        assert server is not None
        return server()

    connections = app[CONNECTIONS] = Connections(handler, most)
    await runner.setup()
    loop = asyncio.get_running_loop()
    if listening.family == socket.AF_UNIX:
        server = await loop.create_unix_server(connections, sock=listening, backlog=_BACKLOG)
    else:
        server = await loop.create_server(connections, sock=listening, backlog=_BACKLOG)
    yield connections
    server.close()
    await runner.cleanup()


@web.middleware
async def _with_deadlines(request: web.Request, handler: Handler) -> web.StreamResponse:
    connections = request.app[CONNECTIONS]
    connections.body_is_due(request.transport)
    try:
        return await handler(request)
    finally:
        connections.reply_is_due(request.transport)


class _Connection(asyncio.Protocol):
    """Hands what happens on one connection to its protocol, and watches when."""

    def __init__(self, handler: asyncio.Protocol, connections: Connections) -> None:
        self._handler, self._connections = handler, connections
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._idle = False

    def set_deadline(self, seconds: float | None) -> None:
        """Cuts the connection so many seconds from now; none takes the deadline away."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._idle = seconds == _IDLE_SECONDS
        self._deadline = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.cut)

    def cut(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._connections.remove(self, self._transport)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._handler.connection_made(transport)
        self._connections.add(self, transport)

    def data_received(self, data: bytes) -> None:
        if self._idle:
            self._connections.head_begins(self)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._connections.remove(self, self._transport)
        self._handler.connection_lost(error)
