"""A run's status as a table for a terminal: progress towards each goal, rates, memory. Pure; no TensorFlow.

Imported where there is a terminal to draw it on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from pipeline.experiment.sections import Experiment
from pipeline.monitoring.console import number, title
from pipeline.monitoring.remarks import lost, share
from pipeline.records.results import Status

_MIB = 2.0**20
_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE = 30
_TREND = 10
_BAR_WIDTH = 12


def table(experiment: Experiment, path: Path, status: Status) -> Table:
    """Everything there is to say of a run now.

    Args:
      experiment: the run.
      path: of its directory.
      status: newest.
    """
    drawn = Table(title=f"{title(experiment)}  ·  {path}", show_header=False, min_width=72)
    drawn.add_column(style="cyan", no_wrap=True)
    drawn.add_column()
    spread = "" if status.evaluation_std is None else f" ± {status.evaluation_std:.1f}"
    curve = sparkline([mean_return for _, mean_return in status.recent_evaluations])
    rows = {
        "phase": f"{status.phase}, {duration(status.train_seconds)} of training",
        "evaluation return": f"{number(status.evaluation_return)}{spread}  {curve}",
        "episode return, last 100": number(status.episode_return),
        "environment steps": f"{status.environment_steps:,}  ({status.environment_steps_per_second:,.0f}/s)",
        "gradient steps": f"{status.gradient_steps:,}  ({status.gradient_steps_per_second:,.0f}/s)",
        "samples per insert": f"{status.samples_per_insert:.1f} of {experiment.replay.samples_per_insert:g}",
        "episodes": f"{status.episodes:,}",
        "replay": f"{status.replay_size:,} of {experiment.replay.capacity:,} windows",
        "epsilon, loss": f"{status.epsilon:.3f}, {'-' if status.loss is None else f'{status.loss:.4g}'}",
        "memory": ", ".join(f"{role} {size / _MIB:.0f}" for role, size in status.resident_bytes.items()) + " MiB",
    }
    if experiment.environment.shield:
        rows["shield stepped in"] = share(status.shielded_steps, status.environment_steps)
    if losses := lost(status.account):
        rows["windows lost"] = losses
    if status.dropped_episodes:
        rows["episodes dropped"] = f"{status.dropped_episodes:,}, for faults such as: {status.newest_fault}"
    for name, value in rows.items():
        drawn.add_row(name, Text(value))
        if name == "phase":
            for goal in goals(experiment, status):
                left = goal.seconds if status.phase == "learning" else None
                drawn.add_row(f"progress, {goal.name}", _bar(goal.reached, goal.words, left))
    if status.bottleneck:
        drawn.add_row("bottleneck", Text(status.bottleneck, style="magenta"))
    for warning in status.warnings:
        drawn.add_row("warning", Text(warning, style="yellow"))
    return drawn


class StopCondition(NamedTuple):
    """Something that ends the run."""

    name: str
    words: str
    reached: float
    """Share of the way, 0 to 1."""
    seconds: float | None
    """Until it is reached; None where nothing says so."""


def goals(experiment: Experiment, status: Status) -> list[StopCondition]:
    """What ends the run.

    The time to a target return is the trend of the last ten evaluations, by least squares; to a budget, the present
    speed.
    """
    stop, found = experiment.stop, list[StopCondition]()
    if (target := stop.target_return) is not None:
        words = f"{number(status.evaluation_return)} of {target:g}"
        found.append(StopCondition("return", words, *_to_target(target, status)))
    budgets: list[tuple[str, float, float, float]] = [
        ("environment steps", stop.environment_steps, status.environment_steps, status.environment_steps_per_second),
        ("gradient steps", stop.gradient_steps, status.gradient_steps, status.gradient_steps_per_second),
        ("seconds", stop.seconds, status.train_seconds, 1.0),
    ]
    for name, budget, spent, speed in budgets:
        if budget:
            seconds = max(0.0, budget - spent) / speed if speed > 0.0 else None
            found.append(StopCondition(name, f"{spent:,.0f} of {budget:,.0f}", min(1.0, spent / budget), seconds))
    return found


def _to_target(target: float, status: Status) -> tuple[float, float | None]:
    """The share of the way from the lowest evaluation, as returns may be negative, and seconds to the target."""
    if status.evaluation_return is None:
        return 0.0, None
    lowest = min((mean_return for _, mean_return in status.recent_evaluations), default=status.evaluation_return)
    if status.evaluation_return >= target:
        return 1.0, 0.0
    return (status.evaluation_return - lowest) / (target - lowest), _seconds_to(target, status)


def _seconds_to(target: float, status: Status) -> float | None:
    newest = np.array(status.recent_evaluations[-_TREND:])
    if len(newest) < 3 or np.ptp(newest[:, 0]) <= 0.0:
        return None
    slope, at_zero = np.polyfit(newest[:, 0], newest[:, 1], 1)
    if slope <= 0.0:
        return None
    return max(0.0, float((target - at_zero) / slope) - status.train_seconds)


def _bar(reached: float, words: str, seconds: float | None) -> Text:
    done = round(reached * _BAR_WIDTH)
    left = "" if seconds is None or reached >= 1.0 else f", about {duration(seconds)}"
    bar = Text("━" * done, style="green")
    return bar.append("╌" * (_BAR_WIDTH - done), style="bright_black").append(
        f" {reached:.0%}  {words}{left}", "default"
    )


def sparkline(values: Sequence[float]) -> str:
    """The newest values, the lowest of them as the lowest bar."""
    newest = np.asarray(values[-_SPARKLINE:], np.float64)
    if len(newest) < 2:
        return ""
    height = np.ptp(newest)
    levels = (newest - newest.min()) / height * (len(_BARS) - 1) if height > 0.0 else np.zeros(len(newest))
    return "".join(_BARS[round(level)] for level in levels)


def duration(seconds: float) -> str:
    """Such as "8.5 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
