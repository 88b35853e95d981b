"""Draws the learning curves of runs, with the mean and its 95 % interval over seeds.

Example:
  python -m pipeline.plot --runs='runs/dqn-*' --runs='runs/c51-*' --out=curves.png

Runs that differ in nothing but their seed are a group; groups are named by what differs between them. A table of the
groups' last values is printed.
"""

import sys
from pathlib import Path
from typing import get_args

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.comparison import comparison as comparing
from pipeline.comparison import figures
from pipeline.comparison.comparison import Axis, Statistic
from pipeline.comparison.curves import MEAN_RETURN
from pipeline.experiment.config import UsageError

_RUNS = flags.DEFINE_multi_string("runs", [], "Pattern of run directories, such as 'runs/*'; may be repeated.")
_OUT = flags.DEFINE_string("out", None, f"File of the figure; its name ends in {', '.join(figures.SUFFIXES)}.")
_X = flags.DEFINE_enum("x", "environment_steps", get_args(Axis), "Horizontal axis; seconds are those of training.")
_Y = flags.DEFINE_string("y", MEAN_RETURN, "Tag of TensorBoard, such as learner/loss.")
_GROUP = flags.DEFINE_list(
    "group",
    [],
    "Names of config fields, such as agent.kind: runs with the same values of these are a group.",
)
_STATISTIC = flags.DEFINE_enum(
    "statistic",
    "auto",
    get_args(Statistic),
    "What sums a group up: mean, or iqm, the interquartile mean; auto takes that where every group has eight runs.",
)


def main(arguments: list[str]) -> int:
    """Checks the command line, reads the runs, draws and prints."""
    refuse_more(arguments, advice="put patterns in quotes, and give --runs=... for each")
    if not _RUNS.value or not _OUT.value:
        raise UsageError("--runs and --out are needed: which runs, and where should the figure go?")
    out = Path(_OUT.value)
    figures.refuse_path(out)
    runs = comparing.find(_RUNS.value)
    comparison = comparing.compare(runs, _Y.value, _X.value, _GROUP.value, _STATISTIC.value)
    figures.draw(comparison, out)
    for note in comparison.notes:
        print(f"note: {note}")
    print(comparing.table(comparison))
    print(f"figure: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
