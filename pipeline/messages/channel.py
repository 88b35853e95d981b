"""Sends messages through Reverb, beside experience: weights and counters from the learner, reports to it.

Each is one item of a byte table: `variables` keeps the newest announcement and `weights` the newest weights, `reports`
is a queue that hands each out once. `pipeline.messages.variables_reader` fetches the first two. No TensorFlow.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from agents.struct_types import prepared
from pipeline.messages.contents import VARIABLES_TABLE, WEIGHTS_TABLE, Variables
from pipeline.runtime import native
from pipeline.runtime.stop_signals import held

ANSWER_SECONDS = 2.0
_FIRST_ANSWER_SECONDS = 5.0
"""Over a far link and proxies it takes several round trips."""
_SEND_SECONDS = 10.0
_REPEAT_SECONDS = 5.0
"""Weights that have not changed are sent again after this time: a server that was restarted has lost them."""
_BLOCK = 1024  # messages are padded to whole blocks: a writer's column has one shape


class Sender:
    """Inserts messages into a table."""

    def __init__(self, address: str, table: str) -> None:
        self._address, self._spellings = address, _spellings(address)
        self._client = native.reverb_client(address)
        self._table = table
        self._writer: Any = None
        self._padded = 0

    def send(self, message: Any, timeout: float) -> bool:
        """Sends one message; False if the server has not confirmed it within `timeout` seconds."""
        data = msgspec.msgpack.encode(message)
        padded = -(-(len(data) + 8) // _BLOCK) * _BLOCK
        if self._writer is None or padded != self._padded:
            if not server_answers(self._client, timeout):  # opening a writer to an absent server waits for ever
                self._take_another_way()
                return False
            self.close()
            self._writer = native.reverb_writer(self._client, chunk_length=1, keep_alive=1)
            self._padded = padded
        block = np.zeros(padded, np.uint8)
        block[:8] = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
        block[8 : 8 + len(data)] = np.frombuffer(data, np.uint8)
        (reference,) = self._writer.Append([block])
        self._writer.CreateItem(self._table, 1.0, [[reference]], [True])
        if not native.flush(self._writer, 0, int(timeout * 1000)):
            self._take_another_way()
            return False
        return True

    def _take_another_way(self) -> None:
        """Has the next message go by a new connection: the one that there is may wait long before it tries again."""
        if _accepts(self._address):
            self.close()
            self._client = native.reverb_client(next(self._spellings))

    def close(self) -> None:
        """Ends the connection. A writer that is only deleted waits for its server, with the interpreter lock."""
        if self._writer is not None:
            self._writer.Close()
            self._writer = None


class Publisher:
    """Sends publications to servers, which hand them out: what it costs does not grow with those who fetch them.

    Each server has a thread and connections of its own, so that one that is away holds up no other.

    Args:
      addresses: of the servers.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._lines = [_Line(address) for address in addresses]

    def publish(self, variables: Variables, wait_for_all: bool = False) -> bool:
        """Sends a publication; a server that is still being sent an earlier one is left out.

        Args:
          variables: to send.
          wait_for_all: leave none out, and come back when all have it or are found to be away.

        Returns:
          Whether all have it; False without waiting.
        """
        for line in self._lines:
            line.send(variables, wait_for_all)
        if not wait_for_all:
            return False
        arrived = [line.sending.result() for line in self._lines if line.sending is not None]
        return all(arrived)

    def close(self) -> None:
        """Waits for what is on its way and ends the connections."""
        for line in self._lines:
            line.close()


class _Line:
    def __init__(self, address: str) -> None:
        self._announcements, self._weights = Sender(address, VARIABLES_TABLE), Sender(address, WEIGHTS_TABLE)
        self._thread = ThreadPoolExecutor(1, "publication")
        self.sending: Future[bool] | None = None
        self._version: tuple[int, int, int] | None = None  # of the weights that the server has
        self._sent_at = 0.0

    def send(self, variables: Variables, behind_earlier: bool) -> None:
        if self.sending is not None:
            if not self.sending.done() and not behind_earlier:
                return
            if self.sending.done():
                self.sending.result()
        self.sending = self._thread.submit(self._send, variables)

    def _send(self, variables: Variables) -> bool:
        announcement, weights = variables.parts()
        # The weights first: who reads the announcement finds them.
        if weights.version != self._version or time.monotonic() - self._sent_at > _REPEAT_SECONDS:
            if not self._weights.send(weights, _SEND_SECONDS):
                return False
            self._version, self._sent_at = weights.version, time.monotonic()
        return self._announcements.send(announcement, _SEND_SECONDS)

    def close(self) -> None:
        self._thread.shutdown()
        self._announcements.close()
        self._weights.close()


def take(
    client: Any,
    table: str,
    kind: Any,
    count: int,
    handle: Callable[[Any], None],
    refuse: Callable[[Exception], None] | None = None,
) -> None:
    """Hands `count` messages of a table to `handle`, as they come. Blocks, without the interpreter lock.

    Args:
      client: of `native.reverb_client`.
      table: to take from.
      kind: type of its messages.
      count: of messages.
      handle: called with each.
      refuse: called with what is wrong with a message that is none, or that `handle` fails on, and the next one is
        taken; None raises it.
    """
    sampler = client.NewSampler(table, count, 1)
    decoder = msgspec.msgpack.Decoder(prepared(kind))
    for _ in range(count):
        block = np.asarray(sampler.GetNextTrajectory()[-1]).tobytes()
        size = int.from_bytes(block[:8], "little")
        try:
            handle(decoder.decode(block[8 : 8 + size]))
        except Exception as error:  # whatever a peer has sent, those of others are taken
            if refuse is None:
                raise
            refuse(error)


def server_answers(client: Any, timeout: float = 1.0) -> bool:
    """Whether the server of a client of `native.reverb_client` answers."""
    try:
        client.ServerInfo(max(1, int(timeout)))
    except Exception:  # any failure of the binding means that there is no answer
        return False
    return True


class Interrupted(Exception):
    """A signal has asked this process to stop while it waited for another one."""


def refuse_to_wait() -> None:
    """Is called again and again by who waits for another process before it has anything to hand over.

    Raises:
      Interrupted: a signal has asked this process to stop.
    """
    if any(interruption.requests for interruption in held):
        raise Interrupted("asked to leave while it waited for others")


def wait_for_server(address: str, seconds: float, who: str) -> None:
    """Waits until the replay server answers.

    Raises:
      TimeoutError: it did not within `seconds`; says who waited for what.
    """
    deadline, spellings = time.monotonic() + seconds, _spellings(address)
    while not (_accepts(address) and server_answers(native.reverb_client(next(spellings)), _FIRST_ANSWER_SECONDS)):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{who} waited {seconds:.0f} s for the replay server at {address}, which does not answer"
            )
        refuse_to_wait()
        time.sleep(0.05)


def _spellings(address: str) -> Iterator[str]:
    """See `addresses.respelled`; imported with the first that is asked for: while servers are there, none is."""
    from pipeline.messages.addresses import respelled

    yield from respelled(address)


def _accepts(address: str) -> bool:
    from pipeline.messages.addresses import accepts

    return accepts(address, ANSWER_SECONDS)
