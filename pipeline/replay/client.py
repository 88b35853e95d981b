"""The learner's side of one replay server: the dataset that it draws from, priorities, counts, what the limiter says.

`pipeline.replay.server` is the server's side, `pipeline.replay.writer` the collectors'.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import reverb
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.records.counters import NOTHING, Tally
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import COLUMN, Sample, arrange, as_written, draws_ahead

log = logging.getLogger(__name__)

REFUSALS = (RuntimeError, ValueError, IndexError, PermissionError)
"""What Reverb raises, by the kind of what went wrong."""
_MOST_REFUSED = 1_000


class RefusedDraws:
    """Passes over draws that met an item of a form that no role of the run writes, and counts them."""

    def __init__(self, experiment: Experiment) -> None:
        self._most = 0 if experiment.agent.on_policy else _MOST_REFUSED  # there a round would wait for what is lost
        self.count, self.warning = 0, ""
        self._numbers = itertools.count(1)  # drawn by several threads of shards

    def without(self, drawn: Iterator[Any]) -> Iterator[Any]:
        """What a dataset gives, but for such draws. Raises what they raise when nothing else comes."""
        in_a_row = 0
        while True:
            try:
                element = next(drawn)
            except StopIteration:
                return
            except tf.errors.InvalidArgumentError as error:  # a server takes from any peer what its signature forbids
                if in_a_row == self._most:
                    raise
                in_a_row += 1
                self._refuse(error)
            else:
                in_a_row = 0
                yield element

    def _refuse(self, error: Exception) -> None:
        self.count = next(self._numbers)
        if self.count & (self.count - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            self.warning = f"draws of items that none of the run's roles has written, passed over: {self.count} or more"
            log.warning("%s; the newest: %s", self.warning, error)


class TableClient:
    """The experience table of one server, as the learner draws from it.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      address: of its server.
      before: what its queue had counted before it was last emptied; on-policy alone.
    """

    def __init__(self, experiment: Experiment, specs: Specs, address: str, before: Tally = NOTHING) -> None:
        self.address = address
        self.addresses: Sequence[str] = [address]
        """Addresses of all servers that reports come to."""
        self.publication_addresses: Sequence[str] = self.addresses
        """Addresses of all servers that publications go to."""
        self.client = reverb.Client(address)
        self.items_per_call = experiment.items_per_call
        self.skipped_priorities = 0
        """Items whose priorities were not written, as their server was away."""
        self.refused = RefusedDraws(experiment)
        self._experiment, self._layout, self._before = experiment, FrameLayout.of(experiment, specs), before

    def dataset(self, address: str = "") -> tf.data.Dataset:
        """An endless dataset of `Sample`s, drawn uniformly, by priority or, on-policy, each once in turn.

        The windows of the items drawn for one call are spread so that a batch holds one of each of many items, rather
        than many of a few: those of one item are alike, of the same vector steps and of successive ones.

        Args:
          address: the server's, spelled otherwise; empty takes it as it is.
        """
        iterators, in_flight = draws_ahead(self._experiment)
        batch_size = self._experiment.learner.batch_size
        # By priority a call is put together from small parts, as some parts are always drawn early.
        of_call = self.items_per_call if self._experiment.replay.prioritized else 1
        parts = max(number for number in (1, 2, 4, 8, 16) if of_call % number == 0)

        def draw(_: Any = None) -> tf.data.Dataset:
            items = reverb.TrajectoryDataset.from_table_signature(
                address or self.address,
                self._layout.table,
                max_in_flight_samples_per_worker=in_flight,
                num_workers_per_iterator=1 if self._experiment.replay.prioritized else -1,  # four, each with as many
            )
            return items.batch(self.items_per_call // parts, drop_remainder=True)

        def arranged(sample: Any) -> Sample:
            frames, info = sample.data[COLUMN], sample.info
            relative = tf.cast(info.probability * tf.cast(info.table_size, tf.float64), tf.float32)
            return arrange(self._experiment, self._layout, batch_size, frames, relative, info.key)

        if iterators == 1:
            drawn = draw()
        else:
            drawn = tf.data.Dataset.range(iterators).interleave(
                draw, cycle_length=iterators, num_parallel_calls=iterators, deterministic=False
            )
        if self._experiment.replay.prioritized:  # whole calls are not buffered
            drawn = drawn.batch(parts, drop_remainder=True)
            return drawn.map(lambda each: arranged(_joined(each))).with_options(as_written(unbuffered=True))
        return drawn.map(arranged, num_parallel_calls=1, deterministic=True).prefetch(1).with_options(as_written())

    def samples(self) -> Iterator[Sample]:
        """What the learner draws, without end; waits while there is nothing to draw."""
        return self.refused.without(iter(self.dataset()))

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """See `Replay.give_priorities`."""
        from agents.priorities import of_items

        keys = np.asarray(sample.keys)
        updates = dict(zip(keys.tolist(), of_items(priorities, len(keys)).tolist(), strict=True))
        self.client.mutate_priorities(self._layout.table, updates)

    def tally(self) -> Tally:
        """Items that the experience table has taken and given since the run began, and those that it has."""
        info = self.info()
        limiter = info.rate_limiter_info
        inserted = self._before.inserted + limiter.insert_stats.completed
        return Tally(inserted, self._before.sampled + limiter.sample_stats.completed, info.current_size)

    @property
    def taken_before(self) -> tuple[int, int]:
        """Items that the queue had taken and given before it was last emptied."""
        return self._before.inserted, self._before.sampled

    def discard_queue(self) -> None:
        """On-policy: removes what waits for the learner."""
        self._before = self.tally()._replace(present=0)
        self.client.reset(self._layout.table)

    def size(self) -> int:
        """Items that it holds."""
        return self.tally().present

    def info(self) -> Any:
        """Reverb's `TableInfo` of the experience table."""
        return self.client.server_info(timeout=10)[self._layout.table]

    def waits_for_collectors(self) -> bool:
        """See `Replay.waits_for_collectors`."""
        from pipeline.replay import stalls  # of use when nothing comes

        return stalls.waits_for_collectors(self._experiment, self.info())

    def explain_stall(self) -> str:
        """Which side the rate limiter holds back, in words."""
        from pipeline.replay import stalls

        return stalls.explain(self._experiment, self.info(), self.items_per_call)


def _joined(parts: Any) -> Any:
    """The items of a call from its parts: leaves [parts, items, ...] as [parts * items, ...]."""
    return tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (-1, *leaf.shape[2:])), parts)
