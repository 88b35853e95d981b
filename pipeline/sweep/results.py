"""Results of a sweep: a table, and files for other programs."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.comparison import bounds, intervals
from pipeline.comparison.groups import fields
from pipeline.comparison.text_tables import aligned
from pipeline.experiment import config
from pipeline.experiment.run_directory import write_atomically, write_json
from pipeline.sweep.plan import RESULTS, Plan, SweepRun

_COLUMNS = (
    "stop_reason",
    "solved",
    "mean_return",
    "best_mean_return",
    "environment_steps",
    "gradient_steps",
    "train_seconds",
)
"""Of a run's summary, in `sweep.csv`."""


class Outcome(msgspec.Struct, frozen=True):
    """The result of one combination, over its seeds."""

    name: str
    values: dict[str, Any]
    """By field."""
    runs: int
    finished: int
    """Of these, those that ended at their stop condition; the rest of this is of them alone."""
    mean_return: float | None
    """Mean over runs of the last evaluation's mean return."""
    low: float | None
    """Of its 95 % interval within what the task can return; None of one run."""
    high: float | None
    is_range: bool
    """Whether low and high are the least and the largest of two runs instead."""
    solved: int
    environment_steps_to_solve: float | None
    """Mean over the runs that solved their task."""
    seconds_to_solve: float | None
    """Of training, likewise."""


class Results(msgspec.Struct, frozen=True):
    """`sweep.json`."""

    config: str
    overrides: list[str]
    seeds: list[int]
    fields: list[str]
    """That differ between combinations; TensorBoard's *HParams* shows them first."""
    is_ended: bool
    """Whether every run has ended; the outcomes are there then."""
    outcomes: list[Outcome]
    """The best first."""


def outcomes(plan: Plan) -> list[Outcome]:
    """Of every combination, those whose interval has the highest lower end first and those without a return last.

    One run alone stands for itself: it may be luck, and how many there are is beside it.
    """
    found = [
        _outcome([member for member in plan.members if member.combination is combination]) for combination in plan.tried
    ]
    return sorted(found, key=_rank)


def write(plan: Plan, found: Sequence[Outcome], is_ended: bool) -> None:
    """Writes `sweep.json`, and once the sweep has ended `sweep.csv` with a line a run."""
    names = list(dict.fromkeys(name for each in plan.tried for name in fields(each.values)))
    results = Results(plan.source, list(plan.overrides), plan.seeds, names, is_ended, list(found))
    write_json(plan.folder / RESULTS, results)
    if is_ended:
        write_atomically(plan.folder / "sweep.csv", _csv(plan.members, plan.folder).encode())


def table(found: Sequence[Outcome]) -> str:
    """A line a combination."""
    heading = ["combination", "runs", "mean return", "95 % interval", "solved", "steps to solve", "seconds to solve"]
    return aligned([heading, *map(_cells, found)])


def _cells(outcome: Outcome) -> list[str]:
    return [
        outcome.name,
        f"{outcome.finished} of {outcome.runs}",
        "-" if outcome.mean_return is None else f"{outcome.mean_return:.4g}",
        intervals.words(outcome.low, outcome.high, outcome.is_range),
        str(outcome.solved),
        _number(outcome.environment_steps_to_solve),
        _number(outcome.seconds_to_solve),
    ]


def _rank(outcome: Outcome) -> tuple[float, float]:
    """Sorts the best first: by the lower end, and of equal ones by the mean."""
    if outcome.mean_return is None:
        return np.inf, np.inf
    return -(outcome.mean_return if outcome.low is None else outcome.low), -outcome.mean_return


def _outcome(members: Sequence[SweepRun]) -> Outcome:
    summaries = [summary for member in members if member.is_finished() and (summary := member.summary())]
    returns = np.array([summary.mean_return for summary in summaries if summary.mean_return is not None], np.float64)
    estimate = None
    if len(returns):
        of_task = bounds.of(fields(config.tables_of(members[0].experiment)))
        estimate = bounds.kept(intervals.mean(returns[:, None]), bounds.common([of_task], returns))
    solved = [summary for summary in summaries if summary.solved]
    return Outcome(
        members[0].combination.name,
        members[0].combination.values,
        runs=len(members),
        finished=len(summaries),
        mean_return=float(estimate.center[0]) if estimate else None,
        low=float(estimate.low[0]) if estimate and len(returns) > 1 else None,
        high=float(estimate.high[0]) if estimate and len(returns) > 1 else None,
        is_range=estimate is not None and estimate.is_range,
        solved=len(solved),
        environment_steps_to_solve=_mean([summary.environment_steps for summary in solved]),
        seconds_to_solve=_mean([summary.train_seconds for summary in solved]),
    )


def _csv(members: Sequence[SweepRun], folder: Path) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = list(dict.fromkeys(name for member in members for name in fields(member.combination.values)))
    rows.writerow([*names, "seed", "run_dir", *_COLUMNS])
    for member in members:
        values = fields(member.combination.values)
        summary = member.summary()
        results = [getattr(summary, column, None) for column in _COLUMNS]
        run_dir = member.run.path.relative_to(folder)
        rows.writerow([*map(values.get, names), member.seed, run_dir, *results])
    return text.getvalue()


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
