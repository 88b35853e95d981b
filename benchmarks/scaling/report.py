"""The tables and the plot of docs/scaling.md, written from the file of results."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.pages import table, write_between
from benchmarks.panels import counted, counted_log, panels
from benchmarks.scaling import fan_out, model, runs, units
from benchmarks.scaling.fixed import FORMS
from benchmarks.scaling.measured.experiments import experiment_of
from benchmarks.scaling.model import COLLECTOR, LEARNER, RELAY, SHARD, Host, Run, UnitCosts
from benchmarks.scaling.results import Measurement, by_repeat, medians

NOT_MEASURED = ["Not measured yet."]
LARGE = Run(collectors=1_000, samples_per_insert=1, batch_size=1_024, windows_per_item=256)
"""The run on paper, with the shipped paces of fetches, publications and reports."""
CALM = replace(LARGE, fetches_per_second=1.0, publications_per_second=1.0, reports_per_second=0.1)
"""The same at the paces that docs/scaling.md advises."""
LARGE_STEPS = 1e6
"""Environment steps a second."""
HOST = Host(cores=16, link=10e9 / 8)
_MEGABYTE = 1e6
_UNITS = {
    "collect": ("collector", "environment step: acting, stepping, writing"),
    "insert": ("replay", "item inserted"),
    "draw": ("replay", "item drawn"),
    "take": ("learner", "item drawn from one shard"),
    "take_more": ("learner", "more of that for each further shard"),
    "learn": ("learner", "gradient step of batch 64"),
    "publish": ("learner", "publication of new weights to one server"),
    "accept": ("replay", "such a publication"),
    "fetch": ("replay", "announcement handed out"),
    "fetch_weights": ("replay", "weights handed out"),
    "report": ("learner", "report of a collector"),
    "report_in": ("replay", "report of a collector"),
    "step_bytes": ("collector to replay", "transition inserted"),
    "drawn_bytes": ("replay to learner", "transition drawn"),
    "fetch_bytes": ("replay to collector", "announcement"),
    "weights_bytes": ("replay to collector", "set of weights"),
    "report_bytes": ("collector to replay", "report"),
    "collect_cores": ("collector", "where nothing holds it back"),
    "learn_cores": ("learner", "gradient steps, drawing apart"),
}
_KINDS = {"_bytes": (1.0, "bytes"), "_cores": (1.0, "cores"), "": (1e6, "us of CPU")}
"""What a cost is shown in, by the end of its name: the factor and the word."""


def per_item() -> int:
    """Transitions of an item in the runs measured."""
    return experiment_of(runs.LINES, 1).windows_per_item


def all_costs(measurements: Sequence[Measurement]) -> list[UnitCosts]:
    """Unit costs of each repeat."""
    return [units.costs_of(windows, per_item()) for windows in by_repeat(measurements, "units")]


def unit_table(costs: Sequence[UnitCosts]) -> list[str]:
    """What each unit of work costs."""
    rows = []
    for field in fields(UnitCosts):
        who, unit = _UNITS[field.name]
        scale, of = next(kind for suffix, kind in _KINDS.items() if field.name.endswith(suffix))
        values = [getattr(one, field.name) * scale for one in costs]
        spread = f"{_short(statistics.median(values))} ({_short(min(values))} to {_short(max(values))})"
        rows.append((who, unit, f"{spread} {of}"))
    return [
        f"Medians (least to largest) of {len(costs)} measurements; items of {per_item()} transitions of CartPole:",
        "",
        *table("| who | unit | cost |", rows),
    ]


def check_table(checks: Sequence[runs.Check]) -> list[str]:
    """The model against the runs measured."""
    rows = []
    for check in checks:
        used = [
            f"{check.measured_cores[kind]:.2f} ({_percent(check.predicted_cores[kind], check.measured_cores[kind])})"
            for kind in (COLLECTOR, SHARD, LEARNER)
        ]
        rates = f"{check.measured:,.0f}", f"{check.predicted:,.0f}", _percent(check.predicted, check.measured)
        rows.append((check.collectors, check.shards, *rates, *used))
    others = [abs(model.error(check.predicted, check.measured)) for check in checks[1:]]
    worst = f"{max(others):.0%}" if others else "none"
    head = (
        "| collectors | shards | environment steps/s | by the model | off by | cores: collectors | replay | learner |"
    )
    return [
        *table(head, rows),
        "",
        "In brackets: by how much the model's cores are off at the measured steps/s. The first row is what unit costs "
        f"were fitted to. Largest error of the others' steps/s: {worst}.",
    ]


def fan_out_table(windows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What many clients that fetch cost."""
    rows = []
    experiment = experiment_of(fan_out.LINES, 1)
    steps_per_item = experiment.windows_per_item / experiment.learner.batch_size
    for name, seen in windows.items():
        way, clients = name.removesuffix(" clients").rsplit(", ", 1)
        seconds, steps = seen["seconds"], max(1.0, seen["drawn"] * steps_per_item)
        rates = f"{seen['handed out'] / seconds:,.0f}", f"{steps / seconds:,.0f}"
        cores = [f"{seen[f'cpu {kind}'] / seconds:.2f}" for kind in ("replay", "relay", "clients")]
        rows.append((way, clients, *rates, f"{1e6 * seen['cpu learner'] / steps:.1f}", *cores))
    return table(
        "| weights from | clients | fetches/s | gradient steps/s | learner's process: us of CPU a gradient step "
        "| replay: cores | relays: cores | clients: cores |",
        rows,
    )


def reach_table(unit: Mapping[str, Mapping[str, float]], fixed: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The figures that distributed runs on one machine were to reach."""
    rows = []

    def add(what: str, first: float, second: float, wanted: str) -> None:
        share = f"{second / first:.0%}" if first else "none"
        rows.append((what, f"{first:,.0f} and {second:,.0f}", share, wanted))

    if fixed:
        embedded, beside = (fixed[form]["steps_per_second"] for form in FORMS)
        add("fixed work, steps/s: embedded, and with one shard", embedded, beside, "70%")
    if unit:
        for what, setting, counted in (("inserted", "write", "inserted"), ("drawn", "draw", "drawn")):
            of_one, of_two = (_transitions(unit[f"{setting} {shards}"], counted) for shards in units.SHARDS)
            add(f"transitions {what}/s: one shard and two", of_one, of_two, "100%")
        first, both = (_transitions(unit[f"collect {count}"], "inserted") for count in units.COLLECTORS[:2])
        add("environment steps/s of the first collector, and more by a second", first, both - first, "85%")
        alone, beside = (
            _transitions(seen, "inserted") * seen["seconds"] / seen["cpu collector"]
            for seen in (unit[f"collect {count}"] for count in units.COLLECTORS[:2])
        )
        add("environment steps for a second of a core's time: one collector, and two", alone, beside, "85%")
    return table("| | measured | share | wanted |", rows)


def _transitions(seen: Mapping[str, float], counted: str) -> float:
    """A second, of the items counted."""
    return seen[counted] * per_item() / seen["seconds"]


def large_table(costs: UnitCosts) -> list[str]:
    """What a run of 1,000 collectors asks for, at the shipped paces, at calm ones, and with relays."""
    shapes = {
        "as shipped": LARGE,
        "as shipped, a relay for 32": replace(LARGE, clients_per_relay=32),
        "calm": CALM,
        "calm, a relay for 32": replace(CALM, clients_per_relay=32),
    }
    columns: list[list[str]] = []
    for run in shapes.values():
        shards = model.shards_needed(costs, run, HOST, LARGE_STEPS)
        spread = replace(run, shards=shards)
        cores = {kind: demand.at(LARGE_STEPS) for kind, demand in model.cores(costs, spread).items()}
        links = {way: demand.at(LARGE_STEPS) / _MEGABYTE for way, demand in model.links(costs, spread).items()}
        columns.append(
            [
                f"{shards}",
                *(f"{cores[kind]:,.2f}" if kind in cores else "" for kind in (SHARD, LEARNER, RELAY)),
                *(f"{links[f'{way} {SHARD}']:,.1f}" for way in ("into", "out of")),
                *(f"{links[f'{way} {LEARNER}']:,.1f}" for way in ("into", "out of")),
                f"{LARGE_STEPS * run.samples_per_insert / run.batch_size:,.0f}",
            ]
        )
    names = [
        "shards",
        "cores of each shard",
        "cores of the learner",
        "cores of each relay",
        "into each shard, MB/s",
        "out of each shard, MB/s",
        "into the learner, MB/s",
        "out of the learner, MB/s",
        "gradient steps/s",
    ]
    return table(f"| | {' | '.join(shapes)} |", zip(names, *columns, strict=True))


def plot(checks: Sequence[runs.Check], costs: UnitCosts, path: Path) -> None:
    """Measured points against the model's lines, and where the parts of a large run are full."""
    with panels(path, 3, 3, (5.0, 4.0)) as (_, (rates, used, full)):
        places = range(len(checks))
        names = [f"{check.collectors}, {check.shards}" for check in checks]
        rates.plot(places, [check.measured for check in checks], "o", label="measured")
        rates.plot(places, [check.predicted for check in checks], "-", label="model")
        rates.set(title="Environment steps/s on this machine", ylim=(0, None))
        for kind in (COLLECTOR, SHARD, LEARNER):
            (line,) = used.plot(places, [check.predicted_cores[kind] for check in checks], "-", label=kind)
            used.plot(places, [check.measured_cores[kind] for check in checks], "o", color=line.get_color())
        used.set(title="Cores used: points measured, lines the model", ylim=(0, None))
        for axis in (rates, used):
            axis.set_xticks(list(places), names)
            axis.set_xlabel("collectors, shards")
        counts = [2**power for power in range(11)]
        for shards in (1, 4, 16):
            shapes = [replace(CALM, collectors=count, shards=shards) for count in counts]
            limits = [
                min(limit for part, limit in model.full_at(costs, run, HOST).items() if part != COLLECTOR)
                for run in shapes
            ]
            full.plot(counts, limits, label=f"{shards} shard{'s' if shards > 1 else ''}")
        full.plot(counts, [count / costs.collect for count in counts], "k:", label="collectors, a core each")
        full.set(
            title="Where a run is full, by collectors (calm)",
            xscale="log",
            yscale="log",
            xlabel="collectors",
            ylabel="steps/s",
        )
        counted(rates.yaxis)
        counted_log(full.xaxis, [1, 4, 16, 64, 250, 1000])
        counted_log(full.yaxis)
        for axis in (rates, used, full):
            axis.legend(fontsize=8, frameon=False)


def write(measurements: Sequence[Measurement], docs: Path, number_of_cores: int) -> None:
    """Writes the tables into `docs/scaling.md`, between their marks, and the plot beside it."""
    page = docs / "scaling.md"
    seen = {part: medians(by_repeat(measurements, part)) for part in ("units", "runs", "fan_out", "fixed")}
    costs = all_costs(measurements)
    tables = dict.fromkeys(("units", "checks", "large"), NOT_MEASURED)
    if costs:
        alone = units.median_costs(costs)
        tables["units"] = unit_table(costs)
        if seen["runs"]:
            checks, fitted = runs.check(alone, seen["runs"], per_item(), number_of_cores)
            tables["checks"], tables["large"] = check_table(checks), large_table(fitted)
            plot(checks, fitted, docs / "images" / "scaling.png")
    tables["fan_out"] = fan_out_table(seen["fan_out"]) if seen["fan_out"] else NOT_MEASURED
    tables["reach"] = reach_table(seen["units"], seen["fixed"])
    for name, lines in tables.items():
        write_between(page, name, lines)


def _percent(value: float, reference: float) -> str:
    return f"{model.error(value, reference):+.0%}" if reference else "none"


def _short(value: float) -> str:
    if not value:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
