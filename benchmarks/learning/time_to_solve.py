"""Seconds and environment steps until CartPole-v1 is solved, one run a seed, as `make train` runs it.

Example:
  python -m benchmarks.learning.time_to_solve --seeds=0,1,2,3,4
"""

import sys
import tempfile
from pathlib import Path

from absl import flags

import pipeline
from benchmarks.measure import median, print_result
from pipeline.command import run_command

_CONFIG = flags.DEFINE_string("config", "cartpole", "Path of a config, or the name of a shipped one.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds, one run each.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config.")


def main(_: list[str]) -> int:
    """Runs each seed to its end."""
    summaries = []
    for seed in _SEEDS.value:
        experiment = pipeline.load(_CONFIG.value, tuple(_SET.value), int(seed))
        with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
            summaries.append(pipeline.train(experiment, Path(folder) / "run"))
    seconds = [summary.train_seconds for summary in summaries]
    steps = [float(summary.environment_steps) for summary in summaries]
    print_result(
        {
            "config": _CONFIG.value,
            "solved": f"{sum(summary.solved for summary in summaries)} of {len(summaries)}",
            "median_train_seconds": median(seconds),
            "train_seconds": [round(value, 2) for value in seconds],
            "environment_steps": steps,
            "gradient_steps": [summary.gradient_steps for summary in summaries],
            "startup_seconds": [round(summary.startup_seconds, 2) for summary in summaries],
            "mean_return": [summary.mean_return for summary in summaries],
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
