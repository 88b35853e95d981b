"""A run's status as a screen, as a line of a log, and its result as a sentence. Pure; no TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Account
from pipeline.records.results import Status, Summary

_MIB = 2.0**20
_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE = 30
_TREND = 10
_BAR_WIDTH = 12


def screen(experiment: Experiment, path: Path, status: Status) -> Table:
    """Everything there is to say of a run now.

    Args:
      experiment: the run.
      path: of its directory.
      status: newest.
    """
    table = Table(title=f"{title(experiment)}  ·  {path}", show_header=False, min_width=72)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
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
        "replay": f"{status.replay_size:,} of {experiment.replay.capacity:,} transitions",
        "epsilon, loss": f"{status.epsilon:.3f}, {'-' if status.loss is None else f'{status.loss:.4g}'}",
        "memory": ", ".join(f"{role} {size / _MIB:.0f}" for role, size in status.resident_bytes.items()) + " MiB",
    }
    if experiment.environment.shield:
        rows["shield stepped in"] = share(status.shielded_steps, status.environment_steps)
    if losses := lost(status.account):
        rows["transitions lost"] = losses
    if status.dropped_episodes:
        rows["episodes dropped"] = f"{status.dropped_episodes:,}, for faults such as: {status.newest_fault}"
    for name, value in rows.items():
        table.add_row(name, Text(value))
        if name == "phase":
            for goal in goals(experiment, status):
                left = goal.seconds if status.phase == "learning" else None
                table.add_row(f"progress, {goal.name}", _bar(goal.reached, goal.words, left))
    if status.bottleneck:
        table.add_row("bottleneck", Text(status.bottleneck, style="magenta"))
    for warning in status.warnings:
        table.add_row("warning", Text(warning, style="yellow"))
    return table


def line(status: Status) -> str:
    """The same for a log."""
    return (
        f"{status.train_seconds:7.1f} s  {status.phase:<19}  {status.environment_steps:>9,} environment steps "
        f"({status.environment_steps_per_second:,.0f}/s)  {status.gradient_steps:>9,} gradient steps "
        f"({status.gradient_steps_per_second:,.0f}/s)  episode return {number(status.episode_return)}  "
        f"evaluation {number(status.evaluation_return)}"
    )


class Goal(NamedTuple):
    """Something that ends the run."""

    name: str
    words: str
    reached: float
    """Share of the way, 0 to 1."""
    seconds: float | None
    """Until it is reached; None where nothing says so."""


def goals(experiment: Experiment, status: Status) -> list[Goal]:
    """What ends the run.

    The time to a target return is the trend of the last ten evaluations, by least squares; to a budget, the present
    speed.
    """
    stop, found = experiment.stop, list[Goal]()
    if (target := stop.target_return) is not None:
        words = f"{number(status.evaluation_return)} of {target:g}"
        found.append(Goal("return", words, *_to_target(target, status)))
    budgets: list[tuple[str, float, float, float]] = [
        ("environment steps", stop.environment_steps, status.environment_steps, status.environment_steps_per_second),
        ("gradient steps", stop.gradient_steps, status.gradient_steps, status.gradient_steps_per_second),
        ("seconds", stop.seconds, status.train_seconds, 1.0),
    ]
    for name, budget, spent, speed in budgets:
        if budget:
            seconds = max(0.0, budget - spent) / speed if speed > 0.0 else None
            found.append(Goal(name, f"{spent:,.0f} of {budget:,.0f}", min(1.0, spent / budget), seconds))
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


def title(experiment: Experiment) -> str:
    """Its environment."""
    return experiment.environment.id or experiment.environment.import_path


def result(experiment: Experiment, summary: Summary) -> str:
    """How a run ended."""
    verdict = "ended" if experiment.stop.target_return is None else "solved" if summary.solved else "not solved"
    taken = experiment.progress(summary.environment_steps, summary.gradient_steps)
    steps = f"{taken:,} {'gradient' if experiment.is_offline else 'environment'} steps"
    mean = "none" if summary.mean_return is None else f"{summary.mean_return:.1f}"
    return (
        f"{title(experiment)} {verdict}: {steps}, "
        f"{summary.train_seconds:.1f} s of training after {summary.startup_seconds:.1f} s of start-up, "
        f"mean evaluation return {mean} (stopped by: {summary.stop_reason})"
    )


def remarks(experiment: Experiment, summary: Summary) -> list[str]:
    """What there is to add to it."""
    found = []
    if experiment.environment.shield:
        found.append(f"The shield stepped in at {share(summary.shielded_steps, summary.environment_steps)}.")
    if summary.dropped_episodes:
        found.append(
            f"{summary.dropped_episodes:,} episodes were dropped for faults; the newest: {summary.newest_fault}"
        )
    if losses := lost(summary.account):
        found.append(f"Transitions lost: {losses}.")
    return found


def lost(account: Account | None) -> str:
    """What has been lost, by what; empty if nothing has."""
    losses = {name: count for name, count in (account.lost if account else {}).items() if count}
    return ", ".join(f"{count:,} ({name})" for name, count in losses.items())


def share(shielded_steps: int, environment_steps: int) -> str:
    """Of the environment steps, in words."""
    percent = 100.0 * shielded_steps / max(1, environment_steps)
    return f"{shielded_steps:,} of {environment_steps:,} environment steps ({percent:.2f} %)"


def number(value: float | None) -> str:
    """With one digit, or a dash for None."""
    return "-" if value is None else f"{value:.1f}"
