"""What collectors and the acting server say to each other: observations there, scores back. No TensorFlow.

Each message is its length and its bytes. The first of each side is msgpack, a `Hello` and a `Welcome`; from then on
requests and replies have the places of their parts fixed by `Layout`, so that nothing is encoded or searched for.
"""

import socket
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import guard_of, host_of, is_socket, parse

LENGTH = struct.Struct("<I")
MOST_HELLO_BYTES = 1 << 20
_REQUEST = struct.Struct("<IIII")
"""Length of what follows it, whether there is noise, how many states, and a word that keeps the rest aligned."""
_REPLY = struct.Struct("<IIqqq")
"""Length of what follows its first word, a word for the alignment, and the version of the weights."""

Floats = NDArray[np.float32]


class Hello(msgspec.Struct, frozen=True):
    """A collector's first word."""

    process: str
    """Names it in the server's log."""
    lanes: int


class Welcome(msgspec.Struct, frozen=True):
    """The server's answer."""

    noise_units: int = 0
    """Normal numbers that a noisy network takes for each lane; 0 of others."""
    refusal: str = ""
    """Why this collector is not answered, in words."""
    config: str = ""
    """Of the run, as TOML: a collector that was started with another one leaves."""


class Request(NamedTuple):
    """What a collector's lanes see."""

    observation: dict[str, NDArray[Any]]
    """By leaf name, [lanes, ...]."""
    noise: Floats | None
    """Normal numbers float32 [lanes, noise_units]; None is for no noise."""
    lanes: NDArray[np.uint32]
    """Those whose states are not as the server's last reply left them, because an episode begins, say."""
    states: Floats
    """Their states, float32 [len(lanes), state_units]."""


class Reply(NamedTuple):
    """What the network makes of it."""

    version: tuple[int, int, int]
    """Of its weights; see `pipeline.messages.contents.Announcement.version`."""
    scores: Floats
    """float32 [lanes, actions]."""
    states: Floats
    """float32 [lanes, state_units], before the next request."""


class Layout:
    """Where the parts of a request and of a reply lie.

    Args:
      specs: of what the network sees.
      lanes: of a collector.
      state_units: of a network with memory; 0 of others.
      noise_units: see `Welcome`.
    """

    def __init__(self, specs: Specs, lanes: int, state_units: int, noise_units: int) -> None:
        self.lanes, self._actions, self._state_units = lanes, specs.num_actions, state_units
        self._leaves: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}
        end = _REQUEST.size
        for name, spec in specs.leaves().items():
            dtype, shape = np.dtype(spec.dtype), (lanes, *spec.shape)
            self._leaves[name] = end, shape, dtype
            end += _whole_words(int(np.prod(shape)) * dtype.itemsize)
        self._noise, self._noise_shape = end, (lanes, noise_units)
        self._least = end
        self.request_bytes = end + 4 * lanes * (noise_units + 1 + state_units)
        """Of the longest request."""
        self.reply_bytes = _REPLY.size + 4 * lanes * (self._actions + state_units)
        """Of every reply."""

    def write_request(
        self,
        buffer: bytearray,
        observation: Mapping[str, NDArray[Any]],
        noise: Floats | None,
        lanes: NDArray[np.intp],
        state: Floats,
    ) -> int:
        """Writes a request, and returns how many bytes it has.

        Args:
          buffer: of at least `request_bytes`.
          observation: by leaf name, [lanes, ...].
          noise: see `Request`.
          lanes: see `Request`.
          state: float32 [all lanes, state_units].
        """
        for name, (begin, shape, dtype) in self._leaves.items():
            np.ndarray(shape, dtype, buffer, begin)[...] = observation[name]
        end = self._noise
        if noise is not None:
            np.ndarray(noise.shape, np.float32, buffer, end)[...] = noise
            end += noise.nbytes
        changed = len(lanes)
        if changed:
            np.ndarray(changed, np.uint32, buffer, end)[...] = lanes
            end += 4 * changed
            np.ndarray((changed, self._state_units), np.float32, buffer, end)[...] = state[lanes]
            end += 4 * changed * self._state_units
        _REQUEST.pack_into(buffer, 0, end - LENGTH.size, noise is not None, changed, 0)
        return end

    def read_request(self, buffer: bytearray, size: int) -> Request:
        """The request in the first `size` bytes of a buffer, whose arrays it shares.

        Raises:
          ValueError: it is none.
        """
        if size < self._least:
            raise ValueError(f"a request of {size} bytes, and none has fewer than {self._least}")
        _, has_noise, changed, _ = _REQUEST.unpack_from(buffer)
        end = self._noise
        noise: Floats | None = None
        wanted = end + 4 * (self.lanes * self._noise_shape[1] * bool(has_noise) + changed * (1 + self._state_units))
        if size != wanted or changed > self.lanes:
            raise ValueError(f"a request of {size} bytes, of which {changed} lanes have new states")
        observation: dict[str, NDArray[Any]] = {
            name: np.ndarray(shape, dtype, buffer, at) for name, (at, shape, dtype) in self._leaves.items()
        }
        if has_noise:
            noise = np.ndarray(self._noise_shape, np.float32, buffer, end)
            end += 4 * self.lanes * self._noise_shape[1]
        lanes: NDArray[np.uint32] = np.ndarray(changed, np.uint32, buffer, end)
        if changed and int(lanes.max()) >= self.lanes:
            raise ValueError(f"a request with a state of lane {lanes.max()}, and there are {self.lanes}")
        states: Floats = np.ndarray((changed, self._state_units), np.float32, buffer, end + 4 * changed)
        return Request(observation, noise, lanes, states)

    def write_reply(self, reply: Reply) -> bytes:
        """A reply as bytes."""
        return b"".join(
            (
                _REPLY.pack(self.reply_bytes - LENGTH.size, 0, *reply.version),
                np.ascontiguousarray(reply.scores, np.float32).tobytes(),
                np.ascontiguousarray(reply.states, np.float32).tobytes(),
            )
        )

    def read_reply(self, buffer: bytearray) -> Reply:
        """The reply in the first `reply_bytes` of a buffer, as copies.

        Raises:
          ValueError: it is none.
        """
        length, _, *version = _REPLY.unpack_from(buffer)
        if length != self.reply_bytes - LENGTH.size:
            raise ValueError(f"a reply of {length} bytes where {self.reply_bytes - LENGTH.size} were expected")
        begin, shape = _REPLY.size, (self.lanes, self._actions)
        scores: Floats = np.ndarray(shape, np.float32, buffer, begin).copy()
        states: Floats = np.ndarray(
            (self.lanes, self._state_units), np.float32, buffer, begin + 4 * self.lanes * self._actions
        ).copy()
        return Reply((version[0], version[1], version[2]), scores, states)


def _whole_words(size: int) -> int:
    """A number of bytes, rounded up so that what follows is aligned."""
    return -(-size // 8) * 8


def refuse_place(experiment: Experiment, role: str, address: str) -> None:
    """Refuses an address of an acting server that does not go with the config, or that others could reach.

    Args:
      experiment: the run.
      role: "inference", which listens there, or "collector", which connects to it.
      address: as --inference has it; empty where it was left out.

    Raises:
      UsageError: says what would do.
    """
    is_central = experiment.collect.inference == "central"
    if not is_central and (address or role == "inference"):
        raise UsageError(f"--role={role} with an acting server: set collect.inference='central' of all roles, too")
    if is_central and not address:
        raise UsageError(
            f"--inference is missing for --role={role}: host:port or unix:/path of the acting server, or of its proxy "
            "(or --set=collect.inference='local', with which a collector acts by itself)"
        )
    if address and not is_socket(address):
        (checked,) = parse(address, "--inference")
        if guard_of(host_of(checked), "off") != "loopback":
            raise UsageError(
                f"--inference={address}: the acting server is at 127.0.0.1:PORT or unix:/path of its own machine, and "
                "collectors of others reach it at a socket of pipeline.proxy (docs/several_hosts.md)"
            )


def packed(message: Hello | Welcome) -> bytes:
    """A first word with its length."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def without_delay(connection: socket.socket) -> None:
    """Has a connection over TCP send what is short at once, and end when its peer's host is gone."""
    if connection.family == socket.AF_UNIX:
        return
    from pipeline.messages.dead_connections import SILENT_SECONDS

    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, SILENT_SECONDS), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
