"""A policy over HTTP, with the interface of TensorFlow Serving's REST predictions."""

import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from pipeline.export import predict_json
from pipeline.export.answers import Answers, Busy, Reply
from pipeline.export.directory import ExportedPolicy
from pipeline.messages.connections import BODY_SECONDS, CONNECTIONS, LEAVE_SECONDS, Connections, Handler, answering

log = logging.getLogger(__name__)

NAME = "policy"
_LARGEST_BODY = 64 * 2**20
_SWITCH_SECONDS = 5e-4
"""For which a thread may keep the interpreter: the loop does not wait long for it."""
_MOST_CONNECTIONS = 1_000
_TELL_SECONDS = 1.0
"""Before a server's end, in which those that have waited in vain are told so."""
_OTHER_FILES = 100
"""Descriptors that are no connections."""


class _Service:
    """The routes of a policy."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._metadata = predict_json.metadata(answers.interface, NAME)
        self._status = predict_json.status()
        self.app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_failures_as_json])
        self.app.router.add_post(f"/v1/models/{NAME}:predict", self._predict)
        self.app.router.add_get(f"/v1/models/{NAME}", self._get_status)
        self.app.router.add_get(f"/v1/models/{NAME}/metadata", self._get_metadata)

    async def _predict(self, request: web.Request) -> web.Response:
        size = request.content_length or 0
        if size > _LARGEST_BODY:
            raise web.HTTPRequestEntityTooLarge(_LARGEST_BODY, size)
        if request.content_length is None or hdrs.CONTENT_ENCODING in request.headers:  # only its end will tell
            size = _LARGEST_BODY
        if size <= self._answers.small_bytes:
            return _json(await self._answers.small(await self._body(request)))
        with self._answers.place(size):
            body = await self._body(request)
            small = len(body) <= self._answers.small_bytes
            return _json(await (self._answers.small(body) if small else self._answers.large(body)))

    async def _body(self, request: web.Request) -> bytes:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
        request.app[CONNECTIONS].is_answered(request.transport)
        return body

    async def _get_status(self, _: web.Request) -> web.Response:
        return _json(Reply(200, self._status))

    async def _get_metadata(self, _: web.Request) -> web.Response:
        return _json(Reply(200, self._metadata))


@asynccontextmanager
async def serving(policy: ExportedPolicy, listening: socket.socket) -> AsyncIterator[Connections]:
    """Answers while the context is open; at its end, what is under way, or that it does not.

    Args:
      policy: what answers.
      listening: where requests come in; it is closed at the end.

    Yields:
      The connections.

    Raises:
      UsageError: there is no such shield.
    """
    answers = Answers(policy)
    try:
        async with answering(_Service(answers).app, listening, _most_connections()) as connections:
            yield connections
            # Most are answered in time; the others are told so before their connections end.
            leaving = asyncio.get_running_loop().call_later(LEAVE_SECONDS - _TELL_SECONDS, answers.leave)
        leaving.cancel()
    finally:
        answers.close()


async def serve(policy: ExportedPolicy, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answers until SIGTERM or SIGINT; `ready` is called once it does. See `serving`."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    sys.setswitchinterval(_SWITCH_SECONDS)
    async with serving(policy, listening):
        ready()
        await ended.wait()


def _most_connections() -> int:
    """As many as there may be files, but for the others; the limit is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


@web.middleware
async def _failures_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:  # no such path, method, or too large a body
        return _failure(error.status, f"{request.method} {request.path}: {error.reason}")
    except Busy as error:
        response = _failure(503, str(error))
        response.headers[hdrs.RETRY_AFTER] = "1"
        return response
    except TimeoutError:
        return _failure(408, f"the body did not arrive within {BODY_SECONDS:.0f} s")
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return _failure(500, f"{type(error).__name__}: {error}")


def _failure(status: int, sentence: str) -> web.Response:
    return _json(Reply(status, predict_json.failure(sentence)))


def _json(reply: Reply) -> web.Response:
    return web.Response(body=reply.body, status=reply.status, content_type="application/json")
