"""Drawing learning curves."""

from pathlib import Path

import numpy as np

from pipeline.comparison.comparison import Comparison
from pipeline.experiment.config import UsageError

SUFFIXES = (".png", ".svg", ".pdf")
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that the colour-blind tell apart (Okabe and Ito); after the last one, again with dashes."""
_STYLES = ("-", "--", ":", "-.")
_MOST_SINGLE_CURVES = 10
"""How many runs of a group are drawn; more would hide the group's own curve."""
_MARGIN = 0.05


def refuse_path(path: Path) -> None:
    """Refuses a path that no figure can be written to.

    Raises:
      UsageError: says why.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out={path}: the name of a figure ends in {', '.join(SUFFIXES)}")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"--out={path} cannot be: {parent} is a file")


def draw(comparison: Comparison, path: Path) -> None:
    """Draws each group's center and interval, and thinly each of its runs.

    The vertical axis spans what runs reached: intervals of few runs may be far wider, and are cut off there.

    Raises:
      UsageError: the figure cannot be written.
    """
    from matplotlib.figure import (
        Figure,
    )  # imported late: it takes two seconds, and a wrong command line should fail at once
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8.0, 5.0))  # without pyplot, which would look for a display
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.add_subplot()
    for index, group in enumerate(comparison.groups):
        color = _COLORS[index % len(_COLORS)]
        style = _STYLES[index // len(_COLORS) % len(_STYLES)]
        if 1 < len(group.runs) <= _MOST_SINGLE_CURVES:
            for run in group.runs:
                axes.plot(run.x, run.y, color=color, lw=0.7, alpha=0.5, drawstyle="steps-post")
        center, low, high, is_range = group.estimate
        axes.fill_between(group.grid, low, high, color=color, alpha=0.15, lw=0, hatch="///" if is_range else None)
        counted = f"{len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
        label = f"{group.name} ({counted}{', min to max' if is_range else ''})"
        axes.plot(group.grid, center, color=color, ls=style, lw=2.0, label=label)
    if comparison.target is not None:
        axes.axhline(comparison.target, color="#666666", ls=":", lw=1.2, label=f"solved at {comparison.target:g}")
    axes.set_ylim(*_limits(comparison))
    axes.set_xlabel(comparison.x)
    axes.set_ylabel(comparison.tag)
    axes.set_title(comparison.environment, loc="left", fontsize=11)
    axes.set_title(comparison.statistic, loc="right", fontsize=8, color="#666666")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    figure.legend(loc="outside lower center", ncols=_columns(comparison), frameon=False, fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"--out={path} cannot be written: {error.strerror}") from None


def _limits(comparison: Comparison) -> tuple[float, float]:
    values = np.concatenate([run.y for group in comparison.groups for run in group.runs])
    values = values[np.isfinite(values)]
    if comparison.target is not None:
        values = np.append(values, comparison.target)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = _MARGIN * (high - low) or 1.0
    return low - margin, high + margin


def _columns(comparison: Comparison) -> int:
    """Of the legend, so that it is no wider than the figure."""
    longest = max(len(group.name) for group in comparison.groups)
    return max(1, min(len(comparison.groups) + 1, 110 // (longest + 16)))
