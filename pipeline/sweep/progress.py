"""Shows the progress of a sweep: one live line in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from rich.console import Console as Terminal
from rich.live import Live
from rich.text import Text

from pipeline.sweep.plan import SweepRun

_LIVE_SECONDS = 0.5
_LINE_SECONDS = 30.0


class Progress:
    """Shows how far a sweep is.

    Args:
      finished: runs that had ended before it began.
      waiting: runs that have not.
    """

    def __init__(self, finished: int, waiting: int) -> None:
        self._finished, self._waiting = finished, waiting
        self._ended = self._failed = 0
        self._terminal = Terminal(file=sys.stdout, soft_wrap=True, highlight=False)
        self._live: Live | None = None
        self._started = self._shown_at = time.monotonic()

    def expect(self, finished: int, waiting: int, unit: str = "runs") -> None:
        """Takes how many have ended before, and how many runs have not."""
        self._finished, self._waiting = (finished if unit == "runs" else 0), waiting
        if finished:
            self.say(f"{finished} {unit} have ended before and are not run again")

    def __enter__(self) -> "Progress":
        self.expect(self._finished, self._waiting)
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False, transient=True)
            self._live.start()
            self._shown_at = 0.0  # what runs is shown at once: runs may fail sooner than a line would be due
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the live one."""
        self._terminal.print(text, markup=False)

    def say_start(self, member: SweepRun) -> None:
        """Prints that a run is started; the live line has it anyway."""
        if self._live is None:
            self.say(f"started   {member.name}  {member.about}".rstrip())

    def say_end(self, member: SweepRun, remark: str = "") -> None:
        """Prints that a run has ended, its result, and what else there is to say."""
        self._ended += 1
        summary = member.summary()
        result = "" if summary is None or summary.mean_return is None else f"  mean return {summary.mean_return:.4g}"
        self.say(f"ended     {member.name}{result}{remark and '  '}{remark}")

    def count_pruned(self) -> None:
        """Takes that a run has ended that was told to."""
        self._ended += 1

    def drop(self, runs: int) -> None:
        """Takes that some runs will not be made after all."""
        self._waiting -= runs

    def say_failure(self, member: SweepRun, reason: str) -> None:
        """Prints that a run has failed, and why."""
        self._ended += 1
        self._failed += 1
        self._terminal.print(f"FAILED    {member.name}: {reason}", style="bold red", markup=False)

    def say_failed_trial(self, name: str, reason: str, runs: int) -> None:
        """Prints that a trial has failed before any of its runs, and why."""
        self._failed += 1
        self.drop(runs)
        self._terminal.print(f"FAILED    {name}: {reason}", style="bold red", markup=False)

    def refresh(self, running: Sequence[SweepRun]) -> None:
        """Shows what runs now, if it is time to."""
        now = time.monotonic()
        if now - self._shown_at < (_LIVE_SECONDS if self._live is not None else _LINE_SECONDS):
            return
        self._shown_at = now
        if self._live is None:
            self.say(self._line(running))
        else:
            self._live.update(Text(self._line(running), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _line(self, running: Sequence[SweepRun]) -> str:
        shares = [member.progress() for member in running]
        passed, done = time.monotonic() - self._started, self._ended + sum(shares)
        left = passed * (self._waiting - done) / done if done else None
        parts = [
            f"{self._finished + self._ended} of {self._finished + self._waiting} runs",
            *([f"{self._failed} failed"] if self._failed else []),
            _clock(passed) + ("" if left is None else f", about {_clock(left)} left"),
            *(f"{member.name} {share:.0%}" for member, share in zip(running, shares, strict=True)),
        ]
        return " · ".join(parts)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
