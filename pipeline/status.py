"""Shows what a run does now, in another terminal; of one that has ended, its result.

Example:
  python -m pipeline.status --run_dir=runs/cartpole

On a terminal the screen stays until the run ends (--once shows it once); elsewhere it is printed once. --json prints
the run's status.json and summary.json as one line for programs.
"""

import sys
import time
from pathlib import Path

import msgspec
from absl import flags
from rich.console import Console as Terminal
from rich.live import Live

from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.role_words import where_roles
from pipeline.monitoring.console import read, result
from pipeline.monitoring.remarks import remarks
from pipeline.monitoring.status_table import table
from pipeline.records.results import Status, Summary
from pipeline.security import strangers

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.")
_ONCE = flags.DEFINE_bool("once", False, "Show it once, on a terminal too.")
_JSON = flags.DEFINE_bool("json", False, "Print it as one line of JSON: is_running, status, summary.")
_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)

_REFRESH_SECONDS = 0.5


class _Seen(msgspec.Struct):
    is_running: bool
    status: Status | None
    summary: Summary | None


def main(arguments: list[str]) -> int:
    """Reads the run's files and shows them."""
    refuse_more(arguments)
    if not _RUN_DIR.value:
        raise UsageError("--run_dir is missing: which run?")
    run = RunDirectory(Path(_RUN_DIR.value))
    with strangers.reading(run.path, _TRUST.value == "yes"):
        experiment = run.experiment()
    if _JSON.value:
        print(msgspec.json.encode(_look(run)).decode())
        return 0
    terminal = Terminal(file=sys.stdout, soft_wrap=True, highlight=False)
    if terminal.is_terminal and not _ONCE.value:
        _follow(terminal, run, experiment)
    _show(terminal, run, experiment, _look(run))
    return 0


def _look(run: RunDirectory) -> _Seen:
    is_running = run.is_in_use  # before the files: a run that has ended since has written them
    return _Seen(is_running, read(run.status, Status), read(run.summary, Summary))


def _follow(terminal: Terminal, run: RunDirectory, experiment: Experiment) -> None:
    try:
        with Live(console=terminal, refresh_per_second=4, transient=True) as live:
            while (seen := _look(run)).is_running:
                if seen.status is not None:
                    live.update(table(experiment, run.path, seen.status))
                time.sleep(_REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def _show(terminal: Terminal, run: RunDirectory, experiment: Experiment, seen: _Seen) -> None:
    if seen.status is not None:
        terminal.print(table(experiment, run.path, seen.status))
    if seen.is_running:
        if seen.status is None:
            terminal.print(f"{run.path} starts: there is nothing to show yet; see {run.logs}", markup=False)
    elif seen.summary is not None:
        terminal.print(result(experiment, seen.summary), style="bold", markup=False)
        for remark in remarks(experiment, seen.summary):
            terminal.print(remark, markup=False)
    else:
        how = f"python -m pipeline.train --run_dir={run.path} --resume"
        if where_roles(run):
            how = "the commands that its roles were started with"
        terminal.print(
            f"{run.path} is not running and has no result: go on with {how}, or see {run.logs}", markup=False
        )


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
