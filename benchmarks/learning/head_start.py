"""Environment steps until a task is solved: from nothing, from another run's weights, and beside demonstrations.

Example:
  python -m benchmarks.learning.head_start --out=head_start --seeds=0:5

`cartpole` is begun from nothing, and from the policy of a run on CartPole-v1 of 100 steps. `mountaincar` is learned
without a bonus for novelty, by a network of 64 and 64 units: from nothing, from the policy of a run whose episodes had
1,000 steps in the place of 200, with half of each batch from 200 demonstrations (RLPD), and with a quarter and DQfD's
loss, from first weights or after 2,000 gradient steps on the demonstrations alone. These are of a rule, to push the way
that the car moves, with one action in ten at random. Results that the folder has are not made again.
"""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import gymnasium
import msgspec
import numpy as np
from absl import flags

import pipeline
from benchmarks import json_lines
from pipeline import environments
from pipeline.command import run_command
from pipeline.datasets import datasets, tfrecord_format
from pipeline.datasets.datasets import Columns, Selection
from pipeline.datasets.stored_frames import EpisodePart
from pipeline.experiment.config import UsageError
from pipeline.records.results import Summary
from pipeline.replay.frames import FrameLayout
from pipeline.sweep import combinations

_OUT = flags.DEFINE_string("out", None, "Folder of runs and results, read and added to.")
_SEEDS = flags.DEFINE_string("seeds", "0:5", "First seed and the one after the last.")
_ARMS = flags.DEFINE_list("arms", [], "Those to run; empty runs all.")

_SOURCE_SEED = 1_000
_EPISODES = 200
_RANDOM = 0.1
_CARTPOLE = ("evaluation.every_steps=1_000", "evaluation.images=false", "stop.environment_steps=60_000")
_MOUNTAINCAR = (
    "exploration.count_bonus=0.0",
    "exploration.epsilon_decay_steps=10_000",
    "agent.hidden_units=[64, 64]",
    "agent.learning_rate_decay_steps=10_000",
    "evaluation.every_steps=1_000",
    "evaluation.images=false",
    "stop.target_return=-115.0",
    "stop.environment_steps=20_000",
)
_LOSS = ("agent.margin=0.8", "agent.one_step_weight=1.0", "agent.l2_weight=1e-5")
_DEMONSTRATIONS = 'offline.dataset="{out}/demonstrations"'
_DQFD = (*_LOSS, _DEMONSTRATIONS, "offline.share=0.25", "exploration.epsilon_initial=0.1")


class Arm(NamedTuple):
    """One way to learn a task."""

    config: str
    lines: tuple[str, ...]
    is_pretrained: bool = False
    """Whether each run begins with the weights of one of `OFFLINE`."""


EASIER = {
    "easier": Arm("cartpole", (*_CARTPOLE, "environment.max_episode_steps=100", "stop.target_return=99.0")),
    "longer": Arm(
        "mountaincar",
        (
            *_MOUNTAINCAR,
            "environment.max_episode_steps=1_000",
            "agent.learning_rate_decay_steps=40_000",
            "stop.target_return=-130.0",
            "stop.environment_steps=60_000",
        ),
    ),
}
"""Runs whose policies others begin with, by their folder."""
ARMS = {
    "cartpole from nothing": Arm("cartpole", _CARTPOLE),
    "cartpole from the easier one": Arm(
        "cartpole", (*_CARTPOLE, 'agent.initial_policy="{out}/easier"', "exploration.epsilon_initial=0.1")
    ),
    "mountaincar from nothing": Arm("mountaincar", _MOUNTAINCAR),
    "mountaincar from longer episodes": Arm(
        "mountaincar", (*_MOUNTAINCAR, 'agent.initial_policy="{out}/longer"', "exploration.epsilon_initial=0.1")
    ),
    "mountaincar, half of each batch": Arm("mountaincar", (*_MOUNTAINCAR, _DEMONSTRATIONS, "offline.share=0.5")),
    "mountaincar, a quarter and DQfD's loss": Arm("mountaincar", (*_MOUNTAINCAR, *_DQFD)),
    "mountaincar, DQfD": Arm("mountaincar", (*_MOUNTAINCAR, *_DQFD), is_pretrained=True),
}
OFFLINE = Arm("mountaincar", (*_MOUNTAINCAR, *_LOSS, _DEMONSTRATIONS, "stop.gradient_steps=2_000"))
"""What DQfD begins with."""


class Result(msgspec.Struct, frozen=True):
    """One run."""

    arm: str
    seed: int
    solved: bool
    environment_steps: int
    best_mean_return: float
    mean_return: float
    """Of the last evaluation."""


def demonstrate(folder: Path) -> None:
    """Writes episodes of MountainCar-v0 that follow the rule, as a dataset in files."""
    experiment = pipeline.load("mountaincar")
    layout = FrameLayout.of(experiment, environments.describe(experiment.environment))
    environment = gymnasium.make(experiment.environment.id)
    random, parts = np.random.default_rng(_SOURCE_SEED), list[EpisodePart]()
    for episode in range(_EPISODES):
        observations, actions, rewards = [environment.reset(seed=_SOURCE_SEED + episode)[0]], list[int](), list[float]()
        terminated = truncated = False
        while not (terminated or truncated):
            action = 2 if observations[-1][1] >= 0.0 else 0
            actions.append(int(random.integers(3)) if random.random() < _RANDOM else action)
            observation, reward, terminated, truncated, _ = environment.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
        ends = np.zeros(len(actions), np.bool_)
        ends[-1] = terminated
        columns = Columns({"": np.stack(observations)}, None, np.array(actions), np.array(rewards), ends)
        parts.append(EpisodePart(datasets.frames(layout, columns), ""))
    folder.mkdir(parents=True)
    described = msgspec.to_builtins(experiment.environment)
    tfrecord_format.write(folder, layout, Selection(parts, {}), whole_episodes=True, environment=described)


def train(arm: Arm, out: Path, folder: str, seed: int, *more: str) -> Summary:
    """Runs an arm in this process."""
    lines = tuple(line.replace("{out}", str(out)) for line in (*arm.lines, *more))
    return pipeline.train(pipeline.load(arm.config, lines, seed), out / folder, launcher="inline")


def run(name: str, out: Path, seed: int) -> Result:
    """Runs an arm with a seed, and what it begins with."""
    arm, folder, more = ARMS[name], f"runs/{name.replace(' ', '_')}/{seed}", tuple[str, ...]()
    if arm.is_pretrained:
        train(OFFLINE, out, f"{folder}.offline", seed)
        more = (f'agent.initial_policy="{out}/{folder}.offline"',)
    summary = train(arm, out, folder, seed, *more)
    assert summary.best_mean_return is not None
    assert summary.mean_return is not None
    steps, best = summary.environment_steps, summary.best_mean_return
    return Result(name, seed, summary.solved, steps, best, summary.mean_return)


def table(results: list[Result]) -> str:
    """Each arm's runs in a line of Markdown."""
    lines = ["| learned | solved | environment steps, median (all) | best evaluation, mean |", "|---|---|---|---|"]
    for name in ARMS:
        if not (
            runs := sorted((each for each in results if each.arm == name), key=lambda each: each.environment_steps)
        ):
            continue
        steps = ", ".join(f"{each.environment_steps:,}{'' if each.solved else ' (not)'}" for each in runs)
        middle = statistics.median(each.environment_steps for each in runs)
        best = statistics.fmean(each.best_mean_return for each in runs)
        solved = sum(each.solved for each in runs)
        lines.append(f"| {name} | {solved} of {len(runs)} | {middle:,.0f} ({steps}) | {best:.1f} |")
    return "\n".join(lines)


def main(_: list[str]) -> int:
    """Runs what is missing and prints the table."""
    if not _OUT.value:
        raise UsageError("--out is missing: where are the runs to be?")
    if unknown := sorted(set(_ARMS.value) - set(ARMS)):
        raise UsageError(f"--arms: {', '.join(unknown)} unknown; there are {', '.join(ARMS)}")
    out = Path(_OUT.value).resolve()
    wanted = _ARMS.value or list(ARMS)
    for folder, arm in EASIER.items():
        is_read = any(f'{{out}}/{folder}"' in line for name in wanted for line in ARMS[name].lines)
        if is_read and not (out / folder).exists():
            train(arm, out, folder, _SOURCE_SEED)
    if not (out / "demonstrations").exists():
        demonstrate(out / "demonstrations")
    path = out / "results.jsonl"
    done = {(result.arm, result.seed) for result in json_lines.read(path, Result)}
    for seed in combinations.seeds(_SEEDS.value):
        for name in wanted:
            if (name, seed) not in done:
                json_lines.append(path, run(name, out, seed))
    print(table(json_lines.read(path, Result)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
