"""Learners over several hosts: who they are, each one's share of a batch, and the wait for all of them.

TensorFlow calls them workers. What they say to each other is in `collectives`; no TensorFlow here.
"""

import contextlib
import enum
import errno
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.experiment.validation_without_table import windows_of
from pipeline.messages import role_words
from pipeline.messages.addresses import guard_of, host_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_CALL_SECONDS = 1.0
_FORM = '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'


class WorkerLost(Exception):
    """A learner of several is gone, and with it the state of all: each has to start anew from the chief's checkpoint.

    TensorFlow's collectives do not work again in a process that has seen this: go on in a fresh one.
    """


class Wish(enum.IntEnum):
    """What a worker is for before a call of the learner; all do what the largest wish says."""

    LEARN = 0
    WAIT = 1
    """It has no experience yet: nobody learns, and all ask again."""
    TAKE_STATE = 2
    """All take the chief's state anew, as it has rolled back."""
    STOP = 3
    """The run is interrupted: it may be resumed."""
    FINISH = 4
    """It has reached its stop condition."""


class Cluster(msgspec.Struct, frozen=True):
    """The workers of a run as one of them sees them. The first is the chief, which reports and writes checkpoints."""

    addresses: tuple[str, ...]
    """"HOST:PORT" of each worker's TensorFlow server, one and the same for all who reach it."""
    index: int
    """Of this worker."""

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the first."""
        return self.index == 0

    @property
    def own(self) -> tuple[str, int]:
        """Host and port of this worker's address."""
        return host_of(self.addresses[self.index]), int(self.addresses[self.index].rpartition(":")[2])

    @property
    def is_of_this_machine(self) -> bool:
        """Whether this worker's address is one that only this machine reaches."""
        return guard_of(self.own[0], "off") == "loopback"

    @property
    def peers(self) -> tuple[int, ...]:
        """Indices of all other workers."""
        return tuple(index for index in range(len(self.addresses)) if index != self.index)

    def names(self, indices: tuple[int, ...]) -> str:
        """Workers in words: "learner 1 at HOST:PORT, learner 2 at HOST:PORT"."""
        return ", ".join(f"learner {index} at {self.addresses[index]}" for index in indices)


class _Task(msgspec.Struct):
    type: str
    index: int


class _TfConfig(msgspec.Struct):
    cluster: dict[str, list[str]]
    task: _Task


def cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The workers that TF_CONFIG names; None where it is not set or names one alone.

    Args:
      environment: such as `os.environ`.

    Raises:
      UsageError: TF_CONFIG is malformed.
    """
    if not (text := environment.get("TF_CONFIG", "")):
        return None
    try:
        config = msgspec.json.decode(text, type=prepared(_TfConfig))
    except msgspec.MsgspecError as error:
        raise UsageError(f"TF_CONFIG cannot be read: {error}; it has the form {_FORM}") from None
    addresses, task = config.cluster.get("worker", []), config.task
    if others := sorted(config.cluster.keys() - {"worker"}):
        raise UsageError(
            f"TF_CONFIG names a job {others[0]!r}: learners are of job 'worker' alone, the first is the chief"
        )
    if task.type != "worker":
        raise UsageError(f"TF_CONFIG has task.type={task.type!r}: a learner's is 'worker'")
    if not 0 <= task.index < len(addresses):
        raise UsageError(f"TF_CONFIG has task.index={task.index} and {len(addresses)} workers: they count from 0")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"TF_CONFIG names a worker {address!r}: write HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise UsageError("TF_CONFIG names an address twice: each worker has its own")
    return Cluster(tuple(addresses), task.index) if len(addresses) > 1 else None


def share(experiment: Experiment, workers: int) -> Experiment:
    """The experiment as one of several workers draws experience for it: `learner.batch_size` is its share.

    Everything else stays as it is for the run, the size of a replay item included.

    Raises:
      UsageError: the work cannot be shared among so many.
    """
    if workers == 1:
        return experiment
    learner = experiment.learner
    if experiment.agent.on_policy:
        raise UsageError(
            f"agent.kind={experiment.agent.kind!r} learns from one queue in turn, and {workers} learners would take "
            "each other's sequences: start one learner, without TF_CONFIG"
        )
    if any(getattr(experiment.agent, name, 0) for name in ("redo_period", "reset_period")):
        raise UsageError("one learner renews its network: set agent.redo_period=0 and agent.reset_period=0")
    if learner.batch_size % workers:
        raise UsageError(f"learner.batch_size={learner.batch_size} does not divide among {workers} learners")
    if learner.steps_per_call % learner.local_steps:
        raise UsageError(
            f"learner.local_steps={learner.local_steps} does not divide learner.steps_per_call={learner.steps_per_call}"
        )
    part = msgspec.structs.replace(
        experiment,
        learner=msgspec.structs.replace(learner, batch_size=learner.batch_size // workers),
        replay=msgspec.structs.replace(experiment.replay, steps_per_item=experiment.steps_per_item),
    )
    of_replay = part
    if experiment.mixes:
        _refuse_uneven_share(experiment, workers)
        of_replay = part.collected
    if (drawn := of_replay.learner.batch_size * learner.steps_per_call) % part.windows_per_item:
        raise UsageError(
            f"each of {workers} learners draws {drawn} windows a call, which are not whole items of "
            f"{part.windows_per_item}: change learner.batch_size, learner.steps_per_call, replay.lanes_per_item or "
            "replay.steps_per_item"
        )
    return part


def _refuse_uneven_share(experiment: Experiment, workers: int) -> None:
    """Refuses a share of a dataset that is not as many windows for each learner."""
    offline, whole = experiment.offline, experiment.learner.batch_size
    ends = {"share": offline.share} | ({"share_final": offline.share_final} if offline.share_decay_steps else {})
    for name, share in ends.items():
        if (windows := windows_of(share, whole)) % workers:
            raise UsageError(
                f"offline.{name}={share:g} is {windows} windows of learner.batch_size={whole}, which do not divide "
                f"among {workers} learners: change one of them"
            )


def pays_from(sum_seconds: float, learners: int, local_steps: int) -> float:
    """Seconds of a lone learner's gradient step from which several learners take more of them than one does.

    A step of s seconds takes s / n of each of n learners that share its batch, and a sum over the network every m
    steps: they pay where s / n + c / m < s.

    Args:
      sum_seconds: c, of one sum.
      learners: n.
      local_steps: m.
    """
    return sum_seconds / local_steps * learners / (learners - 1)


def warning_of(alone: float, sum_seconds: float, learners: int, local_steps: int) -> str:
    """What to say of learners that take fewer gradient steps together than one alone; empty if they pay.

    Args:
      alone: seconds of a gradient step of one.
      sum_seconds: see `pays_from`, as the others.
      learners: of them.
      local_steps: of them.
    """
    if alone >= (least := pays_from(sum_seconds, learners, local_steps)):
        return ""
    return (
        f"{learners} learners pay from about {1e3 * least:.2g} ms a gradient step of one alone; this network takes "
        f"about {1e3 * alone:.2g} ms or less: start one, without TF_CONFIG, or raise learner.local_steps={local_steps}"
    )


def await_peers(cluster: Cluster, interrupted: threading.Event, seconds: float = 300.0) -> bool:
    """Waits until all workers wait here: each calls on the others at their addresses, and answers at its own.

    TensorFlow's own wait knows no signal, and takes a worker that is about to end for one that has started. Afterwards
    the port is free for TensorFlow's server. The chief goes first, once it has met all others; they stay at their doors
    until its server is up. Who went as soon as all had called would leave those whom an answer was lost on the way to.

    Args:
      cluster: the workers.
      interrupted: ends the wait.
      seconds: to wait at most.

    Returns:
      Whether all are there; false if interrupted.

    Raises:
      TimeoutError: says who was not.
    """
    deadline, told = time.monotonic() + seconds, ""
    with contextlib.closing(_Door(cluster)) as door:
        while not interrupted.is_set():
            if not (missing := door.missing()):
                return True
            if time.monotonic() > deadline:
                raise TimeoutError(f"learner {cluster.index} has waited {seconds:.0f} s for {missing}")
            if missing != told:
                log.info("learner %d waits for %s", cluster.index, missing)
                told = missing
            interrupted.wait(_POLL_SECONDS)
    return False


def _greeting(cluster: Cluster, index: int) -> bytes:
    return f"learner {index} of {' '.join(cluster.addresses)}\n".encode()


def _answer(cluster: Cluster, peer: int) -> bytes:
    """What is first said at a peer's address to a greeting: its own, other words of a server, or nothing."""
    host, _, port = cluster.addresses[peer].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), _CALL_SECONDS) as connection:
            connection.sendall(_greeting(cluster, cluster.index))
            return connection.recv(len(_greeting(cluster, peer)))
    except OSError:
        return b""


class _Door:
    """Where a worker answers the calls of its peers while it calls on them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._unanswered = set(cluster.peers)
        self._server: _Server | None = None

    def missing(self) -> str:
        """What is still waited for, in words: peers that have not answered or not called, or the chief's server."""
        port = self._cluster.own[1]
        try:
            self._server = self._server or _Server(self._cluster)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return f"port {port}, on which another process of this machine listens"
        for peer in sorted(self._unanswered):
            if _answer(self._cluster, peer) == _greeting(self._cluster, peer):
                self._unanswered.discard(peer)
        if not self._cluster.is_chief and _answer(self._cluster, 0) not in (b"", _greeting(self._cluster, 0)):
            return ""
        missing = self._unanswered | (set(self._cluster.peers) - self._server.callers)
        if not missing and not self._cluster.is_chief:
            return f"the server of {self._cluster.names((0,))}"
        return self._cluster.names(tuple(sorted(missing)))

    def close(self) -> None:
        """Frees the port."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """Greets peers that greet, and knows who has."""

    allow_reuse_address = True  # connections of a process that ran here before are not in the way; a listener is

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1" if cluster.is_of_this_machine else "", cluster.own[1]), _Caller)
        self.cluster = cluster
        self.callers: set[int] = set()
        threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), name="peers", daemon=True).start()


class _Caller(socketserver.StreamRequestHandler):
    timeout = _CALL_SECONDS
    server: _Server

    def handle(self) -> None:
        cluster = self.server.cluster
        known = {_greeting(cluster, peer): peer for peer in cluster.peers}
        with contextlib.suppress(OSError):
            if (peer := known.get(self.rfile.readline(max(map(len, known))))) is not None:
                self.wfile.write(_greeting(cluster, cluster.index))
                self.server.callers.add(peer)


def start_anew(lost: WorkerLost, times: int) -> NoReturn:
    """Re-executes this role's process: TensorFlow's collectives cannot be used again after a peer was lost.

    Args:
      lost: the peer.
      times: that this process has done so before.
    """
    logging.getLogger("role").error("%s; this one starts anew", lost)
    role_words.end(None, "")
    logging.shutdown()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing is closed
            if int(descriptor) > 2:
                os.set_inheritable(int(descriptor), False)
    line = [argument for argument in sys.orig_argv[1:] if not argument.startswith("--lost=")]
    begin = line.index("pipeline.role") + 1
    os.execv(sys.executable, [sys.executable, *line[:begin], "--resume", f"--lost={times + 1}", *line[begin:]])
