"""Tables and curves of what was decided, beside what needs no learning."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.learning.trading.walks import (
    PERIODS,
    Decisions,
    Walk,
    coin,
    constant,
    period_environment,
    replayed,
    walk,
)
from benchmarks.pages import table as markdown
from benchmarks.pages import write_between
from benchmarks.panels import panels
from pipeline.experiment.sections import Experiment

_PAGE = "# Trading\n\n![Equity](images/trading.png)\n"

Walks = dict[str, Walk]
"""By name, those of one period."""


def walks(experiment: Experiment, decisions: list[Decisions], coins: int, period: str) -> Walks:
    """Those of every seed, of buy-and-hold, of never buying, and of coins."""
    agents = {f"agent, seed {one.seed}": walk(experiment, period, replayed(one.of(period))) for one in decisions}
    turning = float(np.mean([agent.trades[0] / len(agent.actions) for agent in agents.values()]))
    chance = {
        f"a coin every step, {coins} of them": coin(0.5, coins),
        f"a coin that turns as often as the agents, {coins} of them": coin(turning, coins),
    }
    return {
        **agents,
        "buy and hold": walk(experiment, period, constant(1)),
        "always sold": walk(experiment, period, constant(0)),
        **{name: walk(experiment, period, decide, coins) for name, decide in chance.items()},
    }


class Section(NamedTuple):
    """One config, or one run."""

    title: str
    market: str
    """A sentence: what is traded when, at which cost."""
    walks: dict[str, Walks]
    """By period."""


def section(title: str, experiment: Experiment, decisions: list[Decisions], coins: int) -> Section:
    """Walks through both periods, with so many coins of each kind."""
    markets = [_market(experiment, period) for period in PERIODS]
    (first, stop), (later, end) = (market.rows for market in markets)
    costs = " and ".join(sorted({f"{100.0 * market.cost:g} %" for market in markets}))
    sentence = (
        f"`{experiment.environment.id}`, at a cost of {costs} of what is traded. Held out are rows {later:,} to "
        f"{end - 1:,} ({end - later:,} steps), trained on rows {first:,} to {stop - 1:,} ({stop - first:,} steps)."
    )
    return Section(title, sentence, {period: walks(experiment, decisions, coins, period) for period in PERIODS})


def table(shown: Section) -> list[str]:
    """Markdown: what was traded, and a line for each policy, over both periods."""
    training, held_out = (shown.walks[period] for period in PERIODS)
    return [
        shown.market,
        "",
        *markdown(
            "| policy | held out: return | trades | drawdown | trained on: return | trades | drawdown |",
            [(name, *_cells(held_out[name]), *_cells(training[name])) for name in held_out],
        ),
    ]


def plot(sections: list[Section], path: Path) -> None:
    """A row a config: equity over the period trained on and over the one held out."""
    with panels(path, 2 * len(sections), 2, (7.0, 4.0)) as (figure, axes):
        for shown, row in zip(sections, zip(axes[::2], axes[1::2], strict=True), strict=True):
            for axis, period in zip(row, PERIODS, strict=True):
                for label, one in shown.walks[period].items():
                    _draw(axis, label, one)
                axis.set_yscale("log")
                for place in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                    place("{x:.2g}")
                axis.tick_params(labelsize=8, which="both")
                axis.set_title(f"{shown.title}, {'trained on' if period == 'training' else 'held out'}", fontsize=10)
            row[0].set_ylabel("equity, as a multiple of the first", fontsize=9)
            row[1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.supxlabel("steps", fontsize=9)


def write(sections: list[Section], docs: Path) -> None:
    """Writes the tables into `docs/trading.md`, between its marks, and the curves beside it."""
    lines = [line for shown in sections for line in (f"### {shown.title}", "", *table(shown), "")]
    write_between(docs / "trading.md", "trading", lines[:-1], _PAGE)
    plot(sections, docs / "images" / "trading.png")


def _market(experiment: Experiment, period: str) -> Any:
    vector: Any = period_environment(experiment, period).vector
    return vector.envs[0].unwrapped


def _cells(one: Walk) -> tuple[str, str, str]:
    returns = f"{100.0 * one.returns.mean():+.1f} %"
    if len(one.returns) > 1:
        low, high = 100.0 * np.quantile(one.returns, (0.05, 0.95))
        returns += f" ({low:+.1f} to {high:+.1f})"
    return returns, f"{one.trades.mean():.0f}", f"{100.0 * one.drawdowns.mean():.1f} %"


def _draw(axis: Any, label: str, one: Walk) -> None:
    if len(one.returns) > 1:
        low, high = np.quantile(one.equity, (0.05, 0.95), axis=1)
        axis.fill_between(
            np.arange(len(low)), low, high, alpha=0.2, lw=0, label=f"{label.partition(',')[0]}: 5 to 95 %"
        )
    elif label.startswith("agent"):
        axis.plot(one.equity[:, 0], lw=1, label=label)
    else:
        axis.plot(one.equity[:, 0], lw=1.5, color="#222222", ls="-" if label == "buy and hold" else ":", label=label)
