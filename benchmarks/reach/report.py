"""The file of results, and the page that is written from it."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.pages import write_between
from benchmarks.reach.tasks import TASKS, Result

_PAGE = """# Results

`python -m benchmarks.reach`: each config trained within its budget of environment steps, with every seed; then its
final policy (the last one evaluated in training, not the best one seen) plays 100 greedy episodes (4,000 of FrozenLake)
with seeds of their own. A run ends early once 500 greedy episodes are perfect (CartPole by values), once 100 average
490 (CartPole on-policy) or 250 (LunarLander), or at the config's own target return. Every run is in
`benchmarks/reach/results.jsonl`; the table and the curves are written from it.

MinAtar's reference is the training return of DQN at epsilon 0.1, read off by eye from the curves of Young and Tian
2019; ours is the greedy policy under the same sticky actions and difficulty ramping, after an update of 64 transitions
every 8 frames (theirs: 32 every frame). Of Pong these are the first 250,000 environment steps, a million frames, by
Mnih's protocol. Driving and trading have pages of their own with their baselines, [driving.md](driving.md) and
[trading.md](trading.md).

![Evaluations in training](images/reach.png)
"""


def read(path: Path) -> list[Result]:
    """The results kept so far."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]


def add(path: Path, result: Result) -> None:
    """Appends a result."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


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
    write_between(docs / "results.md", "reach", table(results), _PAGE)
    plot(results, docs / "images" / "reach.png")
