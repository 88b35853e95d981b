"""The results as a page for people: tables of medians, spread and pairwise ratios, and plots."""

import ast
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import NullFormatter

from benchmarks.pages import table as markdown
from benchmarks.pages import write_between
from benchmarks.panels import counted_log, panels
from benchmarks.peers import plan
from benchmarks.peers.results import Run, done, values

PROGRAMS = Path(__file__).parent / "programs"
BLUE, GREY = "#1f6fb4", "#b0b7bf"


@dataclass(frozen=True)
class Figure:
    """One number of a work: one table and one panel.

    Attributes:
      work: a key of `plan.WORKS`.
      keys: where the number is in a result.
      title: for people, with the unit.
      fewer_is_better: seconds, not rates.
    """

    work: str
    keys: tuple[str, ...]
    title: str
    fewer_is_better: bool = False


FIGURES = (
    Figure("fixed", ("steps_per_second",), "Fixed work: steps/s"),
    Figure("fixed", ("vectorised_steps_per_second",), "Fixed work, 16 environments in one program: steps/s"),
    Figure(
        "fixed",
        ("cost", "cpu_seconds"),
        "Fixed work: CPU seconds, start-up included (jitted_jax: of both of its forms)",
        fewer_is_better=True,
    ),
    Figure("fixed", ("cost", "mib"), "Fixed work: largest memory of all processes, MiB", fewer_is_better=True),
    Figure("fixed", ("in_graph_steps_per_second",), "Fixed work, TF-Agents without Reverb: steps/s"),
    *(Figure("learner", (size,), f"Learner, batch {size}: gradient steps/s") for size in ("64", "256", "1024")),
    *(
        Figure("learner", (f"in_graph_{size}",), f"Learner, batch {size}, TF-Agents without Reverb: gradient steps/s")
        for size in ("64", "256", "1024")
    ),
    *(
        Figure("collect", (lanes,), f"Collect, {lanes} environments: environment steps/s")
        for lanes in ("1", "16", "64")
    ),
    *(
        Figure(
            "collect", (f"extended_{n}",), f"Collect, {n} environments, peers that take one, extended by us: steps/s"
        )
        for n in ("16", "64")
    ),
    *(Figure("collect", (f"envpool_{n}",), f"Collect, {n} in EnvPool, bare: steps/s") for n in ("1", "16", "64")),
    Figure("one_core", ("steps_per_second",), "Fixed work on one core: steps/s"),
    Figure("solve", ("train_seconds",), "Time to solve: seconds of training", fewer_is_better=True),
    Figure("solve", ("total_seconds",), "Time to solve: seconds with start-up", fewer_is_better=True),
    *(
        Figure("replay", (kind, size), f"Replay of {int(size):,}: transitions/s {verb}")
        for kind, verb in (("insert", "inserted"), ("sample", "drawn"))
        for size in ("10000", "100000", "1000000")
    ),
    *(
        Figure("growth", (count, kind), f"{count} collectors: {kind} steps/s")
        for kind in ("environment", "gradient")
        for count in ("1", "2", "4")
    ),
)
_NAMED = {(figure.work, figure.keys): figure for figure in FIGURES}


@dataclass(frozen=True)
class Target:
    """What ours is to reach.

    Attributes:
      work: of the figure.
      key: of the figure.
      factor: how many times as good as the peer ours is to be.
      peer: to be compared with; empty: the best of all peers, of "solve" of those that solved every time.
    """

    work: str
    key: str
    factor: float
    peer: str = ""


TARGETS = (
    Target("fixed", "steps_per_second", 3.0, "cleanrl_jax"),
    Target("fixed", "steps_per_second", 8.0, "stable_baselines3"),
    Target("fixed", "steps_per_second", 8.0, "sbx"),
    Target("fixed", "steps_per_second", 1.0, plan.JITTED),
    Target("fixed", "steps_per_second", 25.0, "tf_agents"),
    *(Target("learner", size, 0.8) for size in ("64", "256", "1024")),
    Target("collect", "64", 4.0),
    Target("collect", "1", 1.3),
    Target("solve", "train_seconds", 3.0),
    Target("solve", "total_seconds", 1.0),
    Target("one_core", "steps_per_second", 1.0, "stable_baselines3"),
)
PANELS = tuple(
    figure
    for figure in FIGURES
    if figure.work in ("fixed", "learner", "collect", "solve")
    and not figure.keys[0].startswith(("envpool", "extended", "in_graph", "vectorised", "cost"))
)


def with_totals(runs: Sequence[Run]) -> list[Run]:
    """The runs, those of "solve" with their seconds of start-up and training together."""
    return [
        Run(
            run.work,
            run.peer,
            run.repeat,
            {**run.result, "total_seconds": run.result["train_seconds"] + run.result["startup_seconds"]},
            run.when,
            run.machine,
        )
        if run.work == "solve" and "train_seconds" in run.result
        else run
        for run in runs
    ]


def by_peer(runs: list[Run], figure: Figure) -> dict[str, dict[int, float]]:
    """The values of a figure: peer -> repeat -> value, ours first, then the best."""
    found: dict[str, dict[int, float]] = {}
    for peer, repeat, value in values(runs, figure.work, *figure.keys):
        found.setdefault(peer, {})[repeat] = value
    sign = 1 if figure.fewer_is_better else -1

    def order(peer: str) -> tuple[bool, float]:
        return peer != plan.OURS, sign * statistics.median(found[peer].values())

    return {peer: found[peer] for peer in sorted(found, key=order)}


def ratio(ours: dict[int, float], theirs: dict[int, float], figure: Figure) -> float | None:
    """The median over the repeats of how many times as good ours was in the same repeat."""
    pairs = [(ours[repeat], theirs[repeat]) for repeat in sorted(ours.keys() & theirs.keys())]
    ratios = [b / a if figure.fewer_is_better else a / b for a, b in pairs if a and b]
    return statistics.median(ratios) if ratios else None


def table(runs: list[Run], figure: Figure) -> list[str]:
    """Markdown: a line a peer; nothing where nobody has the figure."""
    found = by_peer(runs, figure)
    if not found:
        return []
    solving = figure.work == "solve"
    head = "| | median | least to largest | runs |" + (" solved | environment steps |" if solving else "") + " ours |"
    rows = []
    for peer, of_peer in found.items():
        seen = list(of_peer.values())
        times = ratio(found.get(plan.OURS, {}), of_peer, figure)
        compared = "" if times is None or peer == plan.OURS else f"{times:.2f}x"
        cells = [
            peer,
            _number(statistics.median(seen)),
            f"{_number(min(seen))} to {_number(max(seen))}",
            str(len(seen)),
        ]
        if solving:
            mine = [run.result for run in runs if run.work == "solve" and run.peer == peer and "solved" in run.result]
            steps = statistics.median(result["environment_steps"] for result in mine)
            cells += [f"{sum(result['solved'] for result in mine)} of {len(mine)}", f"{steps:,.0f}"]
        rows.append([*cells, compared])
    return ["", f"### {figure.title}", "", *markdown(head, rows)]


def reached(runs: list[Run]) -> list[str]:
    """Markdown: each target, the peer it is measured by, and what was reached."""
    rows = []
    for target in TARGETS:
        figure = _NAMED[target.work, (target.key,)]
        found = by_peer(runs, figure)
        rivals = [
            peer
            for peer in found
            if peer not in (plan.OURS, plan.CEILINGS, plan.JITTED) and _always_solved(runs, figure, peer)
        ]
        peer = target.peer or next(iter(rivals), "")
        times = ratio(found.get(plan.OURS, {}), found.get(peer, {}), figure)
        if times is not None:
            verdict = "reached" if times >= target.factor else "**missed**"
            rows.append((figure.title, peer, f"{target.factor:g}x", f"{times:.2f}x", verdict))
    return ["", "### Targets", "", *markdown("| figure | against | target | reached | |", rows)]


def _always_solved(runs: list[Run], figure: Figure, peer: str) -> bool:
    mine = [run.result for run in runs if run.peer == peer and run.work == "solve" and "solved" in run.result]
    return figure.work != "solve" or all(result["solved"] for result in mine)


def page(runs: list[Run]) -> str:
    """The section of docs/benchmarks.md."""
    machines = sorted({run.machine for run in runs})
    lines = ["## Peers", ""]
    first, last = min(run.when for run in runs)[:10], max(run.when for run in runs)[:10]
    lines += [
        f"`python -m benchmarks.peers`, {first} to {last}, on {'; '.join(machines)}. Every run is in",
        "`benchmarks/peers/results.jsonl`; this section is written from it. Programs run in turn (ours, each peer,",
        "then the next repeat), each in a virtual environment of its own. The last column is the median, over the",
        "repeats, of how many times as good ours was as the peer in the same repeat.",
        "",
        "![Peers](images/peers.png)",
        "",
        "![Growth](images/growth.png)",
    ]
    lines += reached(runs)
    for figure in FIGURES:
        lines += table(runs, figure)
    lines += ["", "### What did not run", ""]
    there = done(runs)
    gone = {
        (run.peer, run.work, run.result["missing"])
        for run in runs
        if "missing" in run.result and (run.work, run.peer, run.repeat) not in there
    }
    lines += [f"- {peer}, {work}: {reason}" for peer, work, reason in sorted(gone)] or ["Nothing."]
    lines += ["", "### Settings and versions", ""]
    for peer in dict.fromkeys(run.peer for run in runs):
        lines += _settings(peer, runs)
    return "\n".join(lines).rstrip()


def _settings(peer: str, runs: list[Run]) -> list[str]:
    program = PROGRAMS / f"{peer}.py" if peer != plan.OURS else PROGRAMS.parent / "ours.py"
    versions: dict[str, str] = {}
    for run in runs:
        versions |= run.result.get("versions", {}) if run.peer == peer else {}
    said = ast.get_docstring(ast.parse(program.read_text())) or ""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [f"**{peer}** ({named}; `{program.relative_to(PROGRAMS.parents[2])}`)", "", said, ""]


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def plot(runs: list[Run], path: Path) -> None:
    """One panel a figure, a bar a peer, from least to largest as a line."""
    shown = [figure for figure in PANELS if by_peer(runs, figure)]
    if not shown:
        return
    with panels(path, len(shown), 3, (5.0, 3.3)) as (_, axes):
        for axis, figure in zip(axes, shown, strict=True):
            found = by_peer(runs, figure)
            peers = list(reversed(found))
            middles = [statistics.median(found[peer].values()) for peer in peers]
            below = [middle - min(found[peer].values()) for middle, peer in zip(middles, peers, strict=True)]
            above = [max(found[peer].values()) - middle for middle, peer in zip(middles, peers, strict=True)]
            colours = [BLUE if peer == plan.OURS else GREY for peer in peers]
            axis.barh(peers, middles, xerr=[below, above], color=colours, ecolor="#555555", capsize=2)
            axis.set_title(figure.title, fontsize=10)
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())  # labels of two decades and more would run into each other
            for row, middle in enumerate(middles):
                at = (1.01, row)  # beside the panel, where no bar reaches
                axis.annotate(_number(middle), at, xycoords=("axes fraction", "data"), va="center", size=8)


def plot_growth(runs: list[Run], path: Path) -> None:
    """Rates over the transitions that a replay holds, peers beside ours, and over the number of collectors."""
    shown = (
        ("replay", "insert", "Transitions/s inserted by transitions held", ("10000", "100000", "1000000")),
        ("replay", "sample", "Transitions/s drawn by transitions held", ("10000", "100000", "1000000")),
        ("growth", "", "Steps/s of a run by collectors", ("1", "2", "4")),
    )
    with panels(path, len(shown), len(shown), (5.0, 3.6)) as (_, axes):
        for axis, (work, kind, title, points) in zip(axes, shown, strict=True):
            lines: dict[str, list[float]] = {}
            for point in points:
                for name, keys in (
                    ((kind, (kind, point)),) if kind else ((k, (point, k)) for k in ("environment", "gradient"))
                ):
                    for peer, found in by_peer(runs, _NAMED[work, keys]).items():
                        line = lines.setdefault(peer if kind else f"{name} steps", [])
                        line.append(statistics.median(found.values()))
            for name, line in lines.items():
                ours = name == plan.OURS or not kind
                axis.plot(
                    [int(point) for point in points][: len(line)], line, marker="o", label=name, lw=2 if ours else 1
                )
            axis.set(title=title, xscale="log", yscale="log", xlabel="transitions held" if kind else "collectors")
            if lines:
                counted_log(axis.xaxis, [float(point) for point in points])
                least, most = min(map(min, lines.values())), max(map(max, lines.values()))
                axis.set_ylim(least / 1.3, most * 2.0)  # room for the legend above the lines
                counted_log(axis.yaxis)
                axis.legend(fontsize=8, frameon=False, ncols=len(lines), loc="upper center")


def write(runs: list[Run], docs: Path) -> None:
    """Writes the section into `docs/benchmarks.md`, between its marks or at the end, and the plots beside it."""
    if not runs:
        return
    runs = with_totals(runs)
    path = docs / "benchmarks.md"
    text = path.read_text() if path.exists() else "# Benchmarks\n"
    if "<!-- peers: begin -->" not in text:
        path.write_text(f"{text.rstrip()}\n\n<!-- peers: begin -->\n<!-- peers: end -->\n")
    write_between(path, "peers", page(runs).splitlines())
    plot(runs, docs / "images" / "peers.png")
    plot_growth(runs, docs / "images" / "growth.png")
