"""What the shipped configs reach, every seed counted: trains each, scores the final policy, writes docs/results.md.

Example:
  python -m benchmarks.reach --tasks=cartpole_c51,acrobot --seeds=0:5

Runs that the file of results has are not run again.
"""

import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from absl import flags

import pipeline
from pipeline import policies
from pipeline.command import run_command
from pipeline.config import UsageError
from pipeline.evaluator import play
from pipeline.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- reach: begin -->", "<!-- reach: end -->"
SEED = 12_345
_PAGE = """# Results

`python -m benchmarks.reach`: each config trained within its budget of environment steps, with every seed; then its
final policy (the weights it ended with, not the best ones seen) plays 100 greedy episodes (4,000 of FrozenLake) with
seeds of their own. Every run is in `benchmarks/reach.jsonl`; the table and the curves are written from it.

![Evaluations in training](images/reach.png)
"""


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
      episodes: that score the final policy.
    """

    config: str
    target: float
    steps: int
    source: str
    lines: tuple[str, ...] = ()
    dataset: str = ""
    episodes: int = 100


CARTPOLES = (
    "cartpole",
    "cartpole_dqn",
    "cartpole_munchausen",
    "cartpole_c51",
    "cartpole_rainbow",
    "cartpole_qr_dqn",
    "cartpole_iqn",
)
ON_POLICY = ("cartpole_ppo", "cartpole_reinforce")
OFFLINE = ("cartpole_cql", "cartpole_behaviour_cloning")
FULL = ("stop.target_return=500", "evaluation.episodes=100")  # stops once 100 greedy episodes are perfect
HIDDEN_VELOCITIES = (
    'environment.id=""',
    'environment.import_path="pipeline.environments.classic:PositionCartPole"',
    "stop.target_return=1e9",
)
TASKS = {
    **{name: Task(name, 500.0, 50_000, "the largest return there is", FULL) for name in CARTPOLES},
    **{name: Task(name, 475.0, 300_000, "the return that gymnasium calls solved") for name in ON_POLICY},
    **{
        name: Task(name, 475.0, 120_000, "what the run that made the dataset stops at, if it does", dataset="cartpole")
        for name in OFFLINE
    },
    "acrobot": Task("acrobot", -85.0, 100_000, "RL Baselines3 Zoo, tuned DQN: -76.6"),
    "mountaincar": Task("mountaincar", -110.0, 120_000, "RL Baselines3 Zoo, tuned DQN: -100.8"),
    "lunarlander": Task("lunarlander", 200.0, 500_000, "the return that gymnasium calls solved"),
    "frozenlake": Task(
        "frozenlake",
        0.7293,  # of a mean of 0 and 1: 100 episodes would tell it to 9 %, 4,000 to 1.4 %
        200_000,
        "98 % of the optimum within 100 steps, 0.744, by value iteration; 4,000 episodes",
        episodes=4_000,
    ),
    "memory": Task("cartpole_memory", 400.0, 300_000, "the same task without memory, below"),
    "memory_by_dqn": Task("cartpole", 400.0, 300_000, "to fail: it has no memory", HIDDEN_VELOCITIES),
}

_TASKS = flags.DEFINE_list("tasks", list(TASKS), "Tasks to run.")
_SEEDS = flags.DEFINE_string("seeds", "0:5", "First seed and the one after the last.")
_RESULTS = flags.DEFINE_string("results", "benchmarks/reach.jsonl", "File of results, read and added to.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides every config, for trying things out.")
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of results.md and images/; empty writes neither.")


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
    """

    task: str
    seed: int
    mean_return: float
    environment_steps: int
    seconds: float
    curve: list[tuple[int, float]]


def run(name: str, seed: int, lines: tuple[str, ...]) -> Result:
    """Trains one seed of a task within its budget and scores its final policy."""
    task = TASKS[name]
    # Collectors take some steps more before they hear of the end; those are to be within the budget too.
    budget = f"stop.environment_steps={int(task.steps * 0.95)}"
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        overrides, taken = (budget, *task.lines, *lines), 0
        if task.dataset:
            source = Path(folder) / "source"
            taken = pipeline.train(pipeline.load(task.dataset, overrides, seed), source).environment_steps
            overrides = (*task.lines, *lines, f"offline.dataset={json.dumps(str(source))}")
        experiment = pipeline.load(task.config, overrides, seed)
        directory = RunDirectory(Path(folder) / "run")
        summary = pipeline.train(experiment, directory.path)
        returns = play(experiment, policies.load(directory.policies / "latest"), task.episodes, SEED)
        curve = _curve(directory.tensorboard / "evaluator")
    seconds = round(summary.train_seconds, 1)
    return Result(name, seed, statistics.fmean(returns), taken + summary.environment_steps, seconds, curve)


def _curve(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder))
    events.Reload()
    points = events.Tensors("evaluation/mean_return")
    return [(int(point.step), round(float(make_ndarray(point.tensor_proto)), 3)) for point in points]


def read(path: Path) -> list[Result]:
    """The results kept so far."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]


def table(results: list[Result]) -> list[str]:
    """Markdown: a line a task, with every seed."""
    lines = [
        "| task | target | within | reached | final policy, by seed | median steps | median s | beside it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, task in TASKS.items():
        mine = sorted((result for result in results if result.task == name), key=lambda result: result.seed)
        if not mine:
            continue
        reached = sum(result.mean_return >= task.target and result.environment_steps <= task.steps for result in mine)
        seeds = ", ".join(f"{result.mean_return:.4g}" for result in mine)
        steps = statistics.median(result.environment_steps for result in mine)
        seconds = statistics.median(result.seconds for result in mine)
        lines.append(
            f"| `{name}` | {task.target:g} | {task.steps:,} | {reached} of {len(mine)} | {seeds} | {steps:,.0f} "
            f"| {seconds:.0f} | {task.source} |"
        )
    return lines


def plot(results: list[Result], path: Path) -> None:
    """A panel a task: the evaluations of every seed over environment steps."""
    shown = [name for name in TASKS if any(result.task == name for result in results)]
    grid, axes = plt.subplots(-(-len(shown) // 3), 3, figsize=(14, 3.2 * -(-len(shown) // 3)), squeeze=False)
    for axis, name in zip(axes.flat, shown, strict=False):
        for result in results:
            if result.task == name and result.curve:
                axis.plot(*zip(*result.curve, strict=True), lw=1, label=f"seed {result.seed}")
        axis.axhline(TASKS[name].target, color="#888888", ls=":", lw=1)
        axis.set_title(f"{name} (gradient steps)" if TASKS[name].dataset else name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_visible(False)
    grid.supxlabel("environment steps", fontsize=9)
    grid.supylabel("mean return of the evaluation", fontsize=9)
    grid.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.savefig(path, dpi=90)
    plt.close(grid)


def write(results: list[Result], docs: Path) -> None:
    """Writes the table into `docs/results.md`, between its marks, and the curves beside it."""
    path = docs / "results.md"
    text = path.read_text() if path.exists() else f"{_PAGE}\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    path.write_text("\n".join([before + BEGIN, "", *table(results), "", END + rest.split(END, 1)[1]]))
    plot(results, docs / "images" / "reach.png")


def main(_: list[str]) -> int:
    """Runs what is missing and writes the page."""
    if unknown := sorted(set(_TASKS.value) - set(TASKS)):
        raise UsageError(f"--tasks: {', '.join(unknown)} unknown; there are {', '.join(TASKS)}")
    first, _, end = _SEEDS.value.partition(":")
    path = ROOT / _RESULTS.value
    done = {(result.task, result.seed) for result in read(path)}
    for name in _TASKS.value:
        for seed in range(int(first), int(end)):
            if (name, seed) not in done:
                result = run(name, seed, tuple(_SET.value))
                with path.open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
                shown: dict[str, Any] = {**asdict(result), "curve": len(result.curve)}
                print(json.dumps(shown), flush=True)
    if _DOCS.value:
        write(read(path), ROOT / _DOCS.value)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
