"""Trains every combination of some config fields' values with every seed, and compares them.

Example:
  python -m pipeline.sweep --config=cartpole --grid='agent.learning_rate=[1e-3, 3e-3]' --seeds=0:3 --out=runs/sweep

Each run is one of pipeline.train, in --out/<combination>/seed-<n>. Called again, a sweep goes on: runs that have ended
at their stop condition stay, those that were begun are resumed. It ends with a table, sweep.json, sweep.csv and
sweep.png. Exit codes: 0 all runs ended at their stop condition, 2 wrong usage or config (nothing is written), 1
anything else, an interruption included.
"""

import sys
from pathlib import Path

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.comparison import comparison as comparing
from pipeline.comparison import figures
from pipeline.experiment.config import UsageError
from pipeline.runtime.process import program
from pipeline.sweep import combinations, results
from pipeline.sweep.plan import Plan
from pipeline.sweep.progress import Progress
from pipeline.sweep.runner import Sweeper

_CONFIG = flags.DEFINE_string("config", None, "Path of a TOML config, or the name of a shipped one, such as cartpole.")
_GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    "A field and a TOML list of its values, such as agent.n_step=[1, 3]; may be repeated: all combinations are run.",
)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config of all runs; may be repeated.")
_SEEDS = flags.DEFINE_string("seeds", "0:3", "The first seed and the one after the last.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time, each of several processes.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Where the sweep leaves everything; new, or that of the same sweep.")


def main(arguments: list[str]) -> int:
    """Checks the command line, runs what is missing and compares."""
    refuse_more(arguments)
    if not _CONFIG.value or not _OUT.value:
        raise UsageError("--config and --out are needed: what should be run, and where should it leave its files?")
    axes = [combinations.axis(line) for line in _GRID.value]
    tried, seeds = combinations.product(axes), combinations.seeds(_SEEDS.value)
    plan = Plan(Path(_OUT.value).resolve(), _CONFIG.value, tuple(_SET.value), tried, seeds)
    plan.lock()
    results.write(plan, [], is_ended=False)
    plan.write()
    missing = [member for member in plan.members if not member.is_finished()]
    with Progress(len(plan.members) - len(missing), len(missing)) as progress:
        sweeper = Sweeper(missing, _PARALLEL.value, progress)
        failed = sweeper.run()
    if sweeper.is_interrupted:
        print("interrupted: the same command goes on")
        return 1
    _report(plan, [field for axis in axes for field in axis.fields])
    for member, reason in failed:
        print(f"FAILED: {member.name}: {reason}")
    return 1 if failed else 0


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
