"""What the learner's workers say to each other through TensorFlow, and what becomes of it when one of them is gone."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
from tensorflow.python.eager import context

from pipeline.learner.workers.team import Cluster, Wish, WorkerLost
from pipeline.runtime.native import package_folder
from pipeline.security import loopback

log = logging.getLogger(__name__)

_HEALTH_CHECKS = {
    "_check_health_initial_timeout": 120,  # of a peer that answered and is gone before TensorFlow has met it
    "_check_health_interval": 2,
    "_check_health_timeout": 5,
    "_check_health_retry_limit": 2,
}
"""Seconds, and tries: TensorFlow's own would find a host that is cut off after a minute."""

_WATCH_SECONDS = 0.5

_LOSSES = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
)
"""What a collective ends with when a peer is gone, was restarted, or did not come."""

_ADVICE = "all learners have to start anew, with --resume, from the chief's newest checkpoint"


class Team:
    """All workers of a run. Each makes one before anything else runs in TensorFlow; all make the same calls in turn.

    Args:
      cluster: who they are; they have answered (`workers.await_peers`).
      patience: see the attribute.

    Raises:
      TimeoutError: a worker did not join.
      WorkerLost: one is gone already.
    """

    def __init__(self, cluster: Cluster, patience: float = 300.0) -> None:
        self.cluster = cluster
        self.patience = patience
        """Seconds that a worker waits for the others within a call, though they live."""
        self._waits_since: float | None = None
        # TensorFlow's coordination service would take SIGTERM for itself, and its chief waits for ever.
        context.context().configure_coordination_service("")
        for name, value in _HEALTH_CHECKS.items():
            setattr(CollectiveAllReduceExtended, name, value)
        gpus = len(tf.config.list_physical_devices("GPU"))
        kinds = tf.distribute.experimental.CommunicationImplementation
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.index,
            num_accelerators={"GPU": gpus},
            rpc_layer="grpc",
        )
        with self.together(), _kept_to_this_machine(cluster):
            try:
                self.strategy = tf.distribute.MultiWorkerMirroredStrategy(
                    resolver,
                    tf.distribute.experimental.CommunicationOptions(implementation=kinds.AUTO if gpus else kinds.RING),
                )
            except RuntimeError as error:
                if "Timeout waiting" not in str(error):
                    raise
                raise TimeoutError(
                    f"learner {cluster.index} has waited {_HEALTH_CHECKS['_check_health_initial_timeout']} s for "
                    f"{cluster.names(self._gone() or cluster.peers)} to join"
                ) from None
        self._most = tf.function(lambda wish: tf.reduce_max(self.everyones(wish)), autograph=False)
        self.sum: Callable[[tf.Tensor], tf.Tensor] = tf.function(self._sum, autograph=False)
        """Sums float32 [numbers] over all workers."""
        self._of_chief = tf.function(self._sum_of_chief, autograph=False)
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    @property
    def size(self) -> int:
        """Workers."""
        return len(self.cluster.addresses)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part of the program that all workers run.

        Raises:
          WorkerLost: one of them is gone, or did not come to it.
        """
        self._waits_since = time.monotonic()
        try:
            yield
        except tf.errors.OpError as error:
            if not (gone := self._gone()) and not isinstance(error, _LOSSES):
                raise
            who = self.cluster.names(gone) if gone else f"one of {self.cluster.names(self.cluster.peers)}"
            what = "is gone" if gone else "did not come or had gone"
            raise WorkerLost(f"{who} {what} ({_reason(error)}): {_ADVICE}") from error
        finally:
            self._waits_since = None

    def agree(self, wish: int) -> int:
        """The largest `Wish` of all workers. From `STOP` on it is the last that they say to each other.

        Raises:
          WorkerLost: see `together`.
        """
        with self.together():
            largest = int(self._most(tf.constant(float(wish))))
        if largest >= Wish.STOP:
            self._part()
        return largest

    def of_chief(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The chief's values; the other workers give arrays of the same shapes and dtypes.

        Raises:
          WorkerLost: see `together`.
        """
        taken = list(values)
        with self.together():
            for dtype in sorted({value.dtype.name for value in values}):  # one message for all arrays of a dtype
                chosen = [index for index, value in enumerate(values) if value.dtype.name == dtype]
                flat = self._of_chief(np.concatenate([np.ravel(values[index]) for index in chosen])).numpy()
                parts = np.split(flat, np.cumsum([values[index].size for index in chosen])[:-1])
                for index, part in zip(chosen, parts, strict=True):
                    taken[index] = part.reshape(values[index].shape)
        return taken

    def everyones(self, value: tf.Tensor) -> tf.Tensor:
        """Each worker's float32 [...] by their indices, [workers, ...]; for a `tf.function`, outside of replicas."""
        replicas = self.strategy.num_replicas_in_sync

        def place() -> Any:
            replica = tf.distribute.get_replica_context()
            is_mine = tf.reshape(tf.range(replicas) == replica.replica_id_in_sync_group, (-1, *[1] * value.shape.rank))
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_mine, value, 0.0))

        of_replicas = self.strategy.experimental_local_results(self.strategy.run(place))[0]
        return of_replicas[:: replicas // self.size]

    def _sum(self, flat: tf.Tensor) -> Any:
        """Each worker's `flat` counts once, however many replicas it has."""
        replicas = self.strategy.num_replicas_in_sync // self.size

        def place() -> Any:
            replica = tf.distribute.get_replica_context()
            is_first = tf.equal(replica.replica_id_in_sync_group % replicas, 0)
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, flat, tf.zeros_like(flat)))

        return self.strategy.experimental_local_results(self.strategy.run(place))[0]

    def _sum_of_chief(self, flat: tf.Tensor) -> Any:
        def place() -> Any:
            replica = tf.distribute.get_replica_context()
            is_mine = tf.equal(replica.replica_id_in_sync_group, 0)
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_mine, flat, tf.zeros_like(flat)))

        return self.strategy.experimental_local_results(self.strategy.run(place))[0]

    def _part(self) -> None:
        """Lets all leave, none of whom is missed from here on."""
        self.strategy.extended._check_health_thread_should_stop.set()
        # Others may not have all of the last sum yet, and fetch it from here. Once they sum again, they have.
        with contextlib.suppress(WorkerLost), self.together():
            self._most(tf.constant(0.0)).numpy()

    def _gone(self) -> tuple[int, ...]:
        """Workers that do not answer, or that have been restarted."""

        def is_gone(index: int) -> bool:
            try:
                context.context().check_collective_ops_peer_health(f"/job:worker/replica:0/task:{index}", 2_000)
            except tf.errors.OpError:
                return True
            return False

        return tuple(filter(is_gone, self.cluster.peers))

    def _watch(self) -> None:
        """Ends a wait for a worker that lives but does not come."""
        while True:
            time.sleep(_WATCH_SECONDS)
            since = self._waits_since
            if since is not None and time.monotonic() - since > self.patience:
                sentence = f"not all learners came to a call within {self.patience:.0f} s"
                context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, sentence)
                return


@contextlib.contextmanager
def _kept_to_this_machine(cluster: Cluster) -> Iterator[None]:
    """TensorFlow's server that is made within listens to this machine alone where its worker's address says so."""
    if not cluster.is_of_this_machine:
        yield
        return
    port = cluster.own[1]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(loopback.bound(port, package_folder("tensorflow") / "libtensorflow_cc.so.2"))
        except (loopback.LoopbackError, OSError) as error:
            log.warning("TensorFlow's server cannot be kept to the loopback address: %s", error)
        yield
    if not all(map(loopback.is_loopback, found := loopback.listeners(port))):
        log.warning("TensorFlow listens on %s, port %d: OPEN to whoever reaches this machine", ", ".join(found), port)


def _reason(error: tf.errors.OpError) -> str:
    """The line of an error that speaks of the peer, not of the operation that met it."""
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    telling = (line for line in lines if "aborted by" in line or "onnect" in line)
    return next(telling, lines[0] if lines else type(error).__name__)
