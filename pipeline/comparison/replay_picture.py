"""Draws a picture of a stored replay: some of its transitions above histograms of its statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import ArraySpec
from pipeline.datasets.replay_summary import Findings
from pipeline.datasets.stored_frames import EpisodePart
from pipeline.experiment.config import UsageError
from pipeline.replay.frames import FrameLayout

_COLUMNS = 6
_BINS = 40
_CURVES = 8
"""Entries of a vector that are drawn."""
_LEAST_SIDE = 4
"""Of an array that counts as an image."""
_FORMATS = (".png", ".pdf", ".svg")


def check(path: Path) -> None:
    """Refuses what cannot be drawn, before a replay is read.

    Raises:
      UsageError: matplotlib is missing, the file has another ending, or it is a folder's or there is none for it.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--out={path} must end in {', '.join(_FORMATS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--out={path} cannot be written: it is a folder, or there is none to hold it")
    try:
        import matplotlib.figure  # noqa: F401  # it takes longer than the rest of a command line
    except ImportError:
        raise UsageError("a picture needs matplotlib: pip install matplotlib, or leave --out out") from None


def draw(path: Path, found: Findings, episodes: Sequence[EpisodePart], layout: FrameLayout) -> None:
    """Draws transitions of some episodes above histograms.

    Args:
      path: of the file; its ending says which format.
      found: what was found.
      episodes: to take transitions from; of vectors their first ones are drawn.
      layout: of the frames.

    Raises:
      UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # it takes longer than the rest of a command line
    from matplotlib.ticker import EngFormatter, MaxNLocator

    images = [name for name, spec in layout.specs.leaves().items() if _is_image(spec)]
    names = [name for name, values in found.distributions.items() if np.isfinite(values).any()]
    below = -(-(len(names) + 1) // 3)
    figure = Figure(figsize=(13, 3.8 + 2.6 * below), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.8, 2.6 * below])
    above, histograms = parts
    if images and episodes:
        _draw_images(above, episodes, layout, images[0])
    elif episodes:
        _draw_curves(above, episodes, layout)
    axes = histograms.subplots(below, 3, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        values = found.distributions[name]
        finite = values[np.isfinite(values)]
        if len(different := np.unique(finite)) == 1:  # a histogram would have it as wide as its axis
            axis.bar([0], [len(finite)], width=0.2)
            axis.set_xlim(-1.0, 1.0)
            axis.set_xticks([0], [f"{different[0]:g}"])
        else:
            axis.hist(finite, bins=min(_BINS, len(different)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_title(name, fontsize=9)
    axes[len(names)].bar(range(len(found.actions)), found.actions, width=0.6)
    axes[len(names)].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[len(names)].set_title("action", fontsize=9)
    for axis in axes[: len(names) + 1]:
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in axes[len(names) + 1 :]:
        axis.set_axis_off()
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise UsageError(f"--out={path} cannot be written: {error.strerror}") from None


def _is_image(spec: ArraySpec) -> bool:
    if picture := spec.as_picture():
        return min(picture.shape[:2]) >= _LEAST_SIDE
    return len(spec.shape) in (2, 3) and min(spec.shape[:2]) >= _LEAST_SIDE


def _as_picture(values: NDArray[Any], spec: ArraySpec) -> NDArray[Any]:
    """An array [rows, columns] or [rows, columns, 3] that can be shown; of other channels the largest entry."""
    if picture := spec.as_picture():
        values = values.reshape(picture.split).transpose(picture.order).reshape(picture.shape)
    if values.ndim == 3 and values.shape[-1] == 1:
        return values[..., 0]
    if values.ndim == 3 and not (values.shape[-1] == 3 and values.dtype == np.uint8):
        largest: NDArray[Any] = values.max(axis=-1)
        return largest
    return values


def _draw_images(figure: Any, episodes: Sequence[EpisodePart], layout: FrameLayout, leaf: str) -> None:
    """Each transition is one column: before above, after below."""
    field, spec = layout.leaf_field(leaf), layout.specs.leaves()[leaf]
    largest = spec.maximum
    places = [(part, step) for part in episodes for step in range(len(part.steps))]
    chosen = [places[index] for index in np.linspace(0, len(places) - 1, min(_COLUMNS, len(places))).astype(int)]
    axes = figure.subplots(2, len(chosen), squeeze=False)
    for (upper, lower), (part, step) in zip(axes.T, chosen, strict=True):
        for axis, frame in ((upper, part.frames[step]), (lower, part.frames[step + 1])):
            limits = {"vmin": 0, "vmax": largest[0]} if len(largest) == 1 else {}
            axis.imshow(_as_picture(frame[field], spec), cmap="gray", **limits)
            axis.set_xticks([])
            axis.set_yticks([])
        frame = part.frames[step]
        ends = ", terminated" if frame["terminated"] else ""
        upper.set_title(f"step {step}: action {frame['action']}", fontsize=9)
        lower.set_title(f"reward {frame['reward']:g}{ends}", fontsize=9)
    figure.suptitle(f"observation {leaf}".strip() + " before and after some transitions", fontsize=10)


def _draw_curves(figure: Any, episodes: Sequence[EpisodePart], layout: FrameLayout) -> None:
    """Each episode is one column: its observations above, rewards and actions below."""
    shown = [part for part in episodes if not part.cut] or episodes
    chosen = [shown[index] for index in np.linspace(0, len(shown) - 1, min(3, len(shown))).astype(int)]
    axes = figure.subplots(2, len(chosen), squeeze=False, sharex="col")
    for (upper, lower), part in zip(axes.T, chosen, strict=True):
        for leaf in layout.specs.leaves():
            values = part.frames[layout.leaf_field(leaf)].reshape(len(part.frames), -1)[:, :_CURVES]
            for index, curve in enumerate(values.T):
                upper.plot(curve, linewidth=1, label=f"{leaf or 'observation'} {index}")
        lower.step(range(len(part.steps)), part.steps["action"], where="post", linewidth=1, label="action")
        lower.plot(part.steps["reward"], linewidth=1, label="reward")
        upper.set_title(part.cut or f"episode of {len(part.steps):,} steps", fontsize=9)
        lower.set_xlabel("step")
    for axis in axes[:, 0]:
        axis.legend(fontsize=7, loc="upper left")
    figure.suptitle("some episodes", fontsize=10)
