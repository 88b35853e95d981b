"""Trains the trading configs with every seed and sets them beside their baselines, in docs/trading.md.

Example:
  python -m benchmarks.learning.trading --configs=trading,trading_forex --seeds=0:5
  python -m benchmarks.learning.trading --run_dir=runs/mine   # a run of your own: prints its table, writes nothing

The decisions of every seed are kept in the file of results, and what that has is not trained again. Tables and curves
come from walking the environment through them. What acts is the final policy: the best one was chosen by the held-out
period itself.
"""

import sys
import tempfile
from pathlib import Path

import msgspec
from absl import flags

import pipeline
from benchmarks import json_lines
from benchmarks.learning.trading import report
from benchmarks.learning.trading.walks import PERIODS, Decisions, decisions_of
from benchmarks.pages import ROOT
from pipeline.acting import stored_policies
from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.sweep import combinations

CONFIGS = ("trading", "trading_forex")
_CONFIGS = flags.DEFINE_list("configs", list(CONFIGS), "Shipped configs to train.")
_SEEDS = flags.DEFINE_string("seeds", "0:5", "First seed and the one after the last.")
_RUN_DIR = flags.DEFINE_string("run_dir", "", "A run to set beside its baselines, in place of training.")
_RESULTS = flags.DEFINE_string(
    "results", "benchmarks/learning/trading/results.jsonl", "File of decisions, read and added to."
)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides every config, for trying things out.")
_COINS = flags.DEFINE_integer("coins", 100, "Random policies of each kind.", lower_bound=2)
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of trading.md and images/; empty writes neither.")


def main(arguments: list[str]) -> int:
    """Trains what is missing and writes the page, or reports one run."""
    refuse_more(arguments)
    if _RUN_DIR.value:
        run = RunDirectory(Path(_RUN_DIR.value))
        experiment = run.experiment()
        _refuse_others(_RUN_DIR.value, experiment)
        decisions = _decisions(run, experiment, _RUN_DIR.value)
        print("\n".join(report.table(report.section(_RUN_DIR.value, experiment, [decisions], _COINS.value))))
        return 0
    seeds = combinations.seeds(_SEEDS.value)
    experiments = {name: pipeline.load(name, tuple(_SET.value)) for name in _CONFIGS.value}
    for name, experiment in experiments.items():
        _refuse_others(name, experiment)
    path = ROOT / _RESULTS.value
    done = {(one.config, one.seed) for one in json_lines.read(path, Decisions)}
    for name, experiment in experiments.items():
        for seed in seeds:
            if (name, seed) not in done:
                json_lines.append(path, train(name, msgspec.structs.replace(experiment, seed=seed)))
    kept = json_lines.read(path, Decisions)
    sections = []
    for name, experiment in experiments.items():
        if mine := sorted((one for one in kept if one.config == name), key=lambda one: one.seed):
            sections.append(report.section(name, experiment, mine, _COINS.value))
            print("\n".join([f"{name}:", *report.table(sections[-1]), ""]), flush=True)
    if _DOCS.value:
        report.write(sections, ROOT / _DOCS.value)
    return 0


def train(name: str, experiment: Experiment) -> Decisions:
    """Trains one seed and lets its final policy decide over both periods."""
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        run = RunDirectory(Path(folder) / "run")
        pipeline.train(experiment, run.path)
        return _decisions(run, experiment, name)


def _decisions(run: RunDirectory, experiment: Experiment, name: str) -> Decisions:
    policy = stored_policies.load(run.policies / "latest")
    training, held_out = (decisions_of(experiment, policy, period) for period in PERIODS)
    return Decisions(name, experiment.seed, training, held_out)


def _refuse_others(name: str, experiment: Experiment) -> None:
    if not experiment.environment.id.startswith("Trading/"):
        raise UsageError(f"{name} is no trading: its environment is {experiment.environment.id!r}")


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
