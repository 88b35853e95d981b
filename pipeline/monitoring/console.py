"""What a run prints: lines in a log, one live table in a terminal (`status_table`), and its result as a sentence."""

import contextlib
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from rich.console import Console as Terminal

from agents.struct_types import prepared
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records.results import Status, Summary
from pipeline.runtime.lasting_output import LastingOutput
from pipeline.runtime.process import program

if TYPE_CHECKING:
    from rich.live import Live

    from pipeline.security.privacy import Privacy

_LIVE_SECONDS = 0.25
_LINE_SECONDS = 2.0
_LONGEST_LINE_SECONDS = 300.0
_LINE_SHARE = 0.05
"""Of a run's age: lines in a log get rarer as it gets older."""
_BOTTLENECK_SECONDS = 60.0
"""Between two lines about it: it may change with every status."""
_STARTING = "starting: importing TensorFlow"
_STOPPING = "stopping: saving a checkpoint (once more ends the run at once, without one)"
_Read = TypeVar("_Read")


class Console:
    """Shows the status that the learner's process writes, unless it is to say no more than warnings and the end."""

    def __init__(
        self, run: RunDirectory, experiment: Experiment, shows_status: bool = True, terminal: Any = None
    ) -> None:
        self._run, self._experiment, self._shows_status = run, experiment, shows_status
        output: Any = LastingOutput(sys.stdout)
        self._terminal = terminal or Terminal(file=output, soft_wrap=True, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._shown_at = self._next_line_at = 0.0
        self._shown: Status | None = None
        self._bottleneck, self._bottleneck_at = "", -_BOTTLENECK_SECONDS
        self._is_fault_noted = self._is_stopping = self._is_support_noted = False
        self._warned: set[str] = set()

    def __enter__(self) -> "Console":
        for stale in (self._run.status, self._run.summary):
            stale.unlink(missing_ok=True)
        if not self._shows_status:
            pass
        elif self._terminal.is_terminal:
            from rich.live import Live

            self._live = Live(_STARTING, console=self._terminal, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            self._terminal.print(f"run directory {self._run.path}; logs in {self._run.logs}")
            self._terminal.print(_STARTING)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say_privacy(self, privacy: "Privacy", port: int) -> None:
        """Prints who can reach the replay; on a live display only if that needs attention."""
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
            from pipeline.monitoring.status_table import table

            self._live.update(table(self._experiment, self._run.path, status))
        elif self._shows_status:
            if now >= self._next_line_at:
                self._next_line_at = now + seconds_between(now - self._began)
                self._terminal.print(line(status))
            role = status.bottleneck.partition(":")[0]
            if role and role != self._bottleneck and now - self._bottleneck_at > _BOTTLENECK_SECONDS:
                self._bottleneck, self._bottleneck_at = role, now
                self._terminal.print(f"bottleneck: {status.bottleneck}", markup=False)
            if status.dropped_episodes and not self._is_fault_noted:
                self._is_fault_noted = True
                self._terminal.print(f"an episode was dropped for a fault: {status.newest_fault}", markup=False)

    def note(self, text: str) -> None:
        """Prints a message above the live display, and keeps it in `logs/supervisor.log`."""
        self.keep(text)
        self._terminal.print(text, style="bold red", markup=False)

    def say(self, text: str) -> None:
        """`note` of what needs no attention."""
        self.keep(text)
        self._terminal.print(text, markup=False)

    def say_stopping(self) -> None:
        """Says once that the run has been asked to end, and what takes a moment."""
        if not self._is_stopping:
            self._is_stopping = True
            self.say(_STOPPING)

    def _warn(self, status: Status) -> None:
        """Prints each warning once, and what a support that the config leaves open has become."""
        if status.support is not None and not self._is_support_noted:
            self._is_support_noted = True
            low, high = status.support
            self.say(f"support: agent.v_min = {low:g}, agent.v_max = {high:g}, by the first rewards and the discount")
        for warning in status.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._terminal.print(f"warning: {warning}", style="yellow", markup=False)

    def keep(self, text: str) -> None:
        """Keeps a message in `logs/supervisor.log` alone."""
        with contextlib.suppress(OSError), (self._run.logs / "supervisor.log").open("a") as log:  # the disk may be full
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def say_end(self, code: int, reason: str) -> None:
        """Prints how the run ended and how to look at it; the last line of one that failed is why, `reason`."""
        summary = read(self._run.summary, Summary)
        if (status := read(self._run.status, Status)) is not None:  # the last may be newer than what was shown
            self._warn(status)
        if summary is None:
            self._terminal.print(f"The run ended with exit code {code} before it had a result; see {self._run.logs}")
        else:
            if summary.message and not code:
                say = self.say if summary.stop_reason == "callback" else self.note
                say(f"{summary.stop_reason}: {summary.message}")
            self._terminal.print(result(self._experiment, summary), style="bold", markup=False)
            lost = summary.account.lost if summary.account else {}
            if self._experiment.environment.shield or summary.dropped_episodes or any(lost.values()):
                from pipeline.monitoring.remarks import remarks

                for remark in remarks(self._experiment, summary):
                    self._terminal.print(remark, markup=False)
            folder = shlex.quote(str(self._run.path))
            self._terminal.print(
                f"Look at it: {program('tensorboard')} --logdir {folder}/tensorboard    Run directory: {folder}"
            )
        if reason:
            self.note(reason)


def seconds_between(age: float) -> float:
    """Seconds between two lines of a log, in a run that is so many seconds old."""
    return min(max(_LINE_SECONDS, _LINE_SHARE * age), _LONGEST_LINE_SECONDS)


def one_line(text: str) -> str:
    """A message of several lines as one."""
    return "; ".join(filter(None, (line.strip() for line in text.splitlines())))


def read(path: Path, kind: type[_Read]) -> _Read | None:
    """A file of the learner's process, or None while there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=prepared(kind))
    except FileNotFoundError:
        return None


def line(status: Status) -> str:
    """What a log shows of a run now."""
    return (
        f"{status.train_seconds:7.1f} s  {status.phase:<19}  {status.environment_steps:>9,} environment steps "
        f"({status.environment_steps_per_second:,.0f}/s)  {status.gradient_steps:>9,} gradient steps "
        f"({status.gradient_steps_per_second:,.0f}/s)  episode return {number(status.episode_return)}  "
        f"evaluation {number(status.evaluation_return)}"
    )


def title(experiment: Experiment) -> str:
    """Its environment."""
    return experiment.environment.id or experiment.environment.import_path


def result(experiment: Experiment, summary: Summary) -> str:
    """How a run ended."""
    verdict = "ended" if experiment.stop.target_return is None else "solved" if summary.solved else "not solved"
    taken = experiment.progress(summary.environment_steps, summary.gradient_steps)
    steps = f"{taken:,} {'gradient' if experiment.is_offline else 'environment'} steps"
    mean = "none" if summary.mean_return is None else f"{summary.mean_return:.1f}"
    info = "".join(f", {key} {value:.4g}" for key, value in summary.info.items())
    return (
        f"{title(experiment)} {verdict}: {steps}, "
        f"{summary.train_seconds:.1f} s of training after {summary.startup_seconds:.1f} s of start-up, "
        f"mean {'evaluation' if experiment.evaluates else 'training'} return {mean}{info} "
        f"(stopped by: {summary.stop_reason})"
    )


def number(value: float | None) -> str:
    """With one digit, or a dash for None."""
    return "-" if value is None else f"{value:.1f}"
