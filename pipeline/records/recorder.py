"""A process's counts and heartbeat, in a small memory-mapped file that stays readable when it is killed. No TensorFlow.

A killed process sends no last report. What it had counted up to its last environment step is in its record, which the
kernel keeps however the process ends, so that the ledger stays exact. The heartbeat tells a process that waits for
others from one that hangs. A record is written in full when it is made: a disk that fills up later cannot break it.
"""

import mmap
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from pipeline.messages.contents import Counts
from pipeline.runtime import signs_of_life

if TYPE_CHECKING:
    from pipeline.records.ledger import Ledger

_BEATS, _SLOT, _ENDED, _LEAVING, _PROGRESS, _CALL, _LANE, _BUSY = range(8)
_HEADER = 8
_FIELDS = len(Counts.__struct_fields__)
_BYTES = 8 * (_HEADER + 2 * _FIELDS)
_RETURN_CODE = 1_000  # added, so that 0 stands for a process that lives


class Signs(NamedTuple):
    """What a process has shown of itself: a change is a sign of life."""

    beats: int
    call: int
    """Of its environment that it is in; see `pipeline.runtime.signs_of_life`."""
    lane: int


class Recorder:
    """A process's record.

    Args:
      path: of its file, which is made if it is not there; None keeps the record in memory alone.
    """

    def __init__(self, path: Path | None) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, _BYTES)
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _BYTES)
                self._memory = mmap.mmap(descriptor, _BYTES)
            finally:
                os.close(descriptor)
        self._words = np.frombuffer(self._memory, np.int64)
        self._slots = self._words[_HEADER:].reshape(2, _FIELDS)

    def beat(self) -> None:
        """Says that the process is alive: at every step of its work, and again and again while it waits for others."""
        self._words[_BEATS] += 1

    @property
    def beats(self) -> int:
        """How often it has said so."""
        return int(self._words[_BEATS])

    @property
    def signs(self) -> Signs:
        """Its signs of life so far."""
        words = self._words
        return Signs(int(words[_BEATS]), int(words[_CALL]), int(words[_LANE]))

    def show_calls(self) -> None:
        """Has this process show here from now on which call of its environment it is in."""
        signs_of_life.show_in(memoryview(self._memory).cast("q")[_CALL : _LANE + 1])

    def record(self, counts: Counts) -> None:
        """Replaces the counts. A process killed meanwhile leaves the former ones, never a mixture."""
        slot = 1 - int(self._words[_SLOT])
        self._slots[slot] = msgspec.structs.astuple(counts)
        self._words[_SLOT] = slot
        self._words[_BEATS] += 1

    @property
    def counts(self) -> Counts:
        """The newest counts."""
        return Counts(*self._slots[int(self._words[_SLOT])].tolist())

    def leave(self) -> None:
        """Says that the process is about to end in good order."""
        self._words[_LEAVING] = 1

    @property
    def is_leaving(self) -> bool:
        """Whether it has said so."""
        return bool(self._words[_LEAVING])

    def conclude(self, exit_code: int) -> None:
        """Says with which exit code the process is about to end of its own will: what else ends it leaves this out."""
        self._words[_LEAVING] = _RETURN_CODE + exit_code

    @property
    def concluded(self) -> int | None:
        """The exit code that it has said so of."""
        said = int(self._words[_LEAVING])
        return said - _RETURN_CODE if said >= _RETURN_CODE else None

    def work(self, is_busy: bool) -> None:
        """Says whether the process is at its work, or waits for some."""
        self._words[_BUSY] = is_busy

    @property
    def is_busy(self) -> bool:
        """Whether it has said that it is at its work."""
        return bool(self._words[_BUSY])

    def advance(self, progress: int) -> None:
        """Says how far the process's work has come, in steps of its own kind."""
        self._words[_PROGRESS] = progress

    @property
    def progress(self) -> int:
        """How far it had come when it last said so."""
        return int(self._words[_PROGRESS])

    def mark_ended(self, return_code: int) -> None:
        """Says that the process has ended; `return_code` as `subprocess` has it, negative of a signal."""
        self._words[_ENDED] = _RETURN_CODE + return_code

    @property
    def return_code(self) -> int | None:
        """How the process ended; None while it lives."""
        ended = int(self._words[_ENDED])
        return ended - _RETURN_CODE if ended else None


class LocalRecorders:
    """The records of a run's collectors on this machine, entered into its ledger; also of those that were killed.

    Args:
      folder: of the recorders; on another host it stays empty, and counts come in reports alone.
      ledger: that counts are entered into.
    """

    def __init__(self, folder: Path, ledger: "Ledger") -> None:
        self._folder, self._ledger = folder, ledger
        self._signs: dict[str, Signs] = {}

    def read(self, starting: bool = False) -> None:
        """Takes what those had counted that ended without a last report.

        Args:
          starting: a learner that goes on takes the counts of those that still run, too.
        """
        ledger = self._ledger
        for path in self._folder.glob("collector-*"):
            if path.name in ledger.counters.left:
                continue
            recorder = Recorder(path)
            if (code := recorder.return_code) is not None:
                ledger.accept_ended(path.name, recorder.counts, code)
                continue
            if starting:
                ledger.count(path.name, recorder.counts)
            if (signs := recorder.signs) != self._signs.get(path.name):
                self._signs[path.name] = signs
                ledger.hear(path.name)


def mark_rest_ended(folder: Path) -> None:
    """Enters into the records that have no end that their processes were killed: with their supervisor."""
    for path in folder.iterdir():
        if (recorder := Recorder(path)).return_code is None:
            recorder.mark_ended(-signal.SIGKILL)
