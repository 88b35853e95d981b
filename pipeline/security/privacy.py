"""Keeping others out of the replay: which measure a run takes, and what it says of it. No TensorFlow here.

Reverb does as any peer tells it: read, insert, delete, stop a table for good. So nothing outside a run may reach its
server.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec
import psutil

from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.security import loopback

if TYPE_CHECKING:
    from pipeline.security.network_namespace import Namespace

log = logging.getLogger(__name__)

_ORDER: dict[str, tuple[Literal["namespace", "loopback"], ...]] = {
    "auto": ("namespace", "loopback"),
    "namespace": ("namespace",),
    "loopback": ("loopback",),
    "off": (),
}
"""Measures by `replay.private`, the one that keeps more out first."""


class Privacy(msgspec.Struct, frozen=True):
    """The measure that a run takes."""

    measure: Literal["namespace", "loopback", "open"]
    without: str = ""
    """Why no stricter measure was taken, in words."""
    namespace: "Namespace | None" = None

    def command(self, command: Sequence[str]) -> list[str]:
        """A command as its process has to be started to be where the replay is; give it `descriptors`."""
        return self.namespace.command(command) if self.namespace else list(command)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors that a process started by `command` inherits."""
        return self.namespace.descriptors if self.namespace else ()

    def sentence(self, port: int) -> str:
        """Who reaches the replay at that port, and what can be done about it."""
        if self.measure == "namespace":
            return (
                "replay: in a network namespace of the run's own, which nothing outside reaches; environments see no "
                "network there (--set=replay.private='\"loopback\"' if they need it)"
            )
        if self.measure == "loopback":
            return (
                f"replay: listens on 127.0.0.1:{port} alone: no other machine reaches it, but other users of this one "
                f"do ({self.without})"
            )
        return (
            f"replay: OPEN to everyone who reaches port {port} of any of this machine's addresses, without "
            f"authentication ({self.without}). Close the port with a firewall"
        )


@contextmanager
def arranged(
    experiment: Experiment, may_isolate: bool, required: bool, reached: str = ""
) -> Iterator[tuple[Experiment, Privacy]]:
    """Takes the first measure of `replay.private` that works here.

    Args:
      experiment: the run.
      may_isolate: whether the run's processes are this machine's and none is this one: those can have a namespace.
      required: take one or refuse.
      reached: why roles on other machines have to reach the replay; empty if there are none.

    Yields:
      The measure, and the experiment, which demands it from here on if one is required or none can be taken.

    Raises:
      UsageError: a measure is demanded that cannot be taken.
    """
    taken = _taken(experiment.replay.private, may_isolate, required, reached)
    if required or reached:
        private = "off" if taken.measure == "open" else taken.measure
        replay = msgspec.structs.replace(experiment.replay, private=private)
        experiment = msgspec.structs.replace(experiment, replay=replay)
    try:
        yield experiment, taken
    finally:
        if taken.namespace is not None:
            taken.namespace.close()


def _taken(private: str, may_isolate: bool, required: bool, reached: str) -> Privacy:
    if required and private == "off":
        raise UsageError("--require_private contradicts replay.private='off': leave one of them out")
    obstacles: list[str] = []
    for measure in () if reached else _ORDER[private]:
        obstacle, namespace = _take(measure, may_isolate)
        if not obstacle:
            return Privacy(measure, "; ".join(obstacles) or f"replay.private={private!r}", namespace)
        obstacles.append(obstacle)
    if required or private in ("namespace", "loopback"):
        demand, advice = f"replay.private={private!r}", "Set replay.private='auto' to take what works"
        if private == "auto":
            demand, advice = "--require_private", "Leave the flag out and close the replay's port with a firewall"
        raise UsageError(f"{demand} cannot be kept here: {reached or '; '.join(obstacles)}. {advice}")
    return Privacy("open", reached or "; ".join(obstacles) or "replay.private='off'")


def _take(measure: str, may_isolate: bool) -> "tuple[str, Namespace | None]":
    """Tries a measure: why it cannot be taken, or an empty text; and its namespace, if it has one."""
    if measure == "loopback":
        obstacle = loopback.obstacle()
        return obstacle and f"the server cannot be kept to the loopback address: {obstacle}", None
    if not may_isolate:
        return "this launcher's roles cannot be given a network namespace", None
    from pipeline.security.network_namespace import Namespace

    try:
        return "", Namespace()
    except OSError as error:
        return f"no network namespace: {error.strerror}", None


@contextmanager
def guarding(port: int, private: str) -> Iterator[None]:
    """Keeps a server that is made within to the loopback address where that works, and logs what it listens on then.

    Args:
      port: the server's.
      private: of `ReplayConfig`; "off" lets the server listen on every address.

    Raises:
      UsageError: others reach the server, though `private` demands that they do not; it is left to die.
    """
    with ExitStack() as stack:
        if private != "off":
            try:
                stack.enter_context(loopback.bound(port))
            except (loopback.LoopbackError, OSError) as error:
                log.warning("the replay cannot be kept to the loopback address: %s", error)
        yield
    addresses = loopback.listeners(port)
    interfaces = [name for name, state in psutil.net_if_stats().items() if state.isup]
    seen = f"{', '.join(addresses)}, port {port}; network interfaces here: {', '.join(interfaces)}"
    if interfaces == ["lo"] or (addresses and all(map(loopback.is_loopback, addresses))):
        log.info("the replay listens on %s", seen)
    elif private in ("namespace", "loopback"):
        raise UsageError(f"replay.private={private!r}, but the replay listens on {seen}: set it to 'auto' or 'off'")
    else:
        log.warning("the replay listens on %s: OPEN to whoever reaches this machine", seen)
