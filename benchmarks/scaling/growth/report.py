"""The tables and the picture of docs/performance.md, written from the file of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.pages import table, write_between
from benchmarks.panels import counted_log, panels
from benchmarks.scaling.growth.curves import CURVES, Curve, knee, superlinear
from benchmarks.scaling.results import Measurement, by_repeat, medians

Costs = Mapping[str, Mapping[str, float]]
"""Medians by size, as text, and name of the figure."""


def write(measurements: Sequence[Measurement], docs: Path) -> None:
    """Writes what there is into the page and draws it.

    Args:
      measurements: all of the file.
      docs: folder of performance.md and images/.
    """
    seen = {curve.name: medians(by_repeat(measurements, curve.name)) for curve in CURVES}
    lines: list[str] = []
    for curve in CURVES:
        if seen[curve.name]:
            lines += [*table_of(curve, seen[curve.name]), ""]
    write_between(docs / "performance.md", "growth", lines[:-1] or ["Not measured yet."])
    draw(seen, docs / "images" / "growth.png")


def table_of(curve: Curve, costs: Costs) -> list[str]:
    """A row for each figure of a curve, a column for each size."""
    sizes = [size for size in curve.sizes if str(size) in costs]
    head = f"| {curve.name} | {' | '.join(f'{size:,}' for size in sizes)} | cheapest from | dearer from | superlinear |"
    return table(
        head, [_row(curve, figure, {size: costs[str(size)][figure] for size in sizes}) for figure in curve.units]
    )


def _row(curve: Curve, figure: str, costs: Mapping[int, float]) -> list[str]:
    shown = [f"{cost:,.3g}" if cost < 1_000 else f"{cost:,.0f}" for cost in costs.values()]
    if figure == "rate":  # of a rate there is no cost of a unit
        return [curve.units[figure], *shown, "", "", ""]
    first, dearer = knee(costs)
    steep = ", ".join(f"{a:,} to {b:,}" for a, b in superlinear(costs)) or "no"
    return [curve.units[figure], *shown, f"{first:,}", f"{dearer:,}" if dearer else "none", steep]


def draw(seen: Mapping[str, Costs], path: Path) -> None:
    """A panel for each curve: the cost of a unit by size, relative to the least."""
    shown = [curve for curve in CURVES if seen[curve.name]]
    if not shown:
        return
    with panels(path, len(shown), 3, (4.2, 3.0)) as (_, axes):
        for axis, curve in zip(axes, shown, strict=True):
            costs = seen[curve.name]
            sizes = [size for size in curve.sizes if str(size) in costs]
            for figure in curve.units:
                if figure == "rate":
                    continue
                values = [costs[str(size)][figure] for size in sizes]
                axis.plot(sizes, [value / min(values) for value in values], marker="o", label=figure)
            axis.set_xscale("log")
            axis.set_yscale("log")
            counted_log(axis.xaxis, [float(size) for size in sizes])
            counted_log(axis.yaxis)
            axis.tick_params(axis="x", labelrotation=30)
            axis.set_xlabel(curve.name)
            axis.set_ylabel("cost of a unit over the least")
            axis.legend(frameon=False)
