"""Where a role finds the others: addresses of the replay's servers, as --replay has them. No TensorFlow here."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.experiment.config import UsageError

_SOCKET = "unix:"


class Addresses(NamedTuple):
    """Where one role reads and writes."""

    shards: Sequence[str]
    """Of all the replay's servers, in the order of their numbers."""
    frames: str
    """Of the one that takes a collector's frames."""
    weights: str
    """Of what hands out the learner's publications: a server of the replay, a relay or a proxy."""
    reports: str
    """Of the server that takes reports."""

    @classmethod
    def of(cls, shards: Sequence[str], index: int = 0, weights: str = "", reports: str = "") -> "Addresses":
        """Those of a collector of some number: collectors are dealt to the shards in turn."""
        own = shards[index % len(shards)]
        return cls(shards, own, weights or own, reports or own)


def parse(text: str, flag: str) -> list[str]:
    """Addresses separated by commas.

    Args:
      text: such as "10.0.0.2:9000,10.0.0.3:9000", or "unix:/path" of a proxy's socket.
      flag: that it was given by, for the message.

    Raises:
      UsageError: one is none, or is there twice.
    """
    addresses = [address.strip() for address in text.split(",")]
    for address in addresses:
        if not is_socket(address):
            _port(address, flag)
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"{flag}={text} names an address twice: each shard is a server of its own")
    return addresses


def port_of(address: str, flag: str) -> int:
    """The port to listen on.

    Raises:
      UsageError: it is a proxy's socket: a server listens on a port.
    """
    if is_socket(address):
        raise UsageError(f"{flag}: a server cannot listen at {address}: give host:port")
    return _port(address, flag)


def is_socket(address: str) -> bool:
    """Whether an address is that of a proxy's socket."""
    return address.startswith(_SOCKET)


def host_of(address: str) -> str:
    """The host of an address that `parse` has taken."""
    return address.rpartition(":")[0].strip("[]")


def respelled(address: str) -> Iterator[str]:
    """Other spellings of an address, without end.

    After an absence gRPC tries a server again in intervals that grow to half a minute, and it does so for each spelling
    by itself: by another one a server that is back is reached at once.
    """
    while True:
        if is_socket(address):
            yield f"{_SOCKET}//{os.path.abspath(address.removeprefix(_SOCKET))}"
        else:
            with contextlib.suppress(OSError):
                host, port = host_of(address), _port(address, "an address")
                family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                yield f"ipv4:{where[0]}:{port}" if family == socket.AF_INET else f"ipv6:[{where[0]}]:{port}"
            yield f"dns:///{address}"
        yield address


def accepts(address: str, seconds: float) -> bool:
    """Whether something listens at an address. A proxy does at its socket, also while the server is away."""
    try:
        if is_socket(address):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(seconds)
                probe.connect(address.removeprefix(_SOCKET))
        else:
            socket.create_connection((host_of(address), _port(address, "an address")), seconds).close()
    except OSError:
        return False
    return True


def _port(address: str, flag: str) -> int:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"{flag}: {address!r} is not host:port (such as 10.0.0.2:9000)")
    return int(port)


def guard_of(host: str, private: str) -> str:
    """What `replay.private` is for a server at an address or name: it is the loopback one, or it is to be reached."""
    with contextlib.suppress(ValueError):  # a name
        return "loopback" if ipaddress.ip_address(host).is_loopback else "off"
    return "loopback" if host == "localhost" or private == "loopback" else "off"
