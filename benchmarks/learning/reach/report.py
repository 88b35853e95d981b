"""The file of results, and the page that is written from it."""

import statistics
from pathlib import Path

from benchmarks import json_lines
from benchmarks.learning.reach.tasks import TASKS, Result
from benchmarks.pages import table as markdown
from benchmarks.pages import write_between
from benchmarks.panels import counted, panels

_COLUMNS = 3
_PAGE = """# Results

`python -m benchmarks.learning.reach`: each config trained within its budget of environment steps, with every seed; then
its final policy (the last one evaluated in training, not the best one seen) plays 100 greedy episodes (4,000 of
FrozenLake) with seeds of their own. That one counts; `policies/best`, which evaluations in training chose and a user
would take, plays the same episodes beside it (newer rows have it). A run ends early once 500 greedy episodes are
perfect (CartPole by values), once 100 average 490 (CartPole on-policy) or 250 (LunarLander), or at the config's own
target return. Every run is in `benchmarks/learning/reach/results.jsonl`; the table and the curves are written from it.

MinAtar's reference is the training return of DQN at epsilon 0.1, read off by eye from the curves of Young and Tian
2019; ours is the greedy policy under the same sticky actions and difficulty ramping, after an update of 64 transitions
every 8 frames (theirs: 32 every frame). Of Pong these are the first 250,000 environment steps, a million frames, by
Mnih's protocol. Driving and trading have pages of their own with their baselines, [driving.md](driving.md) and
[trading.md](trading.md).

![Evaluations in training](images/reach.png)
"""


def read(path: Path) -> list[Result]:
    """The results kept so far."""
    return json_lines.read(path, Result)


def table(results: list[Result]) -> list[str]:
    """Markdown: a line a task, with every seed."""
    rows = []
    for name, task in TASKS.items():
        mine = sorted((result for result in results if result.task == name), key=lambda result: result.seed)
        if not mine:
            continue
        reached = sum(result.mean_return >= task.target and result.environment_steps <= task.steps for result in mine)
        seeds = ", ".join(f"{result.mean_return:.4g}" for result in mine)
        steps = statistics.median(result.environment_steps for result in mine)
        seconds = statistics.median(result.seconds for result in mine)
        goal = f"`{name}`", f"{task.target:g}", f"{task.steps:,}", f"{reached} of {len(mine)}"
        bests = "" if all(result.best_return is None for result in mine) else ", ".join(map(_best, mine))
        rows.append((*goal, seeds, bests, f"{steps:,.0f}", f"{seconds:.0f}", task.source))
    return markdown(
        "| task | target | within | reached | final policy, by seed | best policy, by seed | median steps | median s "
        "| beside it |",
        rows,
    )


def _best(result: Result) -> str:
    return "-" if result.best_return is None else f"{result.best_return:.4g}"


def plot(results: list[Result], path: Path) -> None:
    """A panel a task: the evaluations of every seed over environment steps."""
    shown = [name for name in TASKS if any(result.task == name for result in results)]
    with panels(path, len(shown), _COLUMNS, (14 / _COLUMNS, 3.2)) as (_, axes):
        for axis, name in zip(axes, shown, strict=True):
            for result in results:
                if result.task == name and result.curve:
                    axis.plot(*zip(*result.curve, strict=True), lw=1, label=f"seed {result.seed}")
            axis.axhline(TASKS[name].target, color="#888888", ls=":", lw=1)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("gradient steps" if TASKS[name].dataset else "environment steps", fontsize=8)
            counted(axis.xaxis)
        for axis in axes[::_COLUMNS]:
            axis.set_ylabel("mean return", fontsize=8)


def write(results: list[Result], docs: Path) -> None:
    """Writes the table into `docs/results.md`, between its marks, and the curves beside it."""
    write_between(docs / "results.md", "reach", table(results), _PAGE)
    plot(results, docs / "images" / "reach.png")
