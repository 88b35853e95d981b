"""Drawing a search: what its trials reached one after the other, and which fields mattered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.experiment.config import UsageError

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


class Mark(NamedTuple):
    """A trial in the history."""

    number: int
    state: str
    """complete, pruned or failed."""
    value: float | None
    """Objective of a complete trial; of a pruned one its last evaluation's return, if it had one."""


def draw_history(marks: Sequence[Mark], objective: str, is_return: bool, path: Path) -> None:
    """Draws each trial's objective over its number, and the best so far.

    Args:
      marks: of the trials that have ended.
      objective: what is maximised, in words.
      is_return: whether it can be compared with the return of an evaluation: then pruned trials are drawn at theirs.
      path: of the figure.

    Raises:
      UsageError: it cannot be written.
    """
    from matplotlib.figure import Figure  # imported late: it takes two seconds
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.0, 4.5))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.add_subplot()
    complete = [(mark.number, mark.value) for mark in marks if mark.state == "complete" and mark.value is not None]
    if complete:
        numbers, values = zip(*complete, strict=True)
        axes.plot(numbers, values, "o", color=_BLUE, ms=5, label=f"complete ({len(complete)})")
        highest = [max(values[: index + 1]) for index in range(len(values))]
        ends = [*numbers, max(mark.number for mark in marks)]
        axes.plot(ends, [*highest, highest[-1]], color=_BLUE, lw=1.6, drawstyle="steps-post", label="best so far")
    if pruned := [mark for mark in marks if mark.state == "pruned"]:
        shown = [(mark.number, mark.value) for mark in pruned if is_return and mark.value is not None]
        label = f"pruned ({len(pruned)}), " + ("at their last evaluation" if shown else "without a value")
        if shown:
            axes.plot(*zip(*shown, strict=True), "v", color=_ORANGE, ms=5, mfc="none", label=label)
        else:
            _at_the_foot(axes, pruned, _ORANGE, label)
    if failed := [mark for mark in marks if mark.state == "failed"]:
        _at_the_foot(axes, failed, _GREY, f"failed ({len(failed)}), without a value")
    axes.margins(y=0.15)  # what is at the foot is below all values, and not one of them
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(objective)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    _save(figure, path)


def draw_importance(importance: Mapping[str, float], trials: int, path: Path) -> None:
    """Draws a bar for each field, the most important at the top.

    Args:
      importance: share by field.
      trials: complete ones that it was found from.
      path: of the figure.

    Raises:
      UsageError: it cannot be written.
    """
    from matplotlib.figure import Figure  # imported late: it takes two seconds

    rising = sorted(importance.items(), key=lambda item: item[1])
    figure = Figure(figsize=(8.0, 1.4 + 0.36 * len(rising)))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.add_subplot()
    bars = axes.barh([field for field, _ in rising], [share for _, share in rising], color=_BLUE, height=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in rising], padding=4, fontsize=9)
    axes.set_xlim(0.0, 1.1 * max(importance.values()) or 1.0)
    axes.set_xticks([])
    axes.set_title("importance", loc="left", fontsize=11)
    axes.set_title(f"PED-ANOVA of {trials} complete trials", loc="right", fontsize=8, color="#666666")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    _save(figure, path)


def _at_the_foot(axes, marks: Sequence[Mark], color: str, label: str) -> None:  # type: ignore[no-untyped-def]
    """Marks trials without a value below the others, whatever the vertical axis is."""
    across = axes.get_xaxis_transform()
    numbers = [mark.number for mark in marks]
    axes.plot(numbers, [0.02] * len(numbers), marker="x", color=color, ms=5, transform=across, label=label, ls="none")


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
