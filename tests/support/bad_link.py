"""A TCP link that can be made bad while it is in use: far, narrow, cut, or such that connections break.

What happens to packets on a network, a TCP connection sees as delay or as its end: what is lost is sent again. So this
link delays and ends connections, and loses no byte of one that goes on.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable

_PIECE = 16_384
_PIECES_ON_THE_WAY = 512
"""Of one direction of a connection. Whoever sends more waits."""
_CATCH_UP_SECONDS = 0.01
"""That the loop may oversleep without losing of the rate."""
_SECONDS = 30.0


class BadLink:
    """Listens on a free port and connects through to a server.

    Args:
      port: of the server.
      host: of the server.
      listen: address of the interface to listen on.
      delay: seconds that a byte takes each way; may be changed at any time.
      rate: bytes per second each way, of all connections together, or None; may be changed at any time.
    """

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        listen: str = "127.0.0.1",
        delay: float = 0.0,
        rate: float | None = None,
    ) -> None:
        self._target = host, port
        self.delay, self.rate = delay, rate
        listener = socket.create_server((listen, 0))
        self.port: int = listener.getsockname()[1]
        self._up, self._closing = asyncio.Event(), asyncio.Event()
        self._up.set()
        self._out, self._back = _Way(self), _Way(self)
        self._writers: set[asyncio.StreamWriter] = set()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="bad link", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing passes. Connections stay open, new ones are taken, and what is sent waits."""
        self._do(self._up.clear)

    def restore(self) -> None:
        """Lets what has waited pass, and what follows."""
        self._do(self._up.set)

    def reset(self) -> None:
        """Ends all connections by a reset to both sides; what was on its way is lost. New ones are taken."""
        self._do(self._reset_all)

    def close(self) -> None:
        """Ends all connections, and the link."""
        self._do(self._closing.set)
        self._thread.join(_SECONDS)

    async def arrive(self, sent_at: float) -> None:
        """Waits until what was sent then arrives."""
        await asyncio.sleep(max(0.0, sent_at + self.delay - self._loop.time()))
        await self._up.wait()

    def _do(self, action: Callable[[], None]) -> None:
        """Has the loop's thread do something, and waits until it is done."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(_SECONDS)

    def _run(self, listener: socket.socket) -> None:
        async def serve() -> None:
            async with await asyncio.start_server(self._connect, sock=listener):
                await self._closing.wait()
            await asyncio.sleep(0)  # connections that were taken just now begin
            self._reset_all()

        with self._runner:
            self._runner.run(serve())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far_writer = None
        try:
            await self.arrive(self._loop.time())
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._writers.add(far_writer)
            await asyncio.gather(self._out.carry(reader, far_writer), self._back.carry(far_reader, writer))
        except ConnectionError:
            _reset(writer)
        finally:
            for end in filter(None, (writer, far_writer)):
                self._writers.discard(end)
                end.close()

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)


class _Way:
    """One direction of a link, which its connections share."""

    def __init__(self, link: BadLink) -> None:
        self._link = link
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries a connection's bytes, and then how it ended."""
        pieces: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_PIECES_ON_THE_WAY)
        await asyncio.gather(self._take(reader, pieces), self._hand_over(pieces, writer))

    async def _take(self, reader: asyncio.StreamReader, pieces: "asyncio.Queue[tuple[float, bytes | None]]") -> None:
        data: bytes | None = b"-"
        while data:
            try:
                data = await reader.read(_PIECE)
            except ConnectionError:
                data = None
            await self._transmit(len(data or b""))
            await pieces.put((asyncio.get_running_loop().time(), data))

    async def _transmit(self, size: int) -> None:
        """Takes the time that the rate asks for."""
        async with self._turn:
            if rate := self._link.rate:
                now = asyncio.get_running_loop().time()
                self._free_at = max(self._free_at, now - _CATCH_UP_SECONDS) + size / rate
                await asyncio.sleep(max(0.0, self._free_at - now))

    async def _hand_over(
        self, pieces: "asyncio.Queue[tuple[float, bytes | None]]", writer: asyncio.StreamWriter
    ) -> None:
        data: bytes | None = b"-"
        while data:
            sent_at, data = await pieces.get()
            await self._link.arrive(sent_at)
            try:
                if data:
                    writer.write(data)
                    await writer.drain()
                elif data is None:
                    _reset(writer)
                elif not writer.is_closing():
                    writer.write_eof()
            except ConnectionError:
                continue  # nobody is there to take it: the other direction carries the news


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
