"""Compares runs: their curves in groups, each with a center and an interval."""

import glob
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.comparison import bounds, curves, groups, intervals
from pipeline.comparison.curves import Curve
from pipeline.comparison.groups import Fields
from pipeline.comparison.intervals import Array, Estimate
from pipeline.comparison.text_tables import aligned
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory

Axis = Literal["environment_steps", "seconds"]
Statistic = Literal["auto", "mean", "iqm"]

_ENOUGH_RUNS = 8
"""Of a group, for an interquartile mean: four are left in the middle."""
_GRID_POINTS = 400


class GroupCurve(NamedTuple):
    """One group of runs: their curves, center and interval."""

    name: str
    runs: list[Curve]
    grid: Array
    """From where all runs have a value to the end of the longest. [points]"""
    estimate: Estimate
    """[points]"""
    final: Estimate
    """Of the runs' last values. [1]"""


class Comparison(NamedTuple):
    """Groups of runs, and what is compared of them."""

    groups: list[GroupCurve]
    tag: str
    x: str
    """Label of the horizontal axis."""
    statistic: str
    """In words."""
    environment: str
    """Of all runs, if they have the same; else empty."""
    target: float | None
    """Return at which all runs would end as solved."""
    notes: list[str]
    """Remarks for the reader of the table and the figure."""


class _Run(NamedTuple):
    path: Path
    config: Fields
    curve: Curve


def find(patterns: Sequence[str]) -> list[RunDirectory]:
    """Run directories that match any of the patterns, by path.

    Raises:
      UsageError: a pattern matches none.
    """
    found: dict[Path, RunDirectory] = {}
    for pattern in patterns:
        runs = [
            run for name in glob.glob(pattern, recursive=True) if (run := RunDirectory(Path(name))).config.is_file()
        ]
        if not runs:
            raise UsageError(f"--runs={pattern} matches no run: name directories with a config.toml, in quotes")
        found |= {run.path.resolve(): run for run in runs}
    return [found[path] for path in sorted(found)]


def compare(
    runs: Sequence[RunDirectory],
    tag: str = curves.MEAN_RETURN,
    x: Axis = "environment_steps",
    by: Sequence[str] = (),
    statistic: Statistic = "auto",
) -> Comparison:
    """Puts the curves of runs in groups and sums each group up.

    Curves are put on one grid step-wise: a run has its last value until the next, and keeps it when it has ended, as
    others of its group go on. The mean has Student's t interval over runs; the interquartile mean, which "auto" takes
    where every group has eight runs, that of a bootstrap stratified by environment. If groups have runs of several
    environments, values are scaled, of each environment, from the lowest to the highest of all runs here.

    Args:
      runs: finished or running.
      tag: what is compared.
      x: over what.
      by: fields that make groups; without any, all but the seed do.
      statistic: what sums up a group.

    Raises:
      UsageError: there is nothing to compare.
    """
    read, notes = _read(runs, tag, x == "seconds")
    grouped = groups.group([run.config for run in read], by)
    members = {name: [read[index] for index in indices] for name, indices in grouped.members.items()}
    if grouped.unnamed:
        notes.append(f"groups also differ in {', '.join(grouped.unnamed)}")
    if is_scaled := any(len(_by_task(group)) > 1 for group in members.values()):
        members = _scaled(members)
    is_iqm = statistic == "iqm" or (statistic == "auto" and min(map(len, members.values())) >= _ENOUGH_RUNS)
    offline = {bool(run.config.get("offline.dataset")) for run in read}
    if x == "environment_steps" and len(offline) > 1:
        raise UsageError("offline runs go by gradient steps and the others by environment steps: use --x=seconds")
    targets = {run.config.get("stop.target_return") for run in read}
    compared = [
        _compared(name, group, is_iqm, tag in bounds.RETURNS and not is_scaled) for name, group in members.items()
    ]
    return Comparison(
        compared,
        f"{tag}, scaled from lowest to highest" if is_scaled else tag,
        "seconds of training" if x == "seconds" else "gradient steps" if True in offline else "environment steps",
        _statistic(compared, is_iqm),
        _environment(read),
        next(iter(targets)) if len(targets) == 1 and tag == curves.MEAN_RETURN and not is_scaled else None,
        notes,
    )


def table(comparison: Comparison) -> str:
    """A line a group: its runs, and the center and interval of their last values."""
    rows = [["group", "runs", f"last {comparison.tag}", "95 % interval"]]
    for group in comparison.groups:
        center, low, high = (float(value[0]) for value in group.final[:3])
        interval = intervals.words(low, high, group.final.is_range)
        rows.append([group.name, str(len(group.runs)), f"{center:.4g}", interval])
    return aligned(rows)


def _read(runs: Sequence[RunDirectory], tag: str, over_seconds: bool) -> tuple[list[_Run], list[str]]:
    found, without = [], []
    for run in runs:
        try:
            config: dict[str, Any] = tomllib.loads(run.config.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{run.config} cannot be read: {error}") from None
        curve = curves.read(run, tag, over_seconds)
        if curve is None:
            without.append(run)
        else:
            found.append(_Run(run.path, groups.fields(config), curve))
    if not found:
        known = sorted(set().union(*map(curves.tags, runs)))
        choices = f"there are {', '.join(known)}" if known else "they have written no values yet"
        raise UsageError(f"no run has values of {tag}: {choices}")
    return found, [f"{run.path} has no values of {tag} and is left out" for run in without]


def _by_task(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Runs of each environment."""
    tasks: dict[str, list[_Run]] = {}
    for run in runs:
        tasks.setdefault(_task(run), []).append(run)
    return list(tasks.values())


def _task(run: _Run) -> str:
    return repr({name: value for name, value in run.config.items() if name.startswith("environment.")})


def _scaled(members: dict[str, list[_Run]]) -> dict[str, list[_Run]]:
    ranges = {}
    for runs in _by_task([run for group in members.values() for run in group]):
        values = np.concatenate([run.curve.y for run in runs])
        ranges[_task(runs[0])] = float(np.nanmin(values)), float(np.nanmax(values))

    def scaled(run: _Run) -> _Run:
        low, high = ranges[_task(run)]
        return run._replace(curve=run.curve._replace(y=(run.curve.y - low) / (high - low or 1.0)))

    return {name: [scaled(run) for run in group] for name, group in members.items()}


def _statistic(compared: Sequence[GroupCurve], is_iqm: bool) -> str:
    """What sums the groups up, in words."""
    several = [group.final.is_range for group in compared if len(group.runs) > 1]
    if not several:
        return "one run" if len(compared) == 1 else "one run of each"
    if all(several):
        return "mean, least to largest run"
    words = "interquartile mean, 95 % stratified bootstrap interval" if is_iqm else "mean, 95 % t interval"
    return f"{words}; of two runs their range" if any(several) else words


def _compared(name: str, group: Sequence[_Run], is_iqm: bool, is_return: bool) -> GroupCurve:
    tasks = [[run.curve for run in runs] for runs in _by_task(group)]
    own = [curve for task in tasks for curve in task]
    first, last = max(curve.x[0] for curve in own), max(curve.x[-1] for curve in own)
    grid = np.linspace(first, max(first, last), _GRID_POINTS)
    estimate = _sum_up([intervals.carried_forward(task, grid) for task in tasks], is_iqm)
    final = _sum_up([np.array([[curve.y[-1]] for curve in task]) for task in tasks], is_iqm)
    if is_return:
        of_task = bounds.common([bounds.of(run.config) for run in group], np.concatenate([curve.y for curve in own]))
        estimate, final = bounds.kept(estimate, of_task), bounds.kept(final, of_task)
    return GroupCurve(name, own, grid, estimate, final)


def _sum_up(tasks: Sequence[Array], is_iqm: bool) -> Estimate:
    return intervals.bootstrapped(tasks) if is_iqm else intervals.mean(np.concatenate(tasks))


def _environment(runs: Sequence[_Run]) -> str:
    names = {str(run.config.get("environment.id") or run.config.get("environment.import_path")) for run in runs}
    return names.pop() if len(names) == 1 else ""
