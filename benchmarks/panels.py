"""Plots of several panels in one picture, all in one style."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator


@contextmanager
def panels(path: Path, count: int, columns: int, panel: tuple[float, float]) -> Iterator[tuple[Any, list[Any]]]:
    """A figure and its panels, to draw into; the picture is written afterwards.

    Args:
      path: of the picture.
      count: panels that are needed.
      columns: of panels.
      panel: width and height of one, in inches.
    """
    rows = math.ceil(count / columns)
    size = (columns * panel[0], rows * panel[1])
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    try:
        yield figure, list(axes.flat[:count])
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
    finally:
        plt.close(figure)


def counted(axis: Any) -> None:
    """Labels a linear axis (`xaxis` or `yaxis`) of steps: 100k rather than 100000, and few enough to stand apart."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(EngFormatter(sep=""))


def counted_log(axis: Any, at: list[float] | None = None) -> None:
    """Labels a logarithmic axis of counts at 1, 2 and 5 of each decade, or at some places alone."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if at is None else FixedLocator(at))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=""))
