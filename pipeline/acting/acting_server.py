"""The acting server: it has the newest weights, and answers collectors that send what their lanes see. No TensorFlow.

One thread reads all connections and calls the network for all requests that are there by then: while it computes,
others come. Each connection has the states of its lanes; they go with it.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from agents import Specs
from agents.struct_types import prepared
from pipeline.acting.batched_network import BatchedNetwork
from pipeline.acting.central_words import (
    LENGTH,
    MOST_HELLO_BYTES,
    Hello,
    Layout,
    Request,
    Welcome,
    packed,
    without_delay,
)
from pipeline.experiment import config
from pipeline.experiment.sections import Experiment
from pipeline.messages import listening
from pipeline.messages.contents import Variables
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records.recorder import Recorder

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 300.0
_TICK_SECONDS = 0.05
_HALF_SECONDS = 30.0
"""For the rest of a message that has begun, and for the hello of a new connection."""
_LEAVE_SECONDS = 15.0
"""For collectors that end in good order: as long as they take for their last windows."""
_LOG_SECONDS = 10.0
_MOST_UNKNOWN = 8
"""Connections beside one for each collector: of processes that have just been replaced, say."""
_BUFFER_BYTES = 1 << 22


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.name = ""
        """Of the collector's process, once it has said it."""
        self.layout: Layout | None = None
        self.states = np.zeros((0, 0), np.float32)
        self.buffer = bytearray(LENGTH.size)
        self.size = 0
        """Bytes of the message that is being read; 0 before its length is there."""
        self.have = 0
        self.unsent = b""
        self.deadline: float | None = time.monotonic() + _HALF_SECONDS


class Served(NamedTuple):
    """What an acting server has done so far."""

    collectors: int
    """That are connected."""
    requests: int
    """Answered."""
    calls: int
    """Of the network, for these requests."""
    seconds: float
    """That these calls have taken."""
    gradient_steps: int
    """That the weights acting have taken."""


class ActingServer:
    """Answers collectors.

    Args:
      experiment: the run.
      specs: of what the network sees.
      bound: the socket that it listens at.
      variables: the learner's first publication.
    """

    def __init__(self, experiment: Experiment, specs: Specs, bound: socket.socket, variables: Variables) -> None:
        collect = experiment.collect
        self._experiment, self._specs, self._bound = experiment, specs, bound
        self._config = config.dump(experiment)
        self.network = BatchedNetwork(
            experiment.agent, specs, collect.lanes, experiment.collectors, variables, collect.threads
        )
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._ready: deque[_Client] = deque()
        self._requests = self._calls = 0
        self._seconds = 0.0
        bound.setblocking(False)
        self._selector.register(bound, selectors.EVENT_READ)

    def served(self) -> Served:
        """What it has done so far."""
        connected = sum(client.layout is not None for client in list(self._clients.values()))
        gradient_steps = self.network.variables.gradient_steps
        return Served(connected, self._requests, self._calls, self._seconds, gradient_steps)

    def serve(self, seconds: float) -> None:
        """Reads what is there, waiting up to so many seconds for something, and answers it."""
        for key, events in self._selector.select(0.0 if self._ready else seconds):
            if key.fileobj is self._bound:
                self._accept()
            elif (client := self._clients.get(key.fd)) is not None:
                if events & selectors.EVENT_READ:
                    self._read(client)
                if events & selectors.EVENT_WRITE:
                    self._send(client)
        if self._ready:
            self._answer()

    def tend(self) -> None:
        """Ends connections that have kept a message half sent for too long."""
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.deadline is not None and now > client.deadline:
                self._drop(client, f"half a message, and no more for {_HALF_SECONDS:.0f} s")

    def close(self) -> None:
        """Ends all connections."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has gone before it was accepted
            connection, _ = self._bound.accept()
            connection.setblocking(False)
            without_delay(connection)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                connection.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
            client = _Client(connection)
            if len(self._clients) >= self._experiment.collectors + _MOST_UNKNOWN:
                log.warning("%d connections are there already: another one is refused", len(self._clients))
                connection.close()
                return
            self._clients[connection.fileno()] = client
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, client: _Client) -> None:
        """Reads what has come of one message; the next is not sent before this one is answered."""
        try:
            while True:
                wanted = client.size or LENGTH.size
                count = client.connection.recv_into(memoryview(client.buffer)[client.have : wanted])
                if not count:
                    self._drop(client)
                    return
                client.have += count
                client.deadline = client.deadline or time.monotonic() + _HALF_SECONDS
                if client.have < wanted:
                    continue
                if client.size:
                    self._take(client)
                    return
                (length,) = LENGTH.unpack_from(client.buffer)
                most = client.layout.request_bytes - LENGTH.size if client.layout else MOST_HELLO_BYTES
                if not 0 < length <= most:
                    raise ValueError(f"a message of {length} bytes, and none has more than {most}")
                client.size = LENGTH.size + length
                if client.layout is None:
                    client.buffer += bytes(length)
        except BlockingIOError:
            return
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._drop(client, str(error))

    def _take(self, client: _Client) -> None:
        """Takes a message that is there as a whole."""
        if client.layout is not None:
            client.deadline = None
            self._ready.append(client)
            return
        hello: Hello = msgspec.msgpack.decode(memoryview(client.buffer)[LENGTH.size :], type=prepared(Hello))
        noise_units, lanes = self.network.noise_units, self._experiment.collect.lanes
        refusal = "" if hello.lanes == lanes else f"the acting server answers {lanes} lanes, not {hello.lanes}"
        client.buffer = bytearray(LENGTH.size)
        if not refusal:
            state_units = self._experiment.agent.state_units
            client.name, client.states = hello.process, np.zeros((hello.lanes, state_units), np.float32)
            client.layout = Layout(self._specs, hello.lanes, state_units, noise_units)
            client.buffer = bytearray(client.layout.request_bytes)
            client.deadline = None
            log.info("%s is connected", client.name)
        client.size = client.have = 0
        client.unsent = packed(Welcome(noise_units, refusal, self._config))
        self._send(client)

    def _answer(self) -> None:
        """Calls the network for the requests that have waited longest."""
        count = 1 << (min(len(self._ready), self.network.most).bit_length() - 1)
        clients: list[_Client] = []
        requests: list[Request] = []
        while self._ready and len(clients) < count:
            client = self._ready.popleft()
            if client.layout is None or self._clients.get(client.connection.fileno()) is not client:
                continue  # it has gone
            try:
                requests.append(client.layout.read_request(client.buffer, client.size))
                clients.append(client)
            except ValueError as error:
                self._drop(client, str(error))
        if len(clients) < count:  # some have gone: the rest waits for the next call
            self._ready.extendleft(reversed(clients))
            return
        began = time.monotonic()
        replies = self.network.answer(requests, [client.states for client in clients])
        self._seconds += time.monotonic() - began
        self._calls += 1
        self._requests += count
        for client, reply in zip(clients, replies, strict=True):
            assert client.layout is not None
            client.size = client.have = 0
            client.unsent = client.layout.write_reply(reply)
            self._send(client)

    def _send(self, client: _Client) -> None:
        """Sends what it takes; the rest when it takes more."""
        try:
            sent = client.connection.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._drop(client, str(error))
            return
        client.unsent = client.unsent[sent:]
        client.deadline = time.monotonic() + _HALF_SECONDS if client.unsent or client.layout is None else None
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, wanted)

    def _drop(self, client: _Client, why: str = "") -> None:
        """Ends a connection; the states of its lanes go with it."""
        if self._clients.pop(client.connection.fileno(), None) is None:
            return
        self._selector.unregister(client.connection)
        client.connection.close()
        who = client.name or "a connection that has not said whose it is"
        if why:
            log.warning("%s is no longer connected: %s", who, why)
        else:
            log.info("%s has left", who)


def run_acting_server(
    experiment: Experiment,
    specs: Specs,
    bound: socket.socket,
    weights: str,
    interrupted: threading.Event,
    recorder: Recorder,
    show: Callable[[Callable[[], Mapping[str, float]]], None],
) -> int:
    """Answers collectors until the run ends and they have left; returns the exit code.

    Args:
      experiment: the run.
      specs: of what the network sees.
      bound: the socket that it listens at.
      weights: where it fetches the learner's publications.
      interrupted: ends it.
      recorder: says that it is alive, and how many calls it has made.
      show: takes what gives its numbers by tag, for whoever asks.

    Raises:
      TimeoutError: the replay's server has not answered for `collect.away_seconds`.
      UsageError: it was started with another config than the learner.
    """
    reader = VariablesReader(weights, experiment.collect.variables_seconds)
    newest = reader.join(experiment, _CONNECT_SECONDS, "the acting server")
    server = ActingServer(experiment, specs, bound, newest)
    show(lambda: {f"inference/{name}": float(value) for name, value in server.served()._asdict().items()})
    log.info("answers at %s, up to %d collectors at once", listening.address_of(bound), server.network.most)
    leave_at: float | None = None
    tend_at = log_at = 0.0
    try:
        while not interrupted.is_set():
            recorder.beat()
            recorder.advance(server.served().calls)
            newest = server.network.variables = reader.newest or newest
            server.serve(_TICK_SECONDS)
            now = time.monotonic()
            if now < tend_at:
                continue
            tend_at = now + 1.0
            server.tend()
            if newest.stopping:
                leave_at = leave_at or now + _LEAVE_SECONDS
                if newest.ended or not server.served().collectors or now > leave_at:
                    return newest.exit_code
            else:
                leave_at = None
                reader.refuse_silence(experiment.collect.away_seconds, "the acting server")
            if now > log_at:
                log_at = now + _LOG_SECONDS
                log.info("%s", _in_words(server.served()))
    finally:
        server.close()
        reader.close()
        listening.close(bound)
    return newest.exit_code


def _in_words(served: Served) -> str:
    calls = max(1, served.calls)
    return (
        f"{served.collectors} collectors, {served.requests} requests, {served.requests / calls:.2f} of them and "
        f"{1e3 * served.seconds / calls:.2f} ms a call, weights of gradient step {served.gradient_steps}"
    )
