"""A server of S3 in a process of its own, and a proxy before it that throttles, cuts and holds."""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
from aiohttp import web
from waiting import wait_until

SERVER = Path(__file__).resolve().parents[2] / ".store" / "bin" / "moto_server"
BUCKET = "runs"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class Proxy:
    """Passes requests on to a server of S3; what it does with each is `treat`, "pass", "slow", "cut" or "hold".

    Args:
      target: the server's port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.treat: Callable[[web.Request], str] = lambda request: "pass"
        self.seen: list[str] = []
        """What it did with each request, with its method and path."""
        self._loop, self._started = asyncio.new_event_loop(), threading.Event()
        self.port = free_port()
        threading.Thread(target=self._run, daemon=True).start()
        assert self._started.wait(30), "the proxy did not start"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        treatment = self.treat(request)
        self.seen.append(f"{treatment} {request.method} {request.path}")
        if treatment == "slow":
            await request.read()
            return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
        if treatment == "cut":  # in the middle of its body
            await request.content.read(1)
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        while treatment == "hold" and self.treat(request) == "hold":
            await asyncio.sleep(0.05)
        body, headers = await request.read(), {key: value for key, value in request.headers.items() if key != "Host"}
        url = f"http://127.0.0.1:{self._target}{request.raw_path}"
        headers["Host"] = f"127.0.0.1:{self.port}"
        async with self._client.request(request.method, url, data=body, headers=headers) as reply:
            content = await reply.read()
            kept = {
                key: value for key, value in reply.headers.items() if key not in ("Content-Length", "Date", "Server")
            }
            kept.pop("Transfer-Encoding", None)
            if request.method == "HEAD":
                kept["Content-Length"] = reply.headers.get("Content-Length", "0")
            return web.Response(status=reply.status, body=content, headers=kept)


@contextlib.contextmanager
def server(folder: Path, **environment: str) -> Iterator[int]:
    """A server of S3; yields its port once it answers."""
    port = free_port()
    with (folder / "moto.log").open("wb") as said:
        command = [str(SERVER), "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment})
        try:
            wait_until(lambda: _answers(port), "the server of S3 answers")
            yield port
        finally:
            process.kill()
            process.wait(30)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        time.sleep(0.1)
        return False
    return True
