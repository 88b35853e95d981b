"""Scores the greedy policy of a finished or running run.

Example:
  python -m pipeline.evaluate --run_dir=runs/cartpole --episodes=100

The last line of stdout is JSON: mean_return, std_return, min_return, max_return, episodes, environment_steps and, of a
run with a shield, shielded_share: of the steps, those in which it stepped in; unfinished, if any, are the episodes that
had not ended after evaluation.max_episode_steps; info has the means of collect.info_keys.
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.environments import EnvironmentFault
from pipeline.evaluator.evaluation import evaluate
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.")
_POLICY = flags.DEFINE_enum("policy", "best", ["best", "latest"], "Of the evaluations so far: the best or the newest.")
_EPISODES = flags.DEFINE_integer("episodes", 100, "Full episodes to play.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the environments; the same seed plays the same episodes.", lower_bound=0)
_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)


def main(arguments: list[str]) -> int:
    """Loads the policy, plays and prints."""
    refuse_more(arguments)
    if not _RUN_DIR.value:
        raise UsageError("--run_dir is missing: which run's policy?")
    try:
        found = evaluate(
            _RUN_DIR.value,
            policy=_POLICY.value,
            episodes=_EPISODES.value,
            seed=_SEED.value,
            trust=_TRUST.value == "yes",
        )
    except EnvironmentFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    print(
        f"{_POLICY.value} policy of {_RUN_DIR.value}, from {found.environment_steps:,} environment steps, "
        f"{found.gradient_steps:,} gradient steps"
    )
    episodes = len(found.returns)
    if found.unfinished:
        print(
            f"warning: {found.unfinished} of {episodes} episodes had not ended after {found.lengths.max():,} "
            "steps and are scored as they stood; evaluation.max_episode_steps in the run's config.toml is the limit",
            file=sys.stderr,
        )
    result: dict[str, Any] = {
        "mean_return": found.mean_return,
        "std_return": found.std_return,
        "min_return": float(found.returns.min()),
        "max_return": float(found.returns.max()),
        "episodes": episodes,
        "environment_steps": found.environment_steps,
        "gradient_steps": found.gradient_steps,
    }
    if found.unfinished:
        result["unfinished"] = found.unfinished
    config = tomllib.loads(RunDirectory(Path(_RUN_DIR.value)).config.read_text())  # what has been played, as plain data
    if config.get("environment", {}).get("shield"):
        result["shielded_share"] = found.shielded_share
    numbers = {key: values[~np.isnan(values)] for key, values in found.info.items()}
    if info := {key: float(values.mean()) for key, values in numbers.items() if len(values)}:
        result["info"] = info
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
