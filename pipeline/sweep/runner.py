"""Runs the members of a sweep, several at a time, each by `pipeline.train` in processes of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NamedTuple, Protocol

from pipeline.sweep.plan import SweepRun
from pipeline.sweep.progress import Progress

_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 120.0
"""How long a run may take after SIGTERM to save a checkpoint and end its processes."""


class FailedRun(NamedTuple):
    """A run that did not end at its stop condition."""

    member: SweepRun
    reason: str


class Work(Protocol):
    """Where a sweeper gets its runs from, and whom it tells how they ended."""

    outcomes: frozenset[int]
    """Exit codes of runs that are results; others are failures."""

    def take(self) -> SweepRun | None:
        """The next run to start; None while there is none."""

    def unwanted(self, running: Sequence[SweepRun]) -> Mapping[SweepRun, str]:
        """Of the runs, those to be ended now, and why."""

    def take_end(self, member: SweepRun, code: int) -> str:
        """Takes the end of a run; returns what there is to say of it."""

    def take_failure(self, member: SweepRun, reason: str) -> None:
        """Takes that a run has failed."""


class Members:
    """Runs that are known from the start.

    Args:
      members: in their order.
    """

    outcomes = frozenset({0})

    def __init__(self, members: Sequence[SweepRun]) -> None:
        self._waiting = list(reversed(members))
        self.failed: list[FailedRun] = []

    def take(self) -> SweepRun | None:
        """The next one."""
        return self._waiting.pop() if self._waiting else None

    def unwanted(self, running: Sequence[SweepRun]) -> Mapping[SweepRun, str]:
        """None of them."""
        return {}

    def take_end(self, member: SweepRun, code: int) -> str:
        """Its return says it all."""
        return ""

    def take_failure(self, member: SweepRun, reason: str) -> None:
        """Keeps it."""
        self.failed.append(FailedRun(member, reason))


class Sweeper:
    """Runs what a sweep has not finished.

    Args:
      work: has the runs; those that were begun go on from their newest checkpoint.
      parallel: how many at a time.
      progress: is told.
    """

    def __init__(self, work: Work, parallel: int, progress: Progress) -> None:
        self._work, self._parallel, self._progress = work, parallel, progress
        self._running: dict[SweepRun, subprocess.Popen[bytes]] = {}
        self._log_from: dict[SweepRun, int] = {}
        self._unwanted: dict[SweepRun, float] = {}
        """Runs that were told to end, and until when they may take for it."""
        self._signals = 0
        self._leave_by: float | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether the sweep was told to end."""
        return self._signals > 0

    def run(self) -> None:
        """Runs until all have ended, or after SIGINT or SIGTERM those that run have left."""
        with self._handling_signals():
            try:
                while self._tend():
                    self._progress.refresh(list(self._running))
                    time.sleep(_POLL_SECONDS)
            finally:
                self._kill()

    def _tend(self) -> bool:
        """Takes what has ended, ends and starts what is due; False if nothing is left."""
        for member, process in list(self._running.items()):
            if (code := process.poll()) is not None:
                self._take_end(member, code)
        for member, reason in self._work.unwanted(
            [each for each in self._running if each not in self._unwanted]
        ).items():
            self._progress.say(f"pruned    {member.name}  {reason}")
            self._unwanted[member] = time.monotonic() + _LEAVE_SECONDS
            self._running[member].terminate()
        for member, until in self._unwanted.items():
            if time.monotonic() > until:
                self._running[member].kill()
        while len(self._running) < self._parallel and not self.is_interrupted:
            if (next_run := self._work.take()) is None:
                break
            self._start(next_run)
        if self.is_interrupted and self._leave_by is None:
            self._leave_by = time.monotonic() + _LEAVE_SECONDS
            self._progress.say(f"interrupted: {len(self._running)} runs save what they have; again ends them at once")
            for process in self._running.values():
                process.terminate()
        if self._signals > 1 or (self._leave_by is not None and time.monotonic() > self._leave_by):
            self._kill()
        return bool(self._running)

    def _start(self, member: SweepRun) -> None:
        # The run ends with the sweep.
        tether = [sys.executable, "-m", "pipeline.runtime.ends_with_parent", str(os.getpid())]
        command = [*tether, sys.executable, "-m", "pipeline.train", f"--config={member.config}"]
        command += [f"--run_dir={member.run.path}", f"--seed={member.seed}", "--resume"]
        with member.log.open("ab") as log:
            self._log_from[member] = log.tell()
            self._running[member] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # a terminal's Ctrl-C is for the sweep, which tells its runs
            )
        self._progress.say_start(member)

    def _take_end(self, member: SweepRun, code: int) -> None:
        del self._running[member]
        if self._unwanted.pop(member, None) is not None:
            self._progress.count_pruned()
        elif code in self._work.outcomes:
            self._progress.say_end(member, self._work.take_end(member, code))
        elif self.is_interrupted and (code == 1 or code < 0):  # it has saved what it had, or was killed before
            self._progress.say(f"left      {member.name}" + ("" if code == 1 else f" by {_how(code)}"))
        else:
            reason = f"{_how(code)}: {self._last_line(member)}; see {member.log}"
            self._progress.say_failure(member, reason)
            self._work.take_failure(member, reason)

    def _last_line(self, member: SweepRun) -> str:
        with member.log.open("rb") as log:
            log.seek(self._log_from[member])
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")

    def _kill(self) -> None:
        """Kills what runs; the kernel ends the processes of each with it."""
        for process in self._running.values():
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()  # in others they are the caller's
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._signals += 1


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
