"""A few pages that a process shows over HTTP, from a thread of its own: they are read, and change nothing."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs, web

from pipeline.messages import listening
from pipeline.messages.connections import answering

log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 64
_FRESH_SECONDS = 0.25
"""A page is not made more often than this, however many ask for it: the process has other work."""
_LARGEST_BODY = 1024
_CLOSE_SECONDS = 5.0
_ANSWER_SECONDS = 1.0
"""Of one process for another's page."""


class Page(NamedTuple):
    """What is answered."""

    text: str
    status: int = 200
    kind: str = "text/plain; charset=utf-8"


def fetched(path: Path, page: str) -> str:
    """A page that another process of this machine serves at a socket; empty if it does not answer, or not with 200."""
    request = f"GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    answer = bytearray()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_ANSWER_SECONDS)
        client.connect(str(path))
        client.sendall(request.encode())
        while piece := client.recv(2**16):
            answer += piece
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] == [b"200"]:
            return body.decode()
    return ""


class Pages:
    """Answers GET until it is closed.

    Args:
      at: where requests come in, of `listening`; it is closed at the end.
      pages: by path, such as "/healthz". Each is called in a thread of this server; what it raises is answered as 500.
    """

    def __init__(self, at: socket.socket, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._at, self._pages = at, [_Shown(path, make) for path, make in pages.items()]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
        self._thread.start()
        self._is_up.wait(_CLOSE_SECONDS)

    @property
    def address(self) -> str:
        """Where it listens: `host:port`, or `unix:/path`."""
        return listening.address_of(self._at)

    def close(self) -> None:
        """Answers what is under way, ends the thread, and removes the socket's path if it has one."""
        if self._loop is not None and self._ended is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(_CLOSE_SECONDS)
        listening.close(self._at)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # the process's work goes on without its pages
            log.exception("the pages are not served any more")

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=_LARGEST_BODY)
        makers = ThreadPoolExecutor(len(self._pages), "page")
        for page in self._pages:
            app.router.add_get(page.path, page.answer(makers))
        async with answering(app, self._at.dup(), _MOST_CONNECTIONS):  # closing it is this class's
            self._is_up.set()
            await self._ended.wait()
        makers.shutdown(wait=False, cancel_futures=True)


class _Shown:
    """A page and when it was last made."""

    def __init__(self, path: str, make: Callable[[], Page]) -> None:
        self.path, self._make = path, make
        self._lock = asyncio.Lock()  # requests at once share one page
        self._newest: Page | None = None
        self._made_at = 0.0

    def answer(self, makers: ThreadPoolExecutor) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler of its path."""

        async def handler(_: web.Request) -> web.Response:
            async with self._lock:
                if self._newest is None or time.monotonic() - self._made_at > _FRESH_SECONDS:
                    self._newest = await asyncio.get_running_loop().run_in_executor(makers, self._page)
                    self._made_at = time.monotonic()
                page = self._newest
            return web.Response(body=page.text.encode(), status=page.status, headers={hdrs.CONTENT_TYPE: page.kind})

        return handler

    def _page(self) -> Page:
        try:
            return self._make()
        except Exception as error:
            log.exception("%s could not be made", self.path)
            return Page(f"{type(error).__name__}: {error}\n", 500)
