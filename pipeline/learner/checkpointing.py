"""Checkpoints written beside learning: a thread does all but copy the learner's arrays."""

import copy
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from pipeline.experiment import config
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.records import checkpoint_writer
from pipeline.records.ledger import Ledger

if TYPE_CHECKING:
    from pipeline.replay.replay import Replay

log = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
"""At most, from a checkpoint that could not be written to the next attempt."""
_BEAT_SECONDS = 0.5


class Saved(NamedTuple):
    """What a checkpoint that has been written took."""

    path: str
    seconds: float
    """From the start of its copying until it was complete on disk."""
    pause_seconds: float
    """Of these, those in which the learner stood still."""
    size: int
    """Bytes."""


class Saver:
    """Writes the run's checkpoints, one at a time.

    Args:
      experiment: the run.
      run: its directory.
      learner: whose arrays are saved.
      replay: whose contents are saved.
      ledger: whose counters are saved; it counts the checkpoints that fail.
    """

    def __init__(
        self, experiment: Experiment, run: RunDirectory, learner: Learner, replay: "Replay", ledger: Ledger
    ) -> None:
        self._experiment, self._run = experiment, run
        self._config = config.dump(experiment).encode()
        self._learner, self._replay, self._ledger = learner, replay, ledger
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Saved] | None = None
        self._every = experiment.checkpoint.every_seconds
        self._due = time.monotonic() + self._every
        self.warning = ""
        """Why the newest checkpoint could not be written; empty once one has been."""

    def tend(self, is_calm: bool = True) -> Saved | None:
        """Starts a checkpoint if one is due and the learner is calm; returns one written since the last call."""
        if self._writing is not None:
            return self._collect() if self._writing.done() else None
        if time.monotonic() >= self._due and is_calm:
            self._start()
        return None

    def save(self, beat: Callable[[], None] = lambda: None) -> Saved | None:
        """Writes a checkpoint of now and waits for it, behind one that is under way.

        Args:
          beat: called again and again meanwhile.

        Returns:
          None if it could not be written.
        """
        if self._writing is not None:
            self._wait(beat)
        self._start()
        return self._wait(beat)

    def close(self) -> None:
        """Waits for a checkpoint that is under way."""
        self._thread.shutdown()

    def _start(self) -> None:
        started = time.monotonic()
        self._ledger.tick(self._learner.gradient_steps)
        state, counters = self._learner.state(), copy.deepcopy(self._ledger.counters)
        pause = time.monotonic() - started

        def write() -> Saved:
            written = checkpoint_writer.write(
                self._run.checkpoints,
                self._config,
                counters,
                state,
                self._replay.save,
                self._experiment.checkpoint.keep,
            )
            return Saved(str(written.path), time.monotonic() - started, pause, written.size)

        self._writing = self._thread.submit(write)

    def _wait(self, beat: Callable[[], None]) -> Saved | None:
        assert self._writing is not None
        while wait([self._writing], _BEAT_SECONDS).not_done:
            beat()
        return self._collect()

    def _collect(self) -> Saved | None:
        assert self._writing is not None
        writing, self._writing = self._writing, None
        try:
            saved = writing.result()
        except OSError as error:
            retry = min(self._every, _RETRY_SECONDS)
            self._due = time.monotonic() + retry
            self._ledger.counters.failed_checkpoints += 1
            self.warning = (
                f"a checkpoint could not be written: {error}; the one before it stays, the next attempt is in "
                f"{retry:.0f} s"
            )
            log.error("%s", self.warning)
            return None
        self._due, self.warning = time.monotonic() + self._every, ""
        log.info(
            "checkpoint %s: %.1f MiB in %.2f s, for %.1f ms of which the learner stood still",
            saved.path,
            saved.size / 2**20,
            saved.seconds,
            1000 * saved.pause_seconds,
        )
        return saved
