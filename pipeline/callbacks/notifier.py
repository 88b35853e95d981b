"""Tells callbacks what happens in a run, by the files that it writes: so it is the same for all launchers.

The learner's process writes status, evaluations and checkpoints into the run's directory, which is always one of the
machine that started the run. To end the run, a request is written there, which that process looks for.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from agents.struct_types import prepared
from pipeline.callbacks.callback import Callback, Started, Stop
from pipeline.comparison.run import Run
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation
from pipeline.records.results import Status, StopRequest, Summary

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_Told = tuple[str, Any]
"""Name of a method, and its argument."""


class Notifier:
    """Calls the callbacks of one run.

    Args:
      callbacks: in the order in which each is called.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks
        self._directory: RunDirectory | None = None
        self._error: BaseException | None = None
        """What a callback has raised."""
        self._is_stopping = False
        self._next_at = 0.0
        self._names: list[str] = []
        """Of what is in the folder of checkpoints."""

    @property
    def shows_progress(self) -> bool:
        """Whether a callback shows how the run goes on."""
        return any(callback.shows_progress for callback in self._callbacks)

    def start(self, experiment: Experiment, directory: RunDirectory, launcher: str, resumed: bool) -> None:
        """The run begins: what its directory has now is known already."""
        self._directory = directory
        self._status_at = _version(directory.status)
        self._evaluations_to = directory.evaluations.stat().st_size if directory.evaluations.exists() else 0
        self._evaluated_at: tuple[int, int] | None = None
        self._checkpoints = {each.path for each in Run(directory.path).checkpoints}
        self._tell("on_start", Started(Run(directory.path), experiment, launcher, resumed), None)
        if self._error is not None:
            raise self._error

    def tend(self, interruption: threading.Event) -> None:
        """Tells what has happened since, if it is time to look.

        Args:
          interruption: of the run; set where the request to end it cannot be written.
        """
        if time.monotonic() < self._next_at:
            return
        self._look(interruption)
        self._next_at = time.monotonic() + _POLL_SECONDS

    def end(self, error: BaseException | None = None) -> None:
        """Tells what has happened at last, and that the run has ended.

        Args:
          error: that ended the run in the caller's process, if one did: it is raised by the caller of this.

        Raises:
          BaseException: what a callback has raised.
        """
        if self._directory is None:  # it has not begun
            return
        self._is_stopping = True  # it has ended: nothing stops it
        began_with = self._error
        self._look(threading.Event())
        summary = _decoded(self._directory.summary, Summary)
        for callback in self._callbacks if summary is not None else ():
            try:
                callback.on_end(summary)
            except BaseException as raised:
                self._keep(raised)
        self._directory.stop_request.unlink(missing_ok=True)
        if self._error is not None and self._error is not error:
            if error is None:
                raise self._error
            if began_with is None:
                error.add_note(f"and a callback raised {type(self._error).__name__}: {self._error}")

    def _look(self, interruption: threading.Event) -> None:
        for method, argument in self._news():
            if self._error is not None:
                return
            self._tell(method, argument, interruption)

    def _news(self) -> Iterator[_Told]:
        """What has happened since this was asked before."""
        assert self._directory is not None
        for evaluation in self._new_evaluations():
            yield "on_evaluation", evaluation
        names = _names(self._directory.checkpoints)
        if names != self._names:
            self._names = names
            for checkpoint in Run(self._directory.path).checkpoints:
                if checkpoint.path not in self._checkpoints:
                    self._checkpoints.add(checkpoint.path)
                    yield "on_checkpoint", checkpoint
        if (version := _version(self._directory.status)) not in (None, self._status_at):
            self._status_at = version
            if (status := _decoded(self._directory.status, Status)) is not None:
                yield "on_status", status

    def _new_evaluations(self) -> Iterator[Evaluation]:
        """Those that have been written since; one that was sent twice, as the learner was restarted, comes once."""
        assert self._directory is not None
        try:
            with self._directory.evaluations.open("rb") as file:
                file.seek(self._evaluations_to)
                lines = file.read()
        except FileNotFoundError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._evaluations_to += len(whole)
        for line in whole.splitlines():
            try:
                evaluation = msgspec.json.decode(line, type=prepared(Evaluation))
            except msgspec.MsgspecError:  # a full disk has taken a part of it
                log.warning("an evaluation in %s cannot be read", self._directory.evaluations)
                continue
            if evaluation.at != self._evaluated_at:
                self._evaluated_at = evaluation.at
                yield evaluation

    def _tell(self, method: str, argument: Any, interruption: threading.Event | None) -> None:
        """Calls one method of all callbacks, and does what they want."""
        for callback in self._callbacks:
            name = f"{type(callback).__name__}.{method}"
            try:
                answer = getattr(callback, method)(argument)
                if answer is not None and not isinstance(answer, Stop):
                    raise TypeError(f"{name} returned {answer!r}: return pipeline.STOP to end the run, or None")
            except BaseException as error:
                self._keep(error)
                self._request("failed", f"{name} raised {type(error).__name__}: {error}", interruption)
                return
            if answer is not None:
                self._request("callback", f"{name}: {answer.reason}" if answer.reason else name, interruption)

    def _keep(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        else:
            self._error.add_note(f"and afterwards {type(error).__name__}: {error}")

    def _request(self, stop_reason: str, message: str, interruption: threading.Event | None) -> None:
        """Asks the learner's process to end the run, once."""
        assert self._directory is not None
        if self._is_stopping:
            return
        self._is_stopping = True
        try:
            write_json(self._directory.stop_request, StopRequest(stop_reason, message))
        except OSError as error:
            log.error("%s could not be written, and the run is interrupted instead: %s", message, error)
            if interruption is not None:
                interruption.set()


@contextmanager
def telling(callbacks: Sequence[Callback]) -> Iterator[Notifier]:
    """What tells callbacks of the run that is made within the block; behind it they know how the run has ended.

    Raises:
      BaseException: what a callback has raised.
    """
    notifier = Notifier(callbacks)
    try:
        yield notifier
    except BaseException as error:
        notifier.end(error)
        raise
    notifier.end()


def _version(path: Any) -> tuple[int, int] | None:
    """Differs for each file that has taken this place; None while there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _names(folder: Any) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _decoded(path: Any, kind: Any) -> Any:
    """The content of a JSON file; None of one that is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=prepared(kind))
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
