"""What collectors on this machine have counted: read from their recorders, also of those that were killed."""

from pathlib import Path

from pipeline.records.ledger import Ledger
from pipeline.records.recorder import Recorder


class Records:
    """The recorders of a run's collectors.

    Args:
      folder: of the recorders; on another host it stays empty, and counts come in reports alone.
      ledger: that counts are entered into.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder, self._ledger = folder, ledger
        self._beats: dict[str, int] = {}

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
            if recorder.beats != self._beats.get(path.name):
                self._beats[path.name] = recorder.beats
                ledger.hear(path.name)
