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
from rich.table import Table
from rich.text import Text

from pipeline.account import Account
from pipeline.ledger import Status, Summary
from pipeline.privacy import Privacy
from pipeline.run_directory import RunDirectory
from pipeline.sections import Experiment

_LIVE_SECONDS = 0.25
_LINE_SECONDS = 2.0
_MIB = 2.0**20
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
        status = _read(self._run.status, Status)
        if status is None or status == self._shown:
            return
        self._shown = status
        self._warn(status)
        if self._live is not None:
            self._live.update(self._table(status))
        else:
            self._terminal.print(self._line(status))
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
        summary = _read(self._run.summary, Summary)
        if (status := _read(self._run.status, Status)) is not None:  # the last may be newer than what was shown
            self._warn(status)
        if reason:
            self.note(reason)
        if summary is None:
            self._terminal.print(f"The run ended with exit code {code} before it had a result; see {self._run.logs}")
            return
        if summary.message and summary.message not in self._noted:
            self.note(f"{summary.stop_reason}: {summary.message}")
        target = self._experiment.stop.target_return
        result = "solved" if summary.solved else "not solved" if target is not None else "ended"
        taken = self._experiment.progress(summary.environment_steps, summary.gradient_steps)
        steps = f"{taken:,} {'gradient' if self._experiment.is_offline else 'environment'} steps"
        mean = "none" if summary.mean_return is None else f"{summary.mean_return:.1f}"
        self._terminal.print(
            f"{self._name} {result}: {steps}, "
            f"{summary.train_seconds:.1f} s of training after {summary.startup_seconds:.1f} s of start-up, "
            f"mean evaluation return {mean} (stopped by: {summary.stop_reason})",
            style="bold",
        )
        if self._experiment.environment.shield:
            shielded = _share(summary.shielded_steps, summary.environment_steps)
            self._terminal.print(f"The shield stepped in at {shielded}.")
        if summary.dropped_episodes:
            self._terminal.print(
                f"{summary.dropped_episodes:,} episodes were dropped for faults; the newest: {summary.newest_fault}",
                markup=False,
            )
        if lost := _lost(summary.account):
            self._terminal.print(f"Transitions lost: {lost}.")
        folder = shlex.quote(str(self._run.path))
        self._terminal.print(
            f"Look at it: .venv/bin/tensorboard --logdir {folder}/tensorboard    Run directory: {folder}"
        )

    @property
    def _name(self) -> str:
        environment = self._experiment.environment
        return environment.id or environment.import_path

    def _line(self, status: Status) -> str:
        return (
            f"{status.train_seconds:7.1f} s  {status.phase:<19}  {status.environment_steps:>9,} environment steps "
            f"({status.environment_steps_per_second:,.0f}/s)  {status.gradient_steps:>9,} gradient steps "
            f"({status.gradient_steps_per_second:,.0f}/s)  episode return {_number(status.episode_return)}  "
            f"evaluation {_number(status.evaluation_return)}"
        )

    def _table(self, status: Status) -> Table:
        table = Table(title=f"{self._name}  ·  {self._run.path}", show_header=False, min_width=72)
        table.add_column(style="cyan")
        table.add_column(justify="right")
        target = self._experiment.stop.target_return
        goal = "" if target is None else f" of {target:g}"
        spread = "" if status.evaluation_std is None else f" ± {status.evaluation_std:.1f}"
        rows = {
            "phase": f"{status.phase}, {status.train_seconds:.1f} s",
            "environment steps": f"{status.environment_steps:,}  ({status.environment_steps_per_second:,.0f}/s)",
            "gradient steps": f"{status.gradient_steps:,}  ({status.gradient_steps_per_second:,.0f}/s)",
            "episodes": f"{status.episodes:,}",
            "episode return, last 100": _number(status.episode_return),
            "evaluation return": f"{_number(status.evaluation_return)}{spread}{goal}",
            "epsilon": f"{status.epsilon:.3f}",
            "loss": "-" if status.loss is None else f"{status.loss:.4g}",
            "samples per insert": f"{status.samples_per_insert:.1f} of {self._experiment.replay.samples_per_insert:g}",
            "replay": f"{status.replay_size:,} of {self._experiment.replay.capacity:,} transitions",
            "memory": ", ".join(f"{role} {size / _MIB:.0f}" for role, size in status.resident_bytes.items()) + " MiB",
        }
        if self._experiment.environment.shield:
            rows["shield stepped in"] = _share(status.shielded_steps, status.environment_steps)
        if lost := _lost(status.account):
            rows["transitions lost"] = lost
        if status.dropped_episodes:
            rows["episodes dropped"] = f"{status.dropped_episodes:,}, for faults such as: {status.newest_fault}"
        for name, value in rows.items():
            table.add_row(name, value)
        for warning in status.warnings:
            table.add_row("warning", Text(warning, style="yellow"))
        return table


def _lost(account: Account | None) -> str:
    """What has been lost, by what; empty if nothing has."""
    lost = {name: count for name, count in (account.lost if account else {}).items() if count}
    return ", ".join(f"{count:,} ({name})" for name, count in lost.items())


def _share(shielded_steps: int, environment_steps: int) -> str:
    share = 100.0 * shielded_steps / max(1, environment_steps)
    return f"{shielded_steps:,} of {environment_steps:,} environment steps ({share:.2f} %)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _read(path: Path, kind: type[_Read]) -> _Read | None:
    """A file of the learner's process, or None while there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
