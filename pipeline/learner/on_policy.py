"""What the learner of an on-policy kind does beside learning: it refuses experience that other weights acted in."""

import logging

import numpy as np

from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Counters
from pipeline.records.results import Ended
from pipeline.replay.client import TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import COLUMN, Sample, item_shape

log = logging.getLogger(__name__)

_MOST_STALE_BATCHES = 20


class OnPolicy:
    """The queue between collectors and the learner, from the learner's side.

    Args:
      experiment: the run.
      layout: of the frames.
      replay: that has the queue.
      counters: that discarded experience is entered into.
    """

    def __init__(self, experiment: Experiment, layout: FrameLayout, replay: TableClient, counters: Counters) -> None:
        self._experiment, self._layout, self._replay, self._counters = experiment, layout, replay, counters
        self._oldest = experiment.agent.batches_ahead * (2 * experiment.collectors - 1)
        """Gradient steps that weights which acted may be older than the learner's: a fast collector is twice ahead."""
        self._stale_batches = 0
        self.renewals = 0
        """How often all collectors were told to begin anew with the weights that there are."""

    def discards(self, sample: Sample, present: int) -> bool:
        """Discards experience of other weights than the learner's present ones, and says whether it was such.

        Of a kind that collects ahead, weights that are a few gradient steps older are as good.
        A learner or collector that was restarted leaves such sequences. What waits beside them is discarded too, as
        batches would stay a few sequences behind, and all collectors begin anew: publish, so that they hear of it.

        Args:
          sample: the experience.
          present: gradient steps of the present weights.

        Raises:
          Ended: there was nothing else for some time: then collectors do not wait for new weights.
        """
        acted = sample.gradient_steps.numpy()
        if (acted <= present).all() and (acted >= present - self._oldest).all():
            self._stale_batches = 0
            return False
        self._stale_batches += 1
        if self._stale_batches > _MOST_STALE_BATCHES:
            raise Ended(
                "failed",
                f"on-policy experience of the weights of gradient steps {acted.min()} to {acted.max()} reached the "
                f"learner at those of {present}, {self._stale_batches} times in a row: collectors must wait for new "
                "weights between sequences",
            )
        log.warning("a batch of the weights of gradient steps %d to %d is discarded", acted.min(), acted.max())
        learner = self._experiment.learner
        self._counters.discarded += learner.batch_size * learner.steps_per_call
        self._counters.interruptions += self._experiment.collectors
        self._replay.discard_queue()
        self._counters.taken_before = self._replay.taken_before
        self.renewals += 1
        return True

    def release(self) -> None:
        """Gives draws that wait a batch of zeros unless the queue has one; else Reverb ends waits in steps of 3 s."""
        if self._replay.size() >= self._replay.items_per_call:  # it has room for two
            return
        length, *shape = item_shape(self._experiment, self._layout)
        with self._replay.client.trajectory_writer(num_keep_alive_refs=length) as writer:
            for _ in range(self._replay.items_per_call):
                for _ in range(length):
                    writer.append({COLUMN: np.zeros(shape, np.uint8)})
                writer.create_item(self._layout.table, 1.0, {COLUMN: writer.history[COLUMN][-length:]})
                writer.flush()
