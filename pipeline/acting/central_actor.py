"""Acting at the acting server: observations go there, scores come back. No TensorFlow.

Everything but the network stays with the collector: frame stacks, masks, exploration with its draws, noise included,
and a copy of the states of a network with memory, which frames store. So a server that was restarted gets the states
with the request that it had not answered, and goes on as if it had never been away.
"""

import logging
import math
import socket
import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import Specs
from agents.struct_types import prepared
from pipeline.acting.central_words import (
    LENGTH,
    MOST_HELLO_BYTES,
    Floats,
    Hello,
    Layout,
    Welcome,
    packed,
    without_delay,
)
from pipeline.acting.network_program import Draws, Weights
from pipeline.experiment.config import UsageError
from pipeline.experiment.resume import refuse_other_config
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import host_of, is_socket, port_of
from pipeline.runtime.signs_of_life import RunningClock

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
"""Between two looks whether to go on waiting."""
_RETRY_SECONDS = 0.1
_SLOW_SECONDS = 5.0
"""Without an answer, after which a warning says so."""
_LAST_SECONDS = 2.0
"""For an answer that is on its way when the run ends."""


class Unanswered(Exception):
    """The run ends, and the acting server has not answered."""


class CentralActor:
    """Has the acting server compute the Q-values of a collector's lanes; see `network_program.Actor`.

    Args:
      address: of the server: host:port, or unix:/path.
      experiment: the run.
      specs: of what the network sees.
      process: names this collector's process.
      keep_waiting: asked again and again while there is no answer; False gives up.

    Raises:
      UsageError: the server is of another experiment's run.
      TimeoutError: it has not answered for `collect.away_seconds`.
      Unanswered: `keep_waiting` has said False.
    """

    def __init__(
        self, address: str, experiment: Experiment, specs: Specs, process: str, keep_waiting: Callable[[], bool]
    ) -> None:
        self._address, self._experiment, self._specs, self._process = address, experiment, specs, process
        self._keep_waiting, self._lanes = keep_waiting, experiment.collect.lanes
        self.state: NDArray[np.float32] = np.zeros((self._lanes, experiment.agent.state_units), np.float32)
        self._told: Floats | None = None  # states as the server has them; None where it has none of this collector's
        self.version = (0, 0, 0)
        """Of the weights that made the newest Q-values."""
        self._connection: socket.socket | None = None
        self._clock: RunningClock | None = None  # of a wait that has become a long one
        self._is_slow = False
        self.noise_shape: tuple[int, ...] | None = None
        while self._connection is None:
            self._try_to_connect()
        self._end_wait()

    def set_weights(self, weights: Weights) -> None:
        """See `Actor`: the server has them itself."""

    def q_values(self, observation: dict[str, NDArray[np.generic]], random: Draws = None) -> NDArray[np.float32]:
        """See `Actor`. Raises what the constructor does; then nothing has happened, and it may be called again."""
        noise = None
        if self.noise_shape is not None and random is not None:
            noise = random if isinstance(random, np.ndarray) else random.standard_normal(self.noise_shape, np.float32)
        while True:
            if self._connection is None:
                self._try_to_connect()
                continue
            try:
                scores = self._ask(self._connection, observation, noise)
            except (_Late, Unanswered):
                self.close()  # an answer may be on its way, or half of one have come
                raise
            except OSError as error:
                self.close()
                self._tick(f"has left ({error})")
            else:
                self._end_wait()
                return scores

    def close(self) -> None:
        """Ends the connection: the server forgets the states of these lanes."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self, connection: socket.socket, observation: dict[str, NDArray[np.generic]], noise: Floats | None
    ) -> NDArray[np.float32]:
        told = self._told
        if not self.state.shape[1]:
            changed = _NONE
        elif told is None:
            changed = np.arange(self._lanes)
        else:
            changed = np.flatnonzero((self.state != told).any(axis=1))
        size = self._layout.write_request(self._buffer, observation, noise, changed, self.state)
        self._send(connection, memoryview(self._buffer)[:size])
        self._receive(connection, self._reply_view)
        try:
            reply = self._layout.read_reply(self._reply)
        except ValueError as error:
            raise OSError(str(error)) from None
        self.version = reply.version
        if self.state.shape[1]:
            self._told, self.state = reply.states, reply.states.copy()
        return reply.scores

    def _try_to_connect(self) -> None:
        """Connects once; without success it waits a little."""
        connection = None
        try:
            connection = self._open()
            connection.settimeout(_TICK_SECONDS)
            without_delay(connection)
            self._send(connection, memoryview(packed(Hello(self._process, self._lanes))))
            welcome = self._welcome(connection)
        except (_Late, Unanswered):
            if connection is not None:
                connection.close()
            raise
        except (OSError, msgspec.MsgspecError) as error:
            if connection is not None:
                connection.close()
            self._tick(f"is not there ({error})")
            time.sleep(_RETRY_SECONDS)
            return
        if welcome.refusal:
            connection.close()
            raise UsageError(welcome.refusal)
        refuse_other_config(self._experiment, welcome.config)
        self.noise_shape = (self._lanes, welcome.noise_units) if welcome.noise_units else None
        self._layout = Layout(self._specs, self._lanes, self.state.shape[1], welcome.noise_units)
        self._buffer, self._reply = bytearray(self._layout.request_bytes), bytearray(self._layout.reply_bytes)
        self._reply_view = memoryview(self._reply)
        self._connection, self._told = connection, None

    def _open(self) -> socket.socket:
        if not is_socket(self._address):
            where = host_of(self._address), port_of(self._address, "--inference")
            return socket.create_connection(where, _TICK_SECONDS)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_TICK_SECONDS)
            connection.connect(self._address.removeprefix("unix:"))
        except OSError:
            connection.close()
            raise
        return connection

    def _welcome(self, connection: socket.socket) -> Welcome:
        head = bytearray(LENGTH.size)
        self._receive(connection, memoryview(head))
        (size,) = LENGTH.unpack(head)
        if size > MOST_HELLO_BYTES:
            raise OSError(f"it said {size} bytes where a welcome was expected")
        data = bytearray(size)
        self._receive(connection, memoryview(data))
        welcome: Welcome = msgspec.msgpack.decode(data, type=prepared(Welcome))
        return welcome

    def _send(self, connection: socket.socket, data: memoryview) -> None:
        while data:
            try:
                data = data[connection.send(data) :]
            except TimeoutError:
                self._tick("takes no request")

    def _receive(self, connection: socket.socket, into: memoryview) -> None:
        while into:
            try:
                count = connection.recv_into(into)
            except TimeoutError:
                self._tick("does not answer")
                continue
            if not count:
                raise ConnectionResetError("it has closed the connection")
            into = into[count:]

    def _tick(self, how: str) -> None:
        """Looks whether to go on waiting for a server of which `how` says what is wrong with it."""
        if self._clock is None:
            self._clock, self._leaving_at, self._is_slow = RunningClock(), math.inf, False
        waited = self._clock()
        if not self._keep_waiting():
            self._leaving_at = min(self._leaving_at, waited + _LAST_SECONDS)
            if waited >= self._leaving_at:
                self._clock = None
                raise Unanswered
        words = f"{self._process} has waited {waited:.0f} s for actions: the acting server at {self._address} {how}"
        if waited > self._experiment.collect.away_seconds:
            self._clock = None
            raise _Late(words)
        if waited > _SLOW_SECONDS and not self._is_slow:
            self._is_slow = True
            log.warning("%s", words)

    def _end_wait(self) -> None:
        if self._clock is not None and self._is_slow:
            log.warning("the acting server answers again after %.0f s", self._clock())
        self._clock = None


class _Late(TimeoutError):
    """Nothing has come for `away_seconds`: told from what sockets raise."""


_NONE = np.zeros(0, np.intp)
