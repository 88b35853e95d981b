"""A bar that shows how much of its budget a run has used: in a terminal, or in a notebook's cell."""

import html
import sys
from typing import NamedTuple, Protocol

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.callbacks.callback import Callback, Started
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation
from pipeline.records.results import Status, Summary


class ProgressBar(Callback):
    """Shows the share of the run's budget that is used, steps per second and the newest evaluation.

    The budget is the one of `stop.environment_steps`, `stop.gradient_steps` and `stop.seconds` that is used up most;
    without any, the bar shows that the run goes on. In a terminal and in a notebook it takes the place of what
    `pipeline.train` shows otherwise; elsewhere, as in a log, that stays and there is no bar.
    """

    def __init__(self) -> None:
        self._display: _Display | None = None

    @property
    def shows_progress(self) -> bool:  # type: ignore[override]
        """Whether there is a terminal or a notebook to show it in."""
        return self._display is not None

    def on_start(self, started: Started) -> None:
        """Begins to show it."""
        self._experiment, self._evaluation = started.experiment, "-"
        terminal = Terminal()
        if terminal.is_jupyter:
            self._display = _InNotebook()
        elif terminal.is_terminal:
            self._display = _InTerminal(terminal)
        self._show(Shown(0.0, "starting", "-"))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Shows its mean return with the next status."""
        self._evaluation = f"{evaluation.mean_return:.1f}"

    def on_status(self, status: Status) -> None:
        """Shows how far the run is."""
        self._show(Shown(share_used(self._experiment, status), _words(status), self._evaluation))

    def on_end(self, summary: Summary) -> None:
        """Leaves the bar as it is at the end."""
        if self._display is not None:
            self._display.close()
            self._display = None

    def _show(self, shown: "Shown") -> None:
        if self._display is not None:
            self._display.show(shown)


class Shown(NamedTuple):
    """What the bar shows."""

    share: float | None
    """Of the budget, from 0 to 1; None without one."""
    words: str
    evaluation: str
    """Mean return of the newest one; a dash before."""


def share_used(experiment: Experiment, status: Status) -> float | None:
    """How much of its budget a run has used, from 0 to 1; None of one without a budget."""
    stop = experiment.stop
    budgets = (
        (status.environment_steps, stop.environment_steps),
        (status.gradient_steps, stop.gradient_steps),
        (status.train_seconds, stop.seconds),
    )
    shares = [used / budget for used, budget in budgets if budget]
    return min(1.0, max(shares)) if shares else None


def _words(status: Status) -> str:
    steps = f"{status.environment_steps:,} environment steps ({status.environment_steps_per_second:,.0f}/s)"
    return steps if status.phase == "learning" else f"{status.phase}, {steps}"


class _Display(Protocol):
    def show(self, shown: Shown) -> None: ...

    def close(self) -> None: ...


class _InTerminal:
    """By rich, which prints what others print above the bar."""

    def __init__(self, terminal: Terminal) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        result = TextColumn("evaluation {task.fields[evaluation]}")
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), result, console=terminal)
        self._task = self._progress.add_task("starting", total=None, evaluation="-")
        self._progress.start()

    def show(self, shown: Shown) -> None:
        total = None if shown.share is None else 1.0
        self._progress.update(
            self._task,
            total=total,
            completed=shown.share or 0.0,
            description=shown.words,
            evaluation=shown.evaluation,
        )

    def close(self) -> None:
        self._progress.stop()


class _InNotebook:
    """As HTML in the cell's output, which is replaced: that needs no widgets."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html, self._handle = HTML, display(HTML(""), display_id=True)

    def show(self, shown: Shown) -> None:
        self._handle.update(self._html(as_html(shown)))

    def close(self) -> None:
        sys.stdout.flush()


def as_html(shown: Shown) -> str:
    """The bar for a notebook."""
    share = "" if shown.share is None else f' value="{shown.share:.4f}"'
    percent = "" if shown.share is None else f"{100.0 * shown.share:.0f} % "
    words = html.escape(f"{percent}{shown.words}, evaluation {shown.evaluation}")
    return f'<progress max="1" style="width: 20em"{share}></progress> {words}'
