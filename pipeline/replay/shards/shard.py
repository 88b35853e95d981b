"""One of several replay servers, as the learner sees it: what it has, the items it gives, the priorities it takes.

A server that is gone lets most calls wait for ever. Here each kind of call has a thread of its own, which goes on when
the server is back and which the process ends without; nobody else waits for a server without a deadline.
"""

import logging
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.messages.addresses import respelled
from pipeline.records.counters import Tally
from pipeline.replay.client import REFUSALS, RefusedDraws
from pipeline.replay.sampling import COLUMN, as_written
from pipeline.replay.shards.watcher import Watch

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.25
_ANSWER_SECONDS = 1
"""That an answer may take; Reverb takes whole ones."""
_PATIENCE_SECONDS = 2.0
"""Without an answer, or without an item that it was asked for, after which a shard counts as away."""
_MOST_BLOCKS = 2
_MOST_FAILURES = 3
_GONE = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
_NO_ANSWER = (*REFUSALS, reverb.ReverbError)


class Items(NamedTuple):
    """Some items as a shard gave them."""

    frames: NDArray[np.uint8]
    """[items, item_length, lanes, bytes]."""
    keys: NDArray[np.uint64]
    probability: NDArray[np.float64]
    """Of each, that of all items of the shard it was the one drawn."""
    table_size: NDArray[np.int64]
    """Items that the shard had then."""

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.keys)

    def split(self, count: int) -> "tuple[Items, Items]":
        """The first ones, and the others."""
        frames, keys, probability, table_size = self
        return (
            Items(frames[:count], keys[:count], probability[:count], table_size[:count]),
            Items(frames[count:], keys[count:], probability[count:], table_size[count:]),
        )


class Reader:
    """A thread that reads items of one life of a server.

    Args:
      identity: of the process that serves.
      spelling: of its address: Reverb's client of another one would put off its attempts.
    """

    def __init__(self, identity: str, spelling: str) -> None:
        self.identity, self.spelling, self.has_ended = identity, spelling, False


class Shard:
    """A replay server that has a part of the items.

    Args:
      number: of the shard, from 0.
      watch: of its server.
      table: its experience table.
      item_shape: of the bytes of an item: frames, lanes, bytes of a frame.
      refused: counts draws of other items.
      block: items that are fetched together.
      in_flight: items that the server is asked for ahead.
      exponent: alpha of a prioritised replay; None is a uniform one.
    """

    def __init__(
        self,
        number: int,
        watch: Watch,
        table: str,
        item_shape: tuple[int, int, int],
        refused: RefusedDraws,
        block: int,
        in_flight: int,
        exponent: float | None,
    ) -> None:
        self.number, self.address = number, watch.address
        self._table, self._item_shape, self._block, self._in_flight = table, item_shape, block, in_flight
        self._exponent, self._refused = exponent, refused
        self._client = reverb.Client(watch.address)
        self.watch = watch
        self._closing = threading.Event()
        self._mean_priority = 0.0  # of an item, to the power of alpha
        self._blocks: deque[Items] = deque()
        self._changed = threading.Condition()  # guards the blocks and what is said of them
        self._lags = False
        self._reader: Reader | None = None
        self._spellings = respelled(watch.address)
        self._failures = 0  # in a row
        self._failure: Exception | None = None
        self._writes: queue.SimpleQueue[tuple[dict[int, float], Future[None]] | None] = queue.SimpleQueue()
        self._writing: Future[None] | None = None
        self._threads: dict[str, threading.Thread] = {}
        if exponent is not None:
            self._run("probe", self._probe)

    @property
    def answers(self) -> bool:
        """Whether the server has answered of late."""
        return not self.watch.is_away

    @property
    def tally(self) -> Tally:
        """What the experience table had counted when the server answered last."""
        return self.watch.tally

    @property
    def mass(self) -> float:
        """The chance that a draw over all shards should be one of this shard's, times a number that all share.

        The number of its items or, of a prioritised replay, the sum of their priorities to the power of alpha; 0 of one
        that is away.
        """
        if self._lags or not self.answers or not (size := self.tally.present):
            return 0.0
        return float(size) if self._exponent is None else size * self._mean_priority

    def info(self, table: str) -> Any:
        """Reverb's `TableInfo` of a table when the server answered last; None before."""
        return self.watch.seen.info.get(table) if self.watch.seen is not None else None

    def refresh(self) -> bool:
        """Asks the server what it has, and says whether it has answered within a second."""
        return self.watch.wait(time.monotonic() + _ANSWER_SECONDS)

    def take(self, count: int) -> list[Items]:
        """Takes so many items, drawn by uniform chance or priority; fewer if it goes away meanwhile.

        Raises:
          Exception: what kept an answering server from giving any.
        """
        taken: list[Items] = []
        with self._changed:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while count:
                if self._failure is not None:
                    raise self._failure
                self._follow()
                if not self._blocks:
                    left = deadline - time.monotonic()
                    if left <= 0.0 or not self.answers or self._closing.is_set():
                        self._lags = True  # until it gives something
                        break
                    self._changed.wait(min(left, _WATCH_SECONDS))
                elif self._is_stale(self._blocks[0]):
                    self._blocks.popleft()
                    self._changed.notify_all()
                else:
                    first, rest = self._blocks.popleft().split(count)
                    if rest.size:
                        self._blocks.appendleft(rest)
                    self._changed.notify_all()
                    taken.append(first)
                    count -= first.size
                    deadline = time.monotonic() + _PATIENCE_SECONDS
        return taken

    def write(self, priorities: dict[int, float]) -> Future[None] | None:
        """Gives items new priorities, by key; None if the server is away or has not taken the last ones yet."""
        if not self.answers or (self._writing is not None and not self._writing.done()):
            return None
        self._run("write", self._write)
        self._writing = Future()
        self._writes.put((priorities, self._writing))
        return self._writing

    def stop(self) -> None:
        """Has the threads end; one that waits for its server ends after that."""
        self._closing.set()
        self._writes.put(None)
        with self._changed:
            self._changed.notify_all()

    def join(self, deadline: float) -> None:
        """Waits for the threads' ends, at most until a monotonic time."""
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, name: str, target: Any) -> None:
        if name not in self._threads:
            self._threads[name] = threading.Thread(target=target, name=f"{name} shard {self.number}", daemon=True)
            self._threads[name].start()

    def _is_stale(self, block: Items) -> bool:
        """Whether items are from before the table had grown or shrunk to another size: they are of its oldest alone."""
        then, now = int(block.table_size[0]), self.tally.present
        return not then / 2 <= now <= then * 2

    def _probe(self) -> None:
        """Learns the mean of priorities from one sample now and then: a server tells it in no other way.

        Those of the items that are drawn would not do: of a shard of little weight they are seldom and old.
        """
        while not self._closing.wait(_WATCH_SECONDS if self._mean_priority else 0.02):
            if not self.answers or not self.tally.present:
                continue
            try:
                info = next(self._client.sample(self._table, emit_timesteps=False)).info
            except _NO_ANSWER:
                continue
            of_all = info.priority ** (self._exponent or 0.0) / info.probability
            self._mean_priority = of_all / info.table_size

    def _read(self, reader: Reader) -> None:
        """Keeps some blocks of items at hand, of one life of the server; it may wait in vain for one that is gone."""
        try:
            for block in self._refused.without(self._dataset(reader.spelling).as_numpy_iterator()):
                if not self._offer(reader, block):
                    return
        except tf.errors.OpError as error:
            log.warning("shard %d at %s gives nothing: %s", self.number, self.address, error)
            answers = self.refresh()
            with self._changed:
                if reader is not self._reader:
                    return
                self._failures = self._failures + 1 if answers else 0
                if self._failures > (_MOST_FAILURES if isinstance(error, _GONE) else 0):
                    self._failure = error
                self._changed.notify_all()
            self._closing.wait(_WATCH_SECONDS)
            with self._changed:
                reader.has_ended = True

    def _dataset(self, address: str) -> tf.data.Dataset:
        items = reverb.TrajectoryDataset(
            address,
            self._table,
            dtypes={COLUMN: tf.uint8},
            shapes={COLUMN: tf.TensorShape(self._item_shape)},
            max_in_flight_samples_per_worker=self._in_flight,
        )
        drawn = items.batch(self._block, drop_remainder=True).map(
            lambda item: Items(item.data[COLUMN], item.info.key, item.info.probability, item.info.table_size)
        )
        return drawn.with_options(as_written())

    def _offer(self, reader: Reader, block: Items) -> bool:
        """Puts a block with those at hand and waits until there is room; False if nobody wants more of this reader."""
        with self._changed:
            if reader is self._reader:
                self._failures = 0
                self._blocks.append(block)
                self._lags = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: len(self._blocks) < _MOST_BLOCKS or not self._wants(reader))
            return self._wants(reader)

    def _wants(self, reader: Reader) -> bool:
        return reader is self._reader and not self._closing.is_set()

    def _follow(self) -> None:
        """Has a thread read of the process that there is: the one that reads of another may wait for ever."""
        identity = self.watch.identity
        if self._reader is not None and self._reader.identity == identity and not self._reader.has_ended:
            return
        self._reader = reader = Reader(identity, next(self._spellings))
        self._changed.notify_all()
        thread = threading.Thread(target=self._read, args=(reader,), name=f"read shard {self.number}", daemon=True)
        self._threads["read"] = thread
        thread.start()

    def _write(self) -> None:
        while (write := self._writes.get()) is not None:
            priorities, done = write
            try:
                self._client.mutate_priorities(self._table, priorities)
                done.set_result(None)
            except Exception as error:  # whoever asked for it is told
                done.set_exception(error)
