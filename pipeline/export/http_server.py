"""A policy over HTTP, with the interface of TensorFlow Serving's REST predictions."""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

from pipeline.export import predict_json
from pipeline.export.predict_json import BadRequest
from pipeline.export.served_policy import NoAction, ServedPolicy

log = logging.getLogger(__name__)

NAME = "policy"
_LARGEST_BODY = 64 * 2**20
_BODY_SECONDS = 30.0
_LEAVE_SECONDS = 5.0
"""For requests under way when the server is told to end."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(policy: ServedPolicy) -> web.Application:
    """The routes of a policy."""
    reader = predict_json.Reader(policy.interface)
    metadata, status = predict_json.metadata(policy.interface, NAME), predict_json.status()

    async def predict(http: web.Request) -> web.Response:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await http.read()
        try:
            request = reader.request(body)
            outputs = policy.act(reader.arrays(request))
        except (BadRequest, NoAction) as error:
            return _json(predict_json.failure(str(error)), 400)
        return _json(predict_json.reply(outputs, request.by_rows))

    async def get_status(_: web.Request) -> web.Response:
        return _json(status)

    async def get_metadata(_: web.Request) -> web.Response:
        return _json(metadata)

    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_failures_as_json])
    app.router.add_post(f"/v1/models/{NAME}:predict", predict)
    app.router.add_get(f"/v1/models/{NAME}", get_status)
    app.router.add_get(f"/v1/models/{NAME}/metadata", get_metadata)
    return app


async def serve(policy: ServedPolicy, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answers until SIGTERM or SIGINT, then what is under way.

    Args:
      policy: what answers.
      listening: where requests come in; it is closed at the end.
      ready: called once they are answered.
    """
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(application(policy), access_log=None, shutdown_timeout=_LEAVE_SECONDS)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    ready()
    await ended.wait()
    await runner.cleanup()


@web.middleware
async def _failures_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:  # no such path, method, or too large a body
        return _json(predict_json.failure(f"{request.method} {request.path}: {error.reason}"), error.status)
    except TimeoutError:
        return _json(predict_json.failure(f"the body did not arrive within {_BODY_SECONDS:.0f} s"), 408)
    except Exception as error:  # the shield's, or ours
        log.exception("%s %s", request.method, request.path)
        return _json(predict_json.failure(f"{type(error).__name__}: {error}"), 500)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
