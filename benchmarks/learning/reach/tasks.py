"""The tasks, and one run of one: trains a config within its budget and scores the final policy."""

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

import pipeline
from agents.struct_types import prepared
from pipeline.acting import stored_policies
from pipeline.evaluator.evaluation import play
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.results import Summary

SEED = 12_345
"""Of the episodes that score."""


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Attributes:
      config: shipped.
      target: mean return of the final policy over the greedy episodes.
      steps: environment steps within which it is to be reached.
      source: of the target.
      lines: of TOML that override the config.
      dataset: config of the run whose replay is learned from; empty of a task with collectors.
      dataset_lines: of TOML that override that run's config.
      episodes: that score the final policy.
    """

    config: str
    target: float
    steps: int
    source: str
    lines: tuple[str, ...] = ()
    dataset: str = ""
    dataset_lines: tuple[str, ...] = ()
    episodes: int = 100


CARTPOLES = (
    "cartpole",
    "cartpole_dqn",
    "cartpole_munchausen",
    "cartpole_c51",
    "cartpole_rainbow",
    "cartpole_qr_dqn",
    "cartpole_iqn",
    "cartpole_btr",
)
ON_POLICY = ("cartpole_ppo", "cartpole_reinforce", "cartpole_pqn")
OFFLINE = ("cartpole_cql", "cartpole_iql", "cartpole_behaviour_cloning")
FULL = ("stop.target_return=500", "evaluation.episodes=500")  # stops once 500 greedy episodes are perfect
WHOLE = ("stop.target_return=1e9",)  # a run that stops at its target has seen little of what it was learning
NEARLY_FULL = ("stop.target_return=490", "evaluation.episodes=100")
HIDDEN_VELOCITIES = (
    'environment.id=""',
    'environment.import_path="pipeline.environments.classic:PositionCartPole"',
    "stop.target_return=1e9",
)
TASKS = {
    **{name: Task(name, 500.0, 50_000, "the largest return there is", FULL) for name in CARTPOLES},
    **{name: Task(name, 475.0, 300_000, "the return that gymnasium calls solved", NEARLY_FULL) for name in ON_POLICY},
    **{
        name: Task(
            name,
            475.0,
            120_000,
            "the return that gymnasium calls solved; the data are the replay of a whole run of `cartpole`",
            dataset="cartpole",
            dataset_lines=WHOLE,
        )
        for name in OFFLINE
    },
    "acrobot": Task("acrobot", -85.0, 100_000, "RL Baselines3 Zoo, one tuned model each: QR-DQN -69.1, DQN -76.6"),
    "mountaincar": Task("mountaincar", -110.0, 120_000, "RL Baselines3 Zoo, tuned DQN: -100.8"),
    "lunarlander": Task(
        "lunarlander",
        200.0,
        500_000,
        "the return that gymnasium calls solved",
        ("stop.target_return=250", "evaluation.episodes=100"),
    ),
    "frozenlake": Task(
        "frozenlake",
        0.7293,  # of a mean of 0 and 1: 100 episodes would tell it to 9 %, 4,000 to 1.4 %
        250_000,
        "98 % of the optimum within 100 steps, 0.744, by value iteration; 4,000 episodes",
        episodes=4_000,
    ),
    "bipedalwalker": Task("bipedalwalker", 300.0, 300_000, "the return that gymnasium calls solved"),
    "deep_sea": Task(
        "deep_sea", 0.99, 20_000, "the best return there is; actions at random find it once in 1,024 episodes"
    ),
    **{
        f"minatar_{name}": Task(
            f"minatar_{name}",
            target,
            5_000_000,
            "DQN in the curves of Young and Tian 2019, by eye; their training episodes, epsilon 0.1",
        )
        for name, target in {"breakout": 10.0, "asterix": 17.0, "freeway": 50.0, "pqn": 10.0}.items()
    },
    "highway": Task(
        "highway",
        15.3,
        20_000,
        "always idle 12.6 and three standard errors above it; at random 7.6 (driving.md)",
    ),
    "pong": Task(
        "pong",
        18.9,
        250_000,
        "Mnih et al. 2015 after 200 million frames; this is the first million",
        episodes=30,
    ),
    "memory": Task("cartpole_memory", 400.0, 400_000, "the same task without memory, below"),
    "memory_by_dqn": Task("cartpole", 400.0, 400_000, "to fail: it has no memory", HIDDEN_VELOCITIES),
}


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
      task: a key of `TASKS`.
      seed: of the run.
      mean_return: of the final policy over the task's greedy episodes.
      environment_steps: taken in training, or by the run that made the dataset.
      seconds: of training.
      curve: environment steps (of a task with a dataset gradient steps) and mean return of each evaluation in training.
      best_return: mean return of `policies/best`, which training chose by its evaluations, over the same episodes; None
        of runs made before this was measured.
    """

    task: str
    seed: int
    mean_return: float
    environment_steps: int
    seconds: float
    curve: list[tuple[int, float]]
    best_return: float | None = None


def run(name: str, seed: int, lines: tuple[str, ...], datasets: Path) -> Result:
    """Trains one seed of a task within its budget and scores its final policy, and the best one beside it.

    Args:
      name: a key of `TASKS`.
      seed: of the run, and of the one that makes its dataset.
      lines: of TOML that override the task's config, not that of its dataset.
      datasets: folder of the runs that datasets are of: tasks of one dataset and seed learn from the same run.
    """
    task = TASKS[name]
    # Collectors take some steps more before they hear of the end; those are to be within the budget too.
    budget = (f"stop.environment_steps={int(task.steps * 0.95)}", "collect.report_seconds=0.05")
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        overrides, taken = (*budget, *task.lines, *lines), 0
        if task.dataset:
            data = pipeline.load(task.dataset, (*budget, *task.dataset_lines), seed)
            source = datasets / "-".join((task.dataset, str(seed), *budget, *task.dataset_lines))
            if not source.exists():
                pipeline.train(data, source)
            made = msgspec.json.decode(RunDirectory(source).summary.read_bytes(), type=prepared(Summary))
            taken = made.environment_steps
            overrides = (*task.lines, *lines, f"offline.dataset={json.dumps(str(source))}")
        experiment = pipeline.load(task.config, overrides, seed)
        directory = RunDirectory(Path(folder) / "run")
        summary = pipeline.train(experiment, directory.path)
        last, best = (
            statistics.fmean(play(experiment, stored_policies.load(kept), task.episodes, SEED).returns)
            for kept in (directory.policies / "latest", directory.policies / "best")
        )
        curve = _curve(directory.tensorboard)
    seconds = round(summary.train_seconds, 1)
    return Result(name, seed, last, taken + summary.environment_steps, seconds, curve, best)


def _curve(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})  # all of them, not a sample of ten
    events.Reload()
    points = events.Tensors("evaluation/mean_return")
    return [(int(point.step), round(float(make_ndarray(point.tensor_proto)), 3)) for point in points]
