"""Writes a run's progress as a table of comma-separated values, for spreadsheets and pandas."""

import csv
import os
import time
from pathlib import Path
from typing import IO, Any

from pipeline import UsageError
from pipeline.callbacks.callback import Callback, Started
from pipeline.messages.contents import Evaluation
from pipeline.records.results import Status, Summary

_OF_STATUS = (
    "environment_steps",
    "gradient_steps",
    "episodes",
    "train_seconds",
    "environment_steps_per_second",
    "gradient_steps_per_second",
    "replay_size",
    "episode_return",
    "epsilon",
    "loss",
)
_OF_EVALUATION = ("mean_return", "std_return", "min_return", "max_return", "mean_length")
COLUMNS = ("event", "time", *_OF_STATUS, *_OF_EVALUATION)


class CsvLogger(Callback):
    """Writes a row for each evaluation, and one for the status every so many seconds, into a file.

    Its columns are `event` ("status" or "evaluation"), `time` (seconds since 1970) and fields of `pipeline.Status` and
    `pipeline.Evaluation`; what a row has no value of is empty. A resumed run goes on in the same file.

    Args:
      path: of the file; by default `progress.csv` in the run's directory. A new run replaces it.
      every_seconds: at least so many between two rows of the status; 0 writes each, about two a second.

    Raises:
      UsageError: a value that cannot be.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, every_seconds: float = 5.0) -> None:
        if path is not None and (not isinstance(path, str | os.PathLike) or not os.fspath(path)):
            raise UsageError(f"path is that of a file, not {path!r}")
        if isinstance(every_seconds, bool) or not isinstance(every_seconds, int | float) or not every_seconds >= 0:
            raise UsageError(f"every_seconds is a number of at least 0, not {every_seconds!r}")
        self._path, self._every_seconds = path, every_seconds
        self._file: IO[str] | None = None

    def on_start(self, started: Started) -> None:
        """Opens the file.

        Raises:
          UsageError: it cannot be written.
        """
        path = Path(self._path) if self._path is not None else started.run.path / "progress.csv"
        goes_on = started.resumed and path.is_file() and path.stat().st_size > 0
        try:
            self._file = path.open("a" if goes_on else "w", newline="")
        except OSError as error:
            raise UsageError(f"path={str(path)!r} cannot be written: {error.strerror}") from None
        self._rows = csv.DictWriter(self._file, COLUMNS)
        if not goes_on:
            self._rows.writeheader()
        self._next_at = 0.0
        self._newest: Status | None = None

    def on_status(self, status: Status) -> None:
        """Writes a row, if it is time for one."""
        self._newest = status
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + self._every_seconds
            self._write_status(status)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Writes a row."""
        self._write("evaluation", evaluation, ("environment_steps", "gradient_steps", *_OF_EVALUATION))

    def on_end(self, summary: Summary) -> None:
        """Writes the last status, and closes the file."""
        if self._newest is not None:
            self._write_status(self._newest)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_status(self, status: Status) -> None:
        self._newest = None
        self._write("status", status, _OF_STATUS)

    def _write(self, event: str, of: Any, names: tuple[str, ...]) -> None:
        values = {name: value for name in names if (value := getattr(of, name)) is not None}
        self._rows.writerow({"event": event, "time": f"{time.time():.3f}", **values})
        assert self._file is not None
        self._file.flush()  # whoever follows the file sees whole rows
