"""The replay of several servers, as the learner sees it: one draw over all of them.

Collectors spread over the shards, and shards fill unevenly. A draw takes of each shard as many items as chance gives
it by what the shard has, so that every window of the whole has the chance that one table would give it. A shard
that is away has nothing; it takes part again when it answers again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs
from agents.priorities import of_items
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Seen, Tally
from pipeline.replay.client import RefusedDraws
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, arrange, decode, is_packed, item_shape, sample_of
from pipeline.replay.shards import permits, stalls
from pipeline.replay.shards.learner_permits import Allowance
from pipeline.replay.shards.remote_replay import watched
from pipeline.replay.shards.shard import Shard

_MOST_IN_FLIGHT = 512
_PARTS = 8
"""Of what a shard gives for a call, each fetched by itself with priorities: so few are drawn ahead."""
_WRITE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_EMPTY_SECONDS = 1.0
_STOP_SECONDS = 2.0


class ShardedReplay:
    """A replay at several addresses.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      addresses: of the shards, in order; the first has the permits.
      workers: learners that draw equal shares of each batch.

    Raises:
      UsageError: a learner's share is not whole items.
    """

    def __init__(self, experiment: Experiment, specs: Specs, addresses: Sequence[str], workers: int = 1) -> None:
        learner, replay = experiment.learner, experiment.replay
        self._batch_size = learner.batch_size // workers
        drawn = self._batch_size * learner.steps_per_call
        if learner.batch_size % workers or drawn % experiment.windows_per_item:
            raise UsageError(
                f"learner.batch_size={learner.batch_size} times learner.steps_per_call={learner.steps_per_call} is not "
                f"whole items of {experiment.windows_per_item} windows for each of {workers} learners: change "
                "learner.batch_size or learner.steps_per_call"
            )
        self.addresses: Sequence[str] = tuple(addresses)
        """Of all servers that reports come to."""
        self.publication_addresses: Sequence[str] = self.addresses
        """Of all that publications go to."""
        self.address = addresses[0]
        self.items_per_call = drawn // experiment.windows_per_item
        self.skipped_priorities = 0
        """Of items whose shard was away when they came."""
        self.refused = RefusedDraws(experiment)
        self._experiment, self._layout = experiment, FrameLayout.of(experiment, specs)
        self._item_shape = item_shape(experiment, self._layout)
        self._random = np.random.default_rng()  # as what the shards give has no seed either
        block = self.items_per_call  # as with one server: smaller ones cost more an item
        if replay.prioritized:  # what is drawn early is drawn by old priorities
            block = max(1, -(-block // len(addresses)) // _PARTS)
        self._shards = [
            Shard(
                number,
                watched(address, self._layout.table),
                self._layout.table,
                self._item_shape,
                self.refused,
                block=block,
                in_flight=min(_MOST_IN_FLIGHT, max(8, block)),
                exponent=replay.priority_exponent if replay.prioritized else None,
            )
            for number, address in enumerate(addresses)
        ]
        self._closing = threading.Event()
        self._allowance = Allowance(experiment, addresses[0], lambda: self._shards[0].watch.identity)

    def samples(self) -> Iterator[Sample]:
        """Draws call by call, until `stop`; waits for permits and items as long as there are none.

        Raises:
          Exception: a shard answers and does not give what it has.
        """
        to_sample = self._to_sample()
        while not self._closing.is_set():
            self._allowance.take(self.items_per_call)
            if (drawn := self._draw()) is not None:
                with tf.device("CPU:0"):
                    sample = to_sample(*map(tf.convert_to_tensor, drawn))
                yield sample

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """`update_priorities` of what was drawn for a call."""
        self.update_priorities(sample.keys.numpy(), priorities, sample.shards.numpy())

    def update_priorities(
        self, keys: NDArray[np.uint64], priorities: NDArray[np.float32], shards: NDArray[np.int32]
    ) -> None:
        """Gives the items drawn for a call the priorities of their windows.

        Items that have left are ignored. Those of a shard that is away, or that takes longer than some seconds, are
        skipped and counted.

        Args:
          keys: uint64 [items], of `Sample.keys`.
          priorities: float32 [K, B], not negative. An item takes the mean of its windows'.
          shards: int32 [items], of `Sample.shards`.
        """
        new = of_items(priorities, len(keys))
        writes: dict[Future[None], int] = {}
        for shard in self._shards:
            mine = shards == shard.number
            if updates := dict(zip(keys[mine].tolist(), new[mine].tolist(), strict=True)):
                if (write := shard.write(updates)) is None:
                    self.skipped_priorities += len(updates)
                else:
                    writes[write] = len(updates)
        wait(writes, _WRITE_SECONDS)
        for write, items in writes.items():
            error = write.exception() if write.done() else None
            if error is not None and not isinstance(error, RuntimeError):  # which stands for a server that went away
                raise error
            if error is not None or not write.done():
                self.skipped_priorities += items

    def size(self) -> int:
        """Items present, of a shard that is away those that it had."""
        return sum(shard.tally.present for shard in self._shards)

    def tally(self) -> Tally:
        """Items that the shards have taken since the run began, and those that they have.

        Those given are the ones permitted: what shards give beyond that is drawn ahead, or nobody's. Of a shard that is
        away the numbers are the last ones known.
        """
        tallies = [seen.tally for seen in self.seen()]
        return Tally(*(sum(counts) for counts in zip(*tallies, strict=True)))

    def seen(self) -> Sequence[Seen]:
        """What the shards were when they last answered; of items sampled those permitted, all with the first shard."""
        found = [shard.watch.seen for shard in self._shards if shard.watch.seen is not None]
        return [
            msgspec.structs.replace(seen, tally=seen.tally._replace(sampled=self._permitted(seen) if first else 0))
            for seen, first in zip(found, (True, *[False] * len(found)), strict=False)
        ]

    def refresh(self) -> None:
        """Has `tally` be of now, of the shards that answer."""
        for shard in self._shards:
            shard.refresh()

    def save(self) -> None:
        """See `Replay.save`: the servers write their own checkpoints."""

    def _permitted(self, seen: Seen) -> int:
        taken = seen.info[permits.PERMITS_TABLE].rate_limiter_info.sample_stats.completed
        return int(taken) * permits.sizes(self._experiment).sampled_items

    @property
    def warning(self) -> str:
        """See `Replay.warning`."""
        silences = [(shard.address, shard.watch.silence) for shard in self._shards]
        return stalls.absences(silences, self._experiment.learner.stall_seconds)

    def waits_for_collectors(self) -> bool:
        """Whether the learner can have no more before collectors insert or shards come back; if not, a table failed."""
        return stalls.waits(self._asked(), self._states())

    def explain_stall(self) -> str:
        """What the learner waits for, in words, and which shards are away or have nothing."""
        return stalls.explain(self._experiment, self._asked(), self._states())

    def stop(self) -> None:
        """Ends the connections, as far as no server is waited for. The servers go on."""
        self._closing.set()
        for shard in self._shards:
            shard.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for shard in self._shards:
            shard.join(deadline)

    def _asked(self) -> Any:
        """Reverb's `TableInfo` of the permits, or None, after all shards that are there have been asked anew."""
        for shard in self._shards:
            if shard.answers:
                shard.refresh()
        return self._shards[0].info(permits.PERMITS_TABLE)

    def _states(self) -> list[stalls.ShardState]:
        return [
            stalls.ShardState(shard.address, shard.answers, shard.tally.present * self._experiment.windows_per_item)
            for shard in self._shards
        ]

    def _draw(self) -> tuple[NDArray[Any], ...] | None:
        """Windows, relative probability, key and shard of the items of a call; None if there will be none.

        If `is_packed`, the items' frames in the place of windows.

        They come in random order, so that a batch has items of all shards. What a shard that goes away owes is drawn
        from the others.
        """
        count = self.items_per_call
        frames, relative = np.empty((count, *self._item_shape), np.uint8), np.ones(count, np.float32)
        keys, owners = np.empty(count, np.uint64), np.empty(count, np.int32)
        places, drawn = self._random.permutation(count), 0
        while drawn < count:
            if (masses := self._masses()) is None:
                return None
            shares = masses / masses.sum()
            present = sum(shard.tally.present for shard, mass in zip(self._shards, masses, strict=True) if mass)
            counts = self._random.multinomial(count - drawn, shares)
            for shard, share, wanted in zip(self._shards, shares, counts, strict=True):
                for part in shard.take(int(wanted)) if wanted else ():
                    at = places[drawn : drawn + part.size]
                    frames[at], keys[at], owners[at] = part.frames, part.keys, shard.number
                    if self._experiment.replay.prioritized:
                        relative[at] = share * present * part.probability
                    drawn += part.size
        return frames if is_packed(self._experiment) else self._cut(frames), relative, keys, owners

    def _masses(self) -> NDArray[np.float64] | None:
        """The shards' masses, once one is above 0; None after `stop`."""
        waited_since = time.monotonic()
        while not self._closing.is_set():
            masses = np.array([shard.mass for shard in self._shards])
            if masses.any():
                return masses
            if time.monotonic() - waited_since > _EMPTY_SECONDS and self._have_lost_everything():
                # Collectors may wait for the learner, with permits for items that are gone. It takes these for later
                # calls, so that they go on.
                self._allowance.take_one()
            time.sleep(_POLL_SECONDS)
        return None

    def _have_lost_everything(self) -> bool:
        there = [shard for shard in self._shards if shard.answers]
        return bool(there) and not any(shard.tally.present for shard in there)

    def _cut(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Windows [K, B, T, bytes] of frames [items, item_length, lanes, bytes], spread as by `sampling.arrange`.

        One copy, in the place of a dozen operations of TensorFlow.
        """
        items, _, lanes, num_bytes = frames.shape
        steps, window = self._experiment.steps_per_item, self._experiment.window
        windows, by_lane = np.empty((steps, lanes, items, window, num_bytes), np.uint8), frames.transpose(2, 0, 1, 3)
        for step in range(steps):
            windows[step] = by_lane[:, :, step : step + window]
        return windows.reshape(self._experiment.learner.steps_per_call, self._batch_size, window, num_bytes)

    def _to_sample(self) -> Callable[..., Sample]:
        """Makes a `Sample` of what `_draw` gives. It is traced once: to look for a trace costs as much as to run it."""
        experiment, packed = self._experiment, is_packed(self._experiment)

        def sample(drawn: tf.Tensor, relative: tf.Tensor, keys: tf.Tensor, shards: tf.Tensor) -> Sample:
            with tf.device("CPU:0"):
                if packed:
                    return arrange(experiment, self._layout, self._batch_size, drawn, relative, keys, shards)
                return sample_of(*decode(drawn, self._layout), relative, keys, shards)

        items: tuple[int, ...] = (self.items_per_call,)
        calls, window = experiment.learner.steps_per_call, experiment.window
        windows = (calls, self._batch_size, window, self._layout.num_bytes)
        frames = (*items, *self._item_shape)
        shapes = ((frames if packed else windows, tf.uint8), (items, tf.float32), (items, tf.uint64), (items, tf.int32))
        specs = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
        traced: Callable[..., Sample] = tf.function(sample, autograph=False).get_concrete_function(*specs)
        return traced
