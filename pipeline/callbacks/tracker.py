"""A program that follows a run beside it, such as one that sends it to MLflow or to Weights & Biases."""

import os
import subprocess
import sys
from collections.abc import Sequence

from pipeline import UsageError
from pipeline.callbacks.callback import Callback, Started
from pipeline.records.results import Summary


class Tracker(Callback):
    """Starts a program with the run, and gives it the run's directory as its last argument.

    It runs beside the run, in an environment of its own if its command names another Python, and ends by itself once
    the run has ended, as `examples/track_mlflow.py` and `examples/track_wandb.py` do. One that fails costs the run
    nothing: that is said on stderr at the end.

    Args:
      command: the program and its arguments: `[".trackers/bin/python", "examples/track_mlflow.py"]`.

    Raises:
      UsageError: the command is none.
    """

    def __init__(self, command: Sequence[str | os.PathLike[str]]) -> None:
        if isinstance(command, str) or not command or not all(isinstance(part, str | os.PathLike) for part in command):
            raise UsageError(f"command is a list of a program and its arguments, not {command!r:.60}")
        self._command = [os.fspath(part) for part in command]
        self._process: subprocess.Popen[bytes] | None = None

    def on_start(self, started: Started) -> None:
        """Starts the program.

        Raises:
          UsageError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen([*self._command, str(started.run.path)], stdin=subprocess.DEVNULL)
        except OSError as error:
            raise UsageError(f"command: {self._command[0]!r} cannot be started: {error.strerror}") from None

    def on_end(self, summary: Summary) -> None:
        """Says so where the program has failed; one that still sends goes on for a moment after the run."""
        assert self._process is not None
        if code := self._process.poll():
            print(f"warning: {' '.join(self._command)} ended with exit code {code}", file=sys.stderr)
