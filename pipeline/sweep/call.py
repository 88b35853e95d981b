"""A sweep from its plan to its results: what `pipeline.sweep` does from Python, and the command of that name."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from pipeline.comparison import comparison as comparing
from pipeline.comparison import figures, search_figures
from pipeline.comparison.run import Run
from pipeline.experiment.bases import lines_of
from pipeline.experiment.config import Overrides, UsageError
from pipeline.runtime.process import program
from pipeline.sweep import combinations, results, search_results
from pipeline.sweep.combinations import Axis, Combination
from pipeline.sweep.plan import STUDY, Plan, lock
from pipeline.sweep.progress import Progress
from pipeline.sweep.results import Outcome
from pipeline.sweep.runner import Members, Sweeper
from pipeline.sweep.search import OBJECTIVES, Objective, Search, SearchPlan
from pipeline.sweep.search_results import Trial
from pipeline.sweep.study import Method, Pruner, Study, unwritable

_FLAGS = re.compile(r"--(?=(config|out|grid|seeds|parallel|search|space|trials|pruner|objective)\b)")


class SweepResult(NamedTuple):
    """What a sweep has found."""

    folder: Path
    """Of the sweep, with a table in `sweep.csv`, `sweep.json` and figures."""
    outcomes: tuple[Outcome, ...]
    """Of a grid, one for each combination, the best first; empty of a search."""
    trials: tuple[Trial, ...]
    """Of a search, by number; empty of a grid."""
    failed: dict[str, str]
    """Why runs failed, by their names: each is the path of a run from the folder, or a trial."""
    is_interrupted: bool = False
    """Whether it was told to end; the same call goes on."""

    @property
    def best_config(self) -> Path | None:
        """Of a search, a config for `pipeline.load`: the best trial's. None while there is none."""
        path = self.folder / search_results.BEST
        return path if path.is_file() else None

    @property
    def runs(self) -> list[Run]:
        """All runs that have begun, by their paths."""
        return [Run(config.parent) for config in sorted(self.folder.glob("*/seed-*/config.toml"))]


def sweep(
    config: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    seeds: Iterable[int] | None = None,
    overrides: Overrides = (),
    parallel: int = 1,
    search: Method | None = None,
    space: Mapping[str, Any] | None = None,
    trials: int | None = None,
    pruner: Pruner = "none",
    objective: Objective = "last",
) -> SweepResult:
    """Trains a config with other values and seeds: every combination of a grid, or what a search proposes.

    Each run is one of `pipeline.train` in processes of its own. Called again, a sweep goes on: runs that have ended at
    their stop condition stay, those that were begun are resumed.

    Args:
      config: path of a TOML config, or the name of a shipped one.
      out: folder in which the sweep leaves everything; new, or that of the same sweep.
      grid: values by field, such as `{"agent.n_step": [1, 3]}`: all combinations are run. None varies the seed alone.
      seeds: of each combination or trial; by default 0, 1 and 2, of a search 0 alone.
      overrides: of the config for all runs, see `pipeline.load`.
      parallel: runs at a time, each of several processes.
      search: "tpe", "random" or "grid", in the place of `grid`; it needs the extra `search`.
      space: what is searched, such as `{"agent.n_step": {"low": 1, "high": 5}, "agent.kind": ["dqn", "c51"]}`.
      trials: of the search in all, those of earlier calls too.
      pruner: "median" or "asha" ends trials early that fall behind others at the same evaluation; "none" does not.
      objective: what the search maximises: the "last" evaluation, the "best", or the "curve".

    Returns:
      What was found, where runs have failed, too.

    Raises:
      UsageError: an argument is none, or a combination cannot be run. Nothing has been written.
    """
    try:
        source, folder = _path("config", config), Path(_path("out", out)).resolve()
        _refuse_wrong(parallel, search, space, trials, pruner, objective, grid)
        own = range(1 if search else 3) if seeds is None else [_seed(seed) for seed in _list("seeds", seeds)]
        if not own:
            raise UsageError("seeds: give one at least")
        lines = tuple(line if isinstance(line, str) else _as_lines(line) for line in lines_of(overrides) if line)
        if search is None:
            axes = [Axis(field, _list(f"grid[{field!r}]", values)) for field, values in (grid or {}).items()]
            return run_grid(Plan(folder, source, lines, combinations.product(axes), own), axes, parallel)
        searched = [_as_lines(space)] if space else []
        plan = SearchPlan(folder, source, lines, searched, search, pruner, trials, list(own), objective)
        return run_search(plan, parallel)
    except UsageError as error:
        raise UsageError(_FLAGS.sub("", str(error))) from None


def run_grid(plan: Plan, axes: Sequence[Axis], parallel: int) -> SweepResult:
    """Runs what a grid has not finished, and compares all."""
    held = lock(plan.folder)
    try:
        results.write(plan, [], is_ended=False)
        plan.write()
        missing = [member for member in plan.members if not member.is_finished()]
        work = Members(missing)
        with Progress(len(plan.members) - len(missing), len(missing)) as progress:
            sweeper = Sweeper(work, parallel, progress)
            sweeper.run()
        if sweeper.is_interrupted:
            print("interrupted: the same command goes on")
            return SweepResult(plan.folder, (), (), {}, is_interrupted=True)
        found = _report(plan, [field for axis in axes for field in axis.fields])
        for member, reason in work.failed:
            print(f"FAILED: {member.name}: {reason}")
        return SweepResult(plan.folder, found, (), {member.name: reason for member, reason in work.failed})
    finally:
        held.unlock()


def run_search(plan: SearchPlan, parallel: int) -> SweepResult:
    """Makes the trials of a search, and shows what they reached."""
    folder = plan.folder
    held = lock(folder)
    try:
        search_results.write(plan, [], {}, is_ended=False)
        study = Study(folder, plan.space, plan.method, plan.pruner, plan.evaluations, plan.seeds[0], plan.settings)
        if plan.note:
            print(f"note: {plan.note}")

        def keep() -> None:
            try:
                search_results.write(plan, study.trials(), {}, is_ended=False)
            except OSError as error:  # the study has it all the same
                progress.say(f"warning: the results could not be written: {error}")

        with Progress(0, 0) as progress:
            try:
                search = Search(plan, study, progress, keep)
                sweeper = Sweeper(search, parallel, progress)
                sweeper.run()
            except Exception as error:
                if not unwritable(error):
                    raise
                words = f"{folder / STUDY} could not be written: {error}; the same command goes on"
                print(f"error: {words}", file=sys.stderr)
                return SweepResult(folder, (), (), {STUDY: words})
        trials = _report_search(plan, study, is_ended=not sweeper.is_interrupted)
        for name, reason in search.failures:
            print(f"FAILED: {name}: {reason}")
        if sweeper.is_interrupted:
            print("interrupted: the same command goes on")
        return SweepResult(folder, (), trials, dict(search.failures), sweeper.is_interrupted)
    finally:
        held.unlock()


def _report_search(plan: SearchPlan, study: Study, is_ended: bool) -> tuple[Trial, ...]:
    """Writes, draws and prints what the trials of a search reached."""
    found, importance = study.trials(), study.importance()
    search_results.write(plan, found, importance, is_ended)
    print(search_results.table(found))
    marks = [
        search_figures.Mark(trial.number, trial.state, next(reversed(trial.returns.values()), None))
        if trial.objective is None
        else search_figures.Mark(trial.number, trial.state, trial.objective)
        for trial in found
        if trial.state in ("complete", "pruned", "failed")
    ]
    words = OBJECTIVES[plan.objective]
    if marks:
        search_figures.draw_history(marks, words, plan.objective != "curve", plan.folder / "history.png")
    if importance:
        complete = sum(mark.state == "complete" for mark in marks)
        search_figures.draw_importance(importance, complete, plan.folder / "importance.png")
        print("importance: " + ", ".join(f"{field} {share:.0%}" for field, share in importance.items()))
    if (plan.folder / search_results.BEST).is_file():
        print(f"Best config: --config={plan.folder / search_results.BEST}    Results: {plan.folder}/sweep.json")
    return tuple(search_results.trial(each) for each in found)


def _report(plan: Plan, fields: list[str]) -> tuple[Outcome, ...]:
    """Writes and prints the results of a sweep."""
    found = results.outcomes(plan)
    results.write(plan, found, is_ended=True)
    print(results.table(found))
    if runs := [member.run for member in plan.members if member.is_finished()]:
        try:
            comparison = comparing.compare(runs, by=fields)
            figures.draw(comparison, plan.folder / "sweep.png")
            for note in comparison.notes:
                print(f"note: {note}")
        except UsageError as error:  # the sweep has its results all the same
            print(f"no figure: {error}")
    print(f"Compare them: {program('tensorboard')} --logdir {plan.folder}    Results: {plan.folder}/sweep.json")
    return tuple(found)


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(f"{name} is a path or a name, not {value!r}")
    return str(os.fspath(value))


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seeds are whole numbers of at least 0, not {seed!r}")
    return int(seed)


def _list(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable) or not (found := list(values)):
        raise UsageError(f"{name} is a list of values, such as [1, 2], not {values!r}")
    return found


def _refuse_wrong(parallel: Any, search: Any, space: Any, trials: Any, pruner: Any, objective: Any, grid: Any) -> None:
    """Refuses arguments that are none, or that do not go together."""
    for name, value in (("parallel", parallel), ("trials", trials)):
        is_left_out = value is None and name == "trials"
        if not is_left_out and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UsageError(f"{name} is a whole number of at least 1, not {value!r}")
    for name, value, words in (
        ("search", search, (None, *get_args(Method))),
        ("pruner", pruner, get_args(Pruner)),
        ("objective", objective, get_args(Objective)),
    ):
        if value not in words:
            raise UsageError(f"{name} is one of {', '.join(map(repr, words))}, not {value!r}")
    for name, table in (("grid", grid), ("space", space)):
        if table is not None and not isinstance(table, Mapping):
            raise UsageError(f"{name} is a table of fields, such as {{'agent.n_step': [1, 3]}}, not {table!r}")
    if search is not None and grid is not None:
        raise UsageError("grid does not go with search: write it as space, and search='grid' tries all its values")
    if search is None and (space is not None or trials is not None or pruner != "none" or objective != "last"):
        raise UsageError("space, trials, pruner and objective are for searches: give search, such as search='tpe'")


def _as_lines(tables: Mapping[str, Any]) -> str:
    """Tables as TOML; dotted names are taken apart."""
    try:
        return Combination(cast(dict[str, Any], dict(tables))).line
    except (TypeError, ValueError) as error:
        raise UsageError(f"{tables!r:.60} cannot be written as TOML: {error}") from None
