"""Drives the same episodes at random, idly, and by trained agents without and with shields; writes docs/driving.md.

Example:
  python -m pipeline.train --config=highway --run_dir=runs/highway
  python -m pipeline.train --config=highway_shielded --run_dir=runs/highway_shielded
  python -m benchmarks.learning.driving --run_dirs=runs/highway,runs/highway_shielded
"""

import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from absl import flags
from numpy.typing import NDArray

from agents import Specs
from agents.exploration import greedy
from benchmarks.pages import ROOT, write_between
from pipeline import environments
from pipeline.acting import policy_files, stored_policies
from pipeline.command import refuse_more, run_command
from pipeline.environments import suite_of
from pipeline.environments.driving_shield import IDLE
from pipeline.evaluator.evaluator import PolicyActor
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import EnvironmentConfig, Experiment

_SHIELDS = [f"pipeline.environments.driving_shield:{name}" for name in ("no_occupied_lane_change", "safe_manoeuvres")]
_RUN_DIRS = flags.DEFINE_list("run_dirs", [], "Runs whose agents drive; of one task, with a shield in training or not.")
_POLICY = flags.DEFINE_enum("policy", "latest", ["best", "latest"], "Of each run: the newest, or the best evaluated.")
_SHIELD = flags.DEFINE_list("shields", _SHIELDS, "`module:function`s put on those trained without one.")
_EPISODES = flags.DEFINE_integer("episodes", 100, "That each of them drives.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 500_000, "Of the first episode; the next one has the next.", lower_bound=0)
_PAGE = flags.DEFINE_string("page", "docs/driving.md", "Markdown whose table is written; empty prints alone.")

Scores = Callable[[dict[str, NDArray[Any]], bool], NDArray[np.float32]]
"""From an observation [1, ...] by leaf name, and whether it begins an episode, to float32 [1, actions]: the best
action is taken."""


@dataclass(frozen=True)
class Drive:
    """One episode.

    Attributes:
      total: undiscounted return.
      crashed: whether it ended so.
      speeds: after each step, in metres a second.
      overruled: steps in which the shield forbade the action that would have been taken.
    """

    total: float
    crashed: bool
    speeds: list[float]
    overruled: int


def drives(config: EnvironmentConfig, scores: Scores, episodes: int, seed: int) -> Iterator[Drive]:
    """Drives that many episodes, the same ones by the same seed whoever drives."""
    environment = environments.make(msgspec.structs.replace(config, vectorization="sync"), 1)
    (lane,) = environment.vector.envs  # type: ignore[attr-defined]
    for episode in range(episodes):
        seen = environment.reset(seed + episode)
        speeds: list[float] = []
        total, overruled, begins = 0.0, 0, True
        while not environment.any_resetting:
            values = scores(seen.observation, begins)
            begins = False
            overruled += environment.overruled(values)
            seen = environment.step(greedy(values, seen.mask))
            total += float(seen.reward[0])
            speeds.append(float(lane.unwrapped.vehicle.speed))
        yield Drive(total, bool(lane.unwrapped.vehicle.crashed), speeds, overruled)
    environment.close()


def idle(specs: Specs) -> Scores:
    """Keeps lane and speed."""
    values = np.eye(specs.num_actions, dtype=np.float32)[[IDLE]]
    return lambda _, __: values


def at_random(specs: Specs, seed: int) -> Scores:
    """Uniform over the actions that are allowed."""
    random = np.random.default_rng(seed)
    return lambda _, __: random.random((1, specs.num_actions), np.float32)


def agent(experiment: Experiment, specs: Specs, policy: policy_files.Policy) -> Scores:
    """The greedy policy of a run."""
    actor = PolicyActor(experiment, specs, policy, lanes=1)
    return lambda observation, begins: actor.scores(observation, np.array([begins]))


def row(name: str, shield: str, driven: list[Drive]) -> str:
    """A line of the table."""
    totals = [drive.total for drive in driven]
    speeds = [speed for drive in driven for speed in drive.speeds]
    error = statistics.stdev(totals) / math.sqrt(len(totals))
    label = f"`{_function(shield)}`" if shield else "-"
    overruled = f"{sum(drive.overruled for drive in driven) / len(speeds):.1%}" if shield else "-"
    return (
        f"| {name} | {label} | {statistics.fmean(totals):.2f} ± {error:.2f} "
        f"| {len(speeds) / len(driven):.1f} | {statistics.fmean(drive.crashed for drive in driven):.0%} "
        f"| {statistics.fmean(speeds):.1f} | {overruled} |"
    )


def _function(import_path: str) -> str:
    return import_path.partition(":")[2]


def table(runs: list[Path]) -> list[str]:
    """Markdown: what was driven, and a line for each who drove.

    Raises:
      UsageError: a run is not there, has no policy yet, or is of another task than the first.
    """
    experiments = [RunDirectory(path).experiment() for path in runs]
    tasks = [msgspec.structs.replace(experiment.evaluation_environment, shield="") for experiment in experiments]
    task = tasks[0]
    suite = suite_of(task.id)
    if suite is None or suite.extra != "driving" or any(other != task for other in tasks):
        raise UsageError("--run_dirs: the runs have to be of one driving task, with the same environment.kwargs")
    specs = environments.describe(task)
    with_shields = ["", *_SHIELD.value]
    drivers: list[tuple[str, Scores, list[str]]] = [
        ("random", at_random(specs, _SEED.value), with_shields),
        ("idle", idle(specs), [""]),
    ]
    for path, experiment in zip(runs, experiments, strict=True):
        policy = stored_policies.load(RunDirectory(path).policies / _POLICY.value)
        own = experiment.environment.shield
        name = f"{experiment.agent.kind}, seed {experiment.seed}, {policy.environment_steps:,} steps"
        name += f", trained with `{_function(own)}`" if own else ""
        drivers.append((name, agent(experiment, specs, policy), [own] if own else with_shields))
    lines = [
        f"`{task.id}`, `environment.kwargs = {msgspec.json.encode(task.kwargs).decode()}`, {_EPISODES.value} episodes "
        f"by the seeds from {_SEED.value}, the same for every line, greedily by each run's {_POLICY.value} policy.",
        "",
        "| driver | shield | return | steps | crashed | speed, m/s | shield stepped in |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores, shields in drivers:
        for shield in shields:
            config = msgspec.structs.replace(task, shield=shield)
            lines.append(row(name, shield, list(drives(config, scores, _EPISODES.value, _SEED.value))))
            print(lines[-1], flush=True)
    return lines


def main(arguments: list[str]) -> int:
    """Drives, prints and writes."""
    refuse_more(arguments)
    if not _RUN_DIRS.value:
        raise UsageError("--run_dirs is missing: whose agents are to drive?")
    lines = table([Path(path) for path in _RUN_DIRS.value])
    if _PAGE.value:
        write_between(ROOT / _PAGE.value, "driving", lines)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
