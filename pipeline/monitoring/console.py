"""What a run shows in the terminal: one live table there, plain lines in a log."""

import contextlib
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
from rich.console import Console as Terminal
from rich.live import Live

from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.monitoring import status_text
from pipeline.records.results import Status, Summary
from pipeline.security.privacy import Privacy

_LIVE_SECONDS = 0.25
_LINE_SECONDS = 2.0
_BOTTLENECK_SECONDS = 60.0
"""Between two lines about it: it may change with every status."""
_Read = TypeVar("_Read")


class Console:
    """Shows the status that the learner's process writes."""

    def __init__(self, run: RunDirectory, experiment: Experiment) -> None:
        self._run, self._experiment = run, experiment
        self._terminal = Terminal(file=sys.stdout, soft_wrap=True, highlight=False)
        self._live: Live | None = None
        self._shown_at = 0.0
        self._shown: Status | None = None
        self._noted = ""
        self._bottleneck, self._bottleneck_at = "", -_BOTTLENECK_SECONDS
        self._is_fault_noted = False
        self._warned: set[str] = set()

    def __enter__(self) -> "Console":
        for stale in (self._run.status, self._run.summary):
            stale.unlink(missing_ok=True)
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._terminal.print(f"run directory {self._run.path}; logs in {self._run.logs}")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say_privacy(self, privacy: Privacy, port: int) -> None:
        """Says who reaches the replay; a live display is spared what needs no attention."""
        text = privacy.sentence(port)
        if privacy.measure == "open":
            self.note(text)
        elif privacy.measure == "loopback" or self._live is None:
            self._terminal.print(text, markup=False)

    def refresh(self) -> None:
        """Shows the newest status, if it is time to."""
        now = time.monotonic()
        if now - self._shown_at < (_LIVE_SECONDS if self._live is not None else _LINE_SECONDS):
            return
        self._shown_at = now
        status = read(self._run.status, Status)
        if status is None or status == self._shown:
            return
        self._shown = status
        self._warn(status)
        if self._live is not None:
            self._live.update(status_text.screen(self._experiment, self._run.path, status))
        else:
            self._terminal.print(status_text.line(status))
            role = status.bottleneck.partition(":")[0]
            if role and role != self._bottleneck and now - self._bottleneck_at > _BOTTLENECK_SECONDS:
                self._bottleneck, self._bottleneck_at = role, now
                self._terminal.print(f"bottleneck: {status.bottleneck}", markup=False)
            if status.dropped_episodes and not self._is_fault_noted:
                self._is_fault_noted = True
                self._terminal.print(f"an episode was dropped for a fault: {status.newest_fault}", markup=False)

    def note(self, text: str) -> None:
        """Prints a message above the live display, and keeps it in `logs/supervisor.log`."""
        self._noted += text
        self._keep(text)
        self._terminal.print(text, style="bold red", markup=False)

    def say(self, text: str) -> None:
        """`note` of what needs no attention."""
        self._keep(text)
        self._terminal.print(text, markup=False)

    def _warn(self, status: Status) -> None:
        """Prints each warning once."""
        for warning in status.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._terminal.print(f"warning: {warning}", style="yellow", markup=False)

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError), (self._run.logs / "supervisor.log").open("a") as log:  # the disk may be full
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def say_end(self, code: int, reason: str) -> None:
        """Prints how the run ended and how to look at it."""
        summary = read(self._run.summary, Summary)
        if (status := read(self._run.status, Status)) is not None:  # the last may be newer than what was shown
            self._warn(status)
        if reason:
            self.note(reason)
        if summary is None:
            self._terminal.print(f"The run ended with exit code {code} before it had a result; see {self._run.logs}")
            return
        if summary.message and summary.message not in self._noted:
            self.note(f"{summary.stop_reason}: {summary.message}")
        self._terminal.print(status_text.result(self._experiment, summary), style="bold", markup=False)
        for remark in status_text.remarks(self._experiment, summary):
            self._terminal.print(remark, markup=False)
        folder = shlex.quote(str(self._run.path))
        self._terminal.print(
            f"Look at it: .venv/bin/tensorboard --logdir {folder}/tensorboard    Run directory: {folder}"
        )


def read(path: Path, kind: type[_Read]) -> _Read | None:
    """A file of the learner's process, or None while there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
