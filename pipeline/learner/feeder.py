"""The samples on their way to the learner: a thread that waits for the replay, so that the learner need not."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from pipeline.replay.sampling import Sample


class Feeder:
    """Draws the samples of the next call ahead.

    Waiting for a replay cannot be interrupted. So a daemon thread waits: the process can end without it.

    Args:
      samples: begins to draw, as `Replay.samples` does.
      early: whether a call's samples are drawn while the one before still waits; what is drawn by priority is not, as
        the priorities change with each call.
      device: what is learned from is brought there early; None takes the first GPU, if any, and "" leaves it.
    """

    def __init__(self, samples: Callable[[], Iterator[Sample]], early: bool = True, device: str | None = None) -> None:
        self._begin, self._early = samples, early
        gpus = tf.config.list_logical_devices("GPU") if device is None else ()
        self._device = device or (gpus[0].name if gpus else "")
        self.look: Callable[[Sample], None] | None = None
        """Is shown what `draw` returns, before anyone learns from it."""
        self._taken = threading.Semaphore(0)
        self._samples: queue.Queue[Sample | Exception] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._feed, name="samples", daemon=True)
        self._closing, self._fed = False, threading.Event()

    def start(self) -> None:
        """Begins to draw."""
        self._thread.start()

    @property
    def is_waited_for(self) -> bool:
        """Whether the learner has nothing to learn from until the replay gives something."""
        return True

    def next(self, timeout: float) -> Sample | None:
        """The samples to learn from now; None if there are none within `timeout` seconds. Raises what `draw` raises."""
        return self.draw(timeout)

    def leave(self, is_finished: bool) -> None:
        """Is told that the run ends, at its stop condition if `is_finished`: `next` is not called again."""

    def draw(self, timeout: float) -> Sample | None:
        """What the replay has given for one call; None if that is nothing within `timeout` seconds.

        Raises:
          Exception: what drawing raised.
        """
        try:
            sample = self._samples.get(timeout=timeout)
        except queue.Empty:
            return None
        self._taken.release()
        if isinstance(sample, Exception):
            raise sample
        if self.look is not None:
            self.look(sample)
        return sample

    def stop_drawing(self) -> None:
        """Makes the thread end after the sample that it waits for."""
        self._closing = True

    def discard(self, deadline: float, release: Callable[[], None]) -> None:
        """Throws away what is drawn until the thread ends, at most until a monotonic time; `release` ends a wait."""
        while not self._fed.is_set() and time.monotonic() < deadline:
            release()  # again and again: an iterator that ends waits for its draws, too
            with contextlib.suppress(queue.Empty):
                self._samples.get(timeout=0.05)
                self._taken.release()

    def join(self, deadline: float) -> None:
        """Waits for the thread's end; the iterator of a queue ends when its server does."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _feed(self) -> None:
        try:
            for sample in self._begin():
                self._samples.put(self._brought(sample))
                if not self._early:
                    self._taken.acquire()
                if self._closing:
                    return
        except Exception as error:  # `next` raises it in the learner's thread
            self._samples.put(error)
        finally:
            self._fed.set()

    def _brought(self, sample: Sample) -> Sample:
        if not self._device:
            return sample
        with tf.device(self._device):
            return sample._replace(trajectory=tf.nest.map_structure(tf.identity, sample.trajectory))
