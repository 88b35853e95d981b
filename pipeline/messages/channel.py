"""How messages travel through Reverb, beside experience: weights and counters from the learner, reports to it.

Each is one item of a byte table: `variables` keeps the newest announcement and `weights` the newest weights, `reports`
is a queue that hands each out once.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from pipeline.messages.addresses import accepts, respelled
from pipeline.messages.contents import Announcement, Variables, Weights
from pipeline.runtime import native

VARIABLES_TABLE = "variables"
WEIGHTS_TABLE = "weights"
REPORTS_TABLE = "reports"
SERVER_TABLE = "server"
_HURRY_SECONDS = 0.001
_MOST_HURRY_SECONDS = 0.2
"""Between fetches for one who waits for new weights, at least and at most."""
_PROBE_SECONDS = 0.5
_ANSWER_SECONDS = 2.0
_FIRST_ANSWER_SECONDS = 5.0
"""Over a far link and proxies it takes several round trips."""
_BLOCK = 1024  # messages are padded to whole blocks: a writer's column has one shape


class Sender:
    """Inserts messages into a table."""

    def __init__(self, address: str, table: str) -> None:
        self._address, self._spellings = address, respelled(address)
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
        if accepts(self._address, _ANSWER_SECONDS):
            self.close()
            self._client = native.reverb_client(next(self._spellings))

    def close(self) -> None:
        """Ends the connection. A writer that is only deleted waits for its server, with the interpreter lock."""
        if self._writer is not None:
            self._writer.Close()
            self._writer = None


def take(client: Any, table: str, kind: Any, count: int, handle: Callable[[Any], None]) -> None:
    """Hands `count` messages of a table to `handle`, as they come. Blocks, without the interpreter lock.

    Args:
      client: of `native.reverb_client`.
      table: to take from.
      kind: type of its messages.
      count: of messages.
      handle: called with each.
    """
    sampler = client.NewSampler(table, count, 1)
    decoder = msgspec.msgpack.Decoder(kind)
    for _ in range(count):
        block = np.asarray(sampler.GetNextTrajectory()[-1]).tobytes()
        size = int.from_bytes(block[:8], "little")
        handle(decoder.decode(block[8 : 8 + size]))


def server_answers(client: Any, timeout: float = 1.0) -> bool:
    """Whether the server of a client of `native.reverb_client` answers."""
    try:
        client.ServerInfo(max(1, int(timeout)))
    except Exception:  # any failure of the binding means that there is no answer
        return False
    return True


def wait_for_server(address: str, seconds: float, who: str) -> None:
    """Waits until the replay server answers.

    Raises:
      TimeoutError: it did not within `seconds`; says who waited for what.
    """
    deadline, spellings = time.monotonic() + seconds, respelled(address)
    while not (
        accepts(address, _ANSWER_SECONDS)
        and server_answers(native.reverb_client(next(spellings)), _FIRST_ANSWER_SECONDS)
    ):
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{who} waited {seconds:.0f} s for the replay server at {address}, which does not answer"
            )
        time.sleep(0.05)


class VariablesReader:
    """Fetches the newest announcement, and its weights if they are new, in a thread: its owner never waits for them.

    Args:
      address: of the replay server.
      seconds: between fetches.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self._address, self._seconds = address, seconds
        self._client = native.reverb_client(address)
        self._newest: Variables | None = None
        self._weights: Weights | None = None
        self._arrived, self._hurried = threading.Event(), threading.Event()
        self.fetched_at = time.monotonic()
        """Monotonic time of the newest fetch; it stands still when the server does not answer."""
        self._fetcher: threading.Thread | None = None
        self._is_closed = False
        threading.Thread(target=self._keep_fetching, name="variables watch", daemon=True).start()

    @property
    def newest(self) -> Variables | None:
        """The newest publication that has arrived."""
        return self._newest

    def wait(self, seconds: float, who: str) -> Variables:
        """The first publication.

        Raises:
          TimeoutError: there was none within `seconds`.
        """
        if not self._arrived.wait(seconds) or self._newest is None:
            raise TimeoutError(f"{who} waited {seconds:.0f} s for the learner's first weights at {self._address}")
        return self._newest

    def newer_than(self, version: tuple[int, int, int], keep_waiting: Callable[[], bool]) -> Variables | None:
        """The first publication of weights newer than those of that version; fetches without pause meanwhile.

        Args:
          version: `Variables.version` of the older weights.
          keep_waiting: asked again and again; False gives up.

        Returns:
          None if it gave up.
        """
        self._hurried.set()
        try:
            while (newest := self._newest) is None or newest.version <= version:
                if not keep_waiting():
                    return None
                time.sleep(_HURRY_SECONDS)
            return newest
        finally:
            self._hurried.clear()

    def refuse_silence(self, seconds: float, who: str) -> None:
        """Checks that the server has answered of late.

        Raises:
          TimeoutError: the last fetch is longer ago than that many seconds.
        """
        silence = time.monotonic() - self.fetched_at
        if silence > seconds:
            raise TimeoutError(f"{who} has not heard from the replay at {self._address} for {silence:.0f} s")

    def close(self) -> None:
        """Has the threads end, after the fetch under way; one from a server that is away keeps its thread."""
        self._is_closed = True
        self._hurried.set()

    def _keep_fetching(self) -> None:
        """Has a thread fetch, and another one in its place when the server was away and is back.

        A fetch from a server that goes away waits until gRPC tries again, which may take half a minute. Nothing ends
        it: so there is no other one before the server answers again, and none at all while it is only slow.
        """
        spellings = respelled(self._address)
        while not self._is_closed:
            self._fetcher = fetcher = threading.Thread(target=self._fetch_for_ever, name="variables", daemon=True)
            fetcher.start()
            while not self._is_closed and not self._is_away():
                time.sleep(_PROBE_SECONDS)
            client = native.reverb_client(next(spellings))
            while not self._is_closed and not (
                accepts(self._address, _ANSWER_SECONDS) and server_answers(client, _ANSWER_SECONDS)
            ):
                time.sleep(_PROBE_SECONDS)
                client = native.reverb_client(next(spellings))
            self._client = client

    def _is_away(self) -> bool:
        """Whether the server does not answer, for another reason than that it or the way to it is slow."""
        asked = time.monotonic()
        if server_answers(self._client, _ANSWER_SECONDS):
            return False
        return time.monotonic() - asked < _ANSWER_SECONDS / 2 or not accepts(self._address, _ANSWER_SECONDS)

    def _fetch_for_ever(self) -> None:
        while threading.current_thread() is self._fetcher and not self._is_closed:
            started = time.monotonic()
            try:
                take(self._client, VARIABLES_TABLE, Announcement, 1, self._accept)
            except Exception:  # the server is away: its absence is seen in `fetched_at`, and it is asked again
                time.sleep(self._seconds)
            took = time.monotonic() - started
            if self._hurried.wait(self._seconds):
                # Half of the time, so that large weights leave the learner some. One that waited for a server that
                # was away took its time for another reason.
                time.sleep(min(max(_HURRY_SECONDS, took), _MOST_HURRY_SECONDS))

    def _accept(self, announcement: Announcement) -> None:
        self.fetched_at = time.monotonic()
        if self._weights is None or self._weights.version < announcement.version:
            take(self._client, WEIGHTS_TABLE, Weights, 1, self._keep)
        if self._weights is not None:
            self._newest = Variables.of(announcement, self._weights)
            self._arrived.set()

    def _keep(self, weights: Weights) -> None:
        self._weights = weights
        self.fetched_at = time.monotonic()
