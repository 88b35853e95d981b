"""Trains each task's config with every seed, scores the final policies, and writes docs/results.md.

Example:
  python -m benchmarks.learning.reach --tasks=cartpole_c51,acrobot --seeds=0:5

Runs that the file of results has are not run again.
"""

import itertools
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from absl import flags

from benchmarks import json_lines
from benchmarks.learning.reach import report
from benchmarks.learning.reach.tasks import TASKS, run
from benchmarks.pages import ROOT
from pipeline.command import run_command
from pipeline.experiment.config import UsageError
from pipeline.sweep import combinations

_TASKS = flags.DEFINE_list("tasks", list(TASKS), "Tasks to run.")
_SEEDS = flags.DEFINE_string("seeds", "0:5", "First seed and the one after the last.")
_RESULTS = flags.DEFINE_string(
    "results", "benchmarks/learning/reach/results.jsonl", "File of results, read and added to."
)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides every config, for trying things out.")
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of results.md and images/; empty writes neither.")


def main(_: list[str]) -> int:
    """Runs what is missing and writes the page."""
    if unknown := sorted(set(_TASKS.value) - set(TASKS)):
        raise UsageError(f"--tasks: {', '.join(unknown)} unknown; there are {', '.join(TASKS)}")
    seeds = combinations.seeds(_SEEDS.value)
    path = ROOT / _RESULTS.value
    done = {(result.task, result.seed) for result in report.read(path)}
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-datasets-") as datasets:
        for name, seed in itertools.product(_TASKS.value, seeds):
            if (name, seed) in done:
                continue
            result = run(name, seed, tuple(_SET.value), Path(datasets))
            json_lines.append(path, result)
            print(json.dumps({**asdict(result), "curve": len(result.curve)}), flush=True)
    if _DOCS.value:
        report.write(report.read(path), ROOT / _DOCS.value)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
