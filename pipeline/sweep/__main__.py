"""Trains a config with other values and seeds: every combination of a grid, or what a search proposes.

Examples:
  python -m pipeline.sweep --config=cartpole --grid='agent.learning_rate=[1e-3, 3e-3]' --seeds=0:3 --out=runs/sweep
  python -m pipeline.sweep --config=cartpole --search=tpe --trials=30 --pruner=median --parallel=2
    --space='agent.learning_rate={low=1e-4, high=1e-2, log=true}' --space='agent.n_step={low=1, high=5}'
    --out=runs/search

Each run is one of pipeline.train, in --out/<combination or trial>/seed-<n>. Called again, a sweep goes on: runs that
have ended at their stop condition stay, those that were begun are resumed. It ends with a table, sweep.json, sweep.csv
and figures; a search also with best.toml, a config for pipeline.train. Exit codes: 0 all runs ended at their stop
condition or were pruned, 2 wrong usage or config (nothing is written), 1 anything else, an interruption included.
"""

import sys
from pathlib import Path
from typing import get_args

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.comparison import comparison as comparing
from pipeline.comparison import figures, search_figures
from pipeline.experiment.config import UsageError
from pipeline.runtime.process import program
from pipeline.sweep import combinations, results, search_results
from pipeline.sweep.plan import STUDY, Plan, lock
from pipeline.sweep.progress import Progress
from pipeline.sweep.runner import Members, Sweeper
from pipeline.sweep.search import OBJECTIVES, Objective, Search, SearchPlan
from pipeline.sweep.study import Method, Pruner, Study, unwritable

_CONFIG = flags.DEFINE_string("config", None, "Path of a TOML config, or the name of a shipped one, such as cartpole.")
_GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    "A field and a TOML list of its values, such as agent.n_step=[1, 3]; may be repeated: all combinations are run.",
)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config of all runs; may be repeated.")
_SEEDS = flags.DEFINE_string("seeds", None, "The first seed and the one after the last: 0:3, of a search 0:1.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time, each of several processes.", lower_bound=1)
_SEARCH = flags.DEFINE_enum(
    "search", None, get_args(Method), "Search --space instead of running a --grid: by Optuna's TPE, at random, or all."
)
_SPACE = flags.DEFINE_multi_string(
    "space",
    [],
    "What is searched: a field with its range or choices, such as agent.n_step={low=1, high=5}, or a TOML file of such "
    "lines; may be repeated.",
)
_TRIALS = flags.DEFINE_integer(
    "trials", None, "Trials of the search in all, those of earlier calls too.", lower_bound=1
)
_PRUNER = flags.DEFINE_enum(
    "pruner", "none", get_args(Pruner), "What ends trials early that fall behind others at the same evaluation."
)
_OBJECTIVE = flags.DEFINE_enum(
    "objective", "last", get_args(Objective), "What the search maximises: the last evaluation, the best, or the curve."
)
_OUT = flags.DEFINE_string("out", None, "Where the sweep leaves everything; new, or that of the same sweep.")


def main(arguments: list[str]) -> int:
    """Checks the command line, runs what is missing and compares."""
    refuse_more(arguments)
    if not _CONFIG.value or not _OUT.value:
        raise UsageError("--config and --out are needed: what should be run, and where should it leave its files?")
    folder = Path(_OUT.value).resolve()
    if _SEARCH.value is not None:
        return _search(folder)
    for flag, is_given in (
        ("space", _SPACE.value),
        ("trials", _TRIALS.value),
        ("pruner", _PRUNER.value != "none"),
        ("objective", _OBJECTIVE.value != "last"),
    ):
        if is_given:
            raise UsageError(f"--{flag} is for searches: add --search=tpe, or give the values of a sweep by --grid")
    axes = [combinations.axis(line) for line in _GRID.value]
    tried, seeds = combinations.product(axes), combinations.seeds(_SEEDS.value or "0:3")
    plan = Plan(folder, _CONFIG.value, tuple(_SET.value), tried, seeds)
    lock(folder)
    results.write(plan, [], is_ended=False)
    plan.write()
    missing = [member for member in plan.members if not member.is_finished()]
    work = Members(missing)
    with Progress(len(plan.members) - len(missing), len(missing)) as progress:
        sweeper = Sweeper(work, _PARALLEL.value, progress)
        sweeper.run()
    if sweeper.is_interrupted:
        print("interrupted: the same command goes on")
        return 1
    _report(plan, [field for axis in axes for field in axis.fields])
    for member, reason in work.failed:
        print(f"FAILED: {member.name}: {reason}")
    return 1 if work.failed else 0


def _search(folder: Path) -> int:
    """Checks the flags of a search, makes its trials and shows what they reached."""
    if _GRID.value:
        raise UsageError(
            "--grid does not go with --search: write it as --space, and --search=grid tries all its values"
        )
    plan = SearchPlan(
        folder,
        _CONFIG.value,
        tuple(_SET.value),
        _SPACE.value,
        _SEARCH.value,
        _PRUNER.value,
        _TRIALS.value,
        combinations.seeds(_SEEDS.value or "0:1"),
        _OBJECTIVE.value,
    )
    lock(folder)
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
            sweeper = Sweeper(search, _PARALLEL.value, progress)
            sweeper.run()
        except Exception as error:
            if not unwritable(error):
                raise
            print(f"error: {folder / STUDY} could not be written: {error}; the same command goes on", file=sys.stderr)
            return 1
    _report_search(plan, study, is_ended=not sweeper.is_interrupted)
    for name, reason in search.failures:
        print(f"FAILED: {name}: {reason}")
    if sweeper.is_interrupted:
        print("interrupted: the same command goes on")
    return 1 if sweeper.is_interrupted or search.failures else 0


def _report_search(plan: SearchPlan, study: Study, is_ended: bool) -> None:
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


def _report(plan: Plan, fields: list[str]) -> None:
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


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
