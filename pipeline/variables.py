"""What travels through Reverb beside experience: weights and counters from the learner, reports to it.

Messages are typed msgpack, never pickles. Each is one item of a byte table: `variables` keeps the newest announcement
and `weights` the newest weights, `reports` is a queue that hands each out once.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline import native
from pipeline.addresses import accepts, respelled
from pipeline.recorder import Counts

VARIABLES_TABLE = "variables"
WEIGHTS_TABLE = "weights"
REPORTS_TABLE = "reports"
SERVER_TABLE = "server"
_HURRY_SECONDS = 0.001
_MOST_HURRY_SECONDS = 0.2
"""Between fetches for one who waits for new weights, at least and at most."""
_PROBE_SECONDS = 0.5
_ANSWER_SECONDS = 2.0
_BLOCK = 1024  # messages are padded to whole blocks: a writer's column has one shape


class Array(msgspec.Struct, frozen=True):
    """A NumPy array on its way."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Array":
        """A copy of an array."""
        return cls(array.dtype.str, array.shape, array.tobytes())

    def numpy(self) -> NDArray[Any]:
        """The array, read-only."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.numpy()).all())


class Announcement(msgspec.Struct, frozen=True):
    """What the learner tells all roles again and again: small, so that weights travel only when they have changed."""

    gradient_steps: int
    """Of the weights: their version."""
    environment_steps: int
    """Global count, on which schedules run."""
    initial_priority: float = 1.0
    """Of new items of a prioritised replay."""
    stopping: bool = False
    """The run ends: roles send their last report and leave."""
    evaluate_last: bool = False
    """Of a stopping run: the evaluator scores these last weights before it leaves."""
    life: int = 0
    """How often the learner was started before: a restarted one goes on from older weights."""
    renewals: int = 0
    """How often, on-policy, it has asked for experience anew with the weights that it has."""
    evaluated_at: tuple[int, int] | None = None
    """Environment and gradient steps of the newest evaluation that has reached the learner."""
    ended: bool = False
    """The learner has left too: replays of their own may end."""

    @property
    def version(self) -> tuple[int, int, int]:
        """Of the weights: a later one is greater, also where a restarted learner took gradient steps back."""
        return self.life, self.renewals, self.gradient_steps


class Weights(msgspec.Struct, frozen=True):
    """The weights of one version, and what acts with them."""

    version: tuple[int, int, int]
    """See `Announcement.version`."""
    program: bytes
    """The Q-network as a TFLite program; empty where actors run it through TensorFlow."""
    arrays: tuple[Array, ...]
    config: str = ""
    """The learner's, as TOML: a role that was started with another one would collect something else."""


class Variables(Announcement, frozen=True, kw_only=True):
    """The learner's publication: an announcement and the weights that it is of."""

    program: bytes
    """See `Weights.program`."""
    weights: tuple[Array, ...]
    config: str = ""
    """See `Weights.config`."""

    @classmethod
    def of(cls, announcement: Announcement, weights: Weights) -> "Variables":
        """Both as one, with the version of the weights: newer ones than were announced may have arrived."""
        life, renewals, gradient_steps = weights.version
        told = msgspec.structs.replace(announcement, life=life, renewals=renewals, gradient_steps=gradient_steps)
        values = msgspec.structs.asdict(told)
        return cls(**values, program=weights.program, weights=weights.arrays, config=weights.config)

    def parts(self) -> tuple[Announcement, Weights]:
        """What travels."""
        told = {name: getattr(self, name) for name in Announcement.__struct_fields__}
        return Announcement(**told), Weights(self.version, self.program, self.weights, self.config)


class Served(msgspec.Struct, frozen=True):
    """What a replay's server in a process of its own says of itself, in its table `server`."""

    identity: str
    """Of its process: another one follows when it is restarted."""
    inserted: int
    """Items that the checkpoint it went on from had inserted."""
    sampled: int
    """And sampled."""


class CollectorReport(msgspec.Struct, frozen=True, tag="collector"):
    """Cumulative counts of one collector process, and the episodes since its last report."""

    index: int
    process: str
    """Identifies the process: counts start anew in another one."""
    environment_steps: int
    transitions: int
    """Transitions handed to Reverb and confirmed by it."""
    unconfirmed: int
    """Transitions handed over that Reverb has not confirmed; of a last report, they are lost."""
    episodes: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    epsilon: float
    weights_age: int
    """Gradient steps between the newest publication and the weights acting: 0 unless fetching lags."""
    weights_seconds: float
    """Seconds since these weights arrived."""
    blocked_seconds: float
    """Time spent waiting for the rate limiter or, on-policy, for new weights."""
    resident_bytes: int
    shielded_steps: int = 0
    """Environment steps in which the shield forbade what would have been the best action."""
    items: int = 0
    """Replay items confirmed."""
    dropped_episodes: int = 0
    """Episodes cut off by a fault of an environment: not among `episodes`, though their environment steps count."""
    bytes_sent: int = 0
    """Over the process's TCP connections; see `pipeline.traffic`."""
    bytes_received: int = 0
    newest_fault: str = ""
    """Environment, lane, step and what was wrong; empty where nothing has been."""
    largest_reward: float = 0.0
    """Largest absolute reward so far, a bonus for novelty included, before the learner clips."""
    last: bool = False
    """The process ends after this report."""
    fault: str = ""
    """Of a last report: what in the environment ended the process."""

    @property
    def counts(self) -> Counts:
        """The cumulative counts alone."""
        return Counts(
            environment_steps=self.environment_steps,
            episodes=self.episodes,
            begun=self.transitions + self.unconfirmed,
            transitions=self.transitions,
            items=self.items,
            shielded_steps=self.shielded_steps,
            dropped_episodes=self.dropped_episodes,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
        )


class Evaluation(msgspec.Struct, frozen=True, tag="evaluation"):
    """Greedy episodes with the weights of one version."""

    environment_steps: int
    gradient_steps: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    mean_length: float
    episodes: int
    seconds: float
    resident_bytes: int
    is_best: bool
    shielded_share: float = 0.0
    """Of the steps, those in which the shield forbade what would have been the best action."""
    best_value: float = 0.0
    """Largest discounted return from any state of these episodes, of rewards as learned from: clipped, if so."""

    @property
    def at(self) -> tuple[int, int]:
        """Environment and gradient steps of the weights."""
        return self.environment_steps, self.gradient_steps


Report = CollectorReport | Evaluation


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
        try:
            self._writer.Flush(0, int(timeout * 1000))
        except Exception as error:  # the binding's own exception type is not exported
            if "imeout" not in str(error):
                raise
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
    while not (accepts(address, _ANSWER_SECONDS) and server_answers(native.reverb_client(next(spellings)))):
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

    def _keep_fetching(self) -> None:
        """Has a thread fetch, and another one in its place when the server was away and is back.

        A fetch from a server that goes away waits until gRPC tries again, which may take half a minute.
        """
        for spelling in respelled(self._address):
            self._fetcher = fetcher = threading.Thread(target=self._fetch_for_ever, name="variables", daemon=True)
            fetcher.start()
            while server_answers(self._client, _ANSWER_SECONDS):
                time.sleep(_PROBE_SECONDS)
            while not accepts(self._address, _ANSWER_SECONDS):
                time.sleep(_PROBE_SECONDS)
            time.sleep(_HURRY_SECONDS)
            self._client = native.reverb_client(spelling)

    def _fetch_for_ever(self) -> None:
        while threading.current_thread() is self._fetcher:
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
