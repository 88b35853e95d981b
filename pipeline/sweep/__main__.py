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
from pipeline.experiment.config import UsageError
from pipeline.sweep import combinations
from pipeline.sweep.call import run_grid, run_search
from pipeline.sweep.plan import Plan
from pipeline.sweep.search import Objective, SearchPlan
from pipeline.sweep.study import Method, Pruner

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
    found = run_grid(Plan(folder, _CONFIG.value, tuple(_SET.value), tried, seeds), axes, _PARALLEL.value)
    return 1 if found.failed or found.is_interrupted else 0


def _search(folder: Path) -> int:
    """Checks the flags of a search and makes its trials."""
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
    found = run_search(plan, _PARALLEL.value)
    return 1 if found.failed or found.is_interrupted else 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
