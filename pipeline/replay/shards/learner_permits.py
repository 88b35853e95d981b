"""What a learner of several replay servers may draw: the permits that it samples, see `permits`."""

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import respelled
from pipeline.replay.shards.permits import PERMITS_TABLE, sizes
from pipeline.replay.shards.sample_stream import Stream
from pipeline.runtime import native

_POLL_SECONDS = 0.1


class Allowance:
    """Samples the permits of what is drawn, and waits where collectors are behind.

    Several learners each take those of their own draws.

    Args:
      experiment: the run.
      address: of shard 0.
      identity: of the process that serves it now; another one is asked anew.
    """

    def __init__(self, experiment: Experiment, address: str, identity: Callable[[], str]) -> None:
        self._items_of_permit = sizes(experiment).sampled_items
        self._spellings, self._identity = respelled(address), identity
        self._stream: Stream | None = None
        self._asked = ""
        self._items = 0  # that may be drawn

    def take(self, items: int) -> None:
        """Waits for the right to draw so many items more; call it in a thread that the process ends without.

        Raises:
          Exception: shard 0 answers, and has no permits to sample.
        """
        while self._items < items:
            self.take_one()
        self._items -= items

    def take_one(self) -> None:
        """Waits for one permit, which is left for draws to come."""
        while True:
            if self._stream is None or self._identity() != self._asked:
                if self._stream is not None:
                    self._stream.abandon()
                self._asked, self._stream = self._identity(), Stream(_permits(next(self._spellings)))
            if self._stream.next(_POLL_SECONDS) is not None:
                self._items += self._items_of_permit
                return


def _permits(address: str) -> Iterator[bool]:
    sampler = native.reverb_client(address).NewSampler(PERMITS_TABLE, np.iinfo(np.int64).max, 1)
    while True:
        sampler.GetNextTrajectory()
        yield True
