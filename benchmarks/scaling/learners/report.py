"""The tables of several learners in docs/scaling.md, written from the file of results."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.pages import table, write_between
from benchmarks.scaling.learners import model
from benchmarks.scaling.learners.learning import FORMS, STEPS
from benchmarks.scaling.learners.networks import NETWORKS
from benchmarks.scaling.learners.teams import Shape, shapes_of_links, shapes_of_steps
from benchmarks.scaling.results import Measurement, by_repeat, medians

_NOT_MEASURED = ["Not measured yet."]


def steps_table(measurements: Sequence[Measurement]) -> list[str]:
    """What a gradient step costs one learner and each of several, measured and by the model."""
    rows: list[Sequence[object]] = []
    for network in NETWORKS:
        seen = medians(by_repeat(measurements, f"steps {network}"))
        teams = [shape for shape in shapes_of_steps() if shape.learners > 1] if seen else []
        rows += [(network, *_step_cells(seen, shape)) for shape in teams]
    head = (
        "| network and batch | one learner | learners, m | each of them | by the model | off by | gain | sent a step "
        "| by the model | says when it starts |"
    )
    return table(head, rows) if rows else _NOT_MEASURED


def _step_cells(seen: Mapping[str, Mapping[str, float]], shape: Shape) -> list[str]:
    whole, share = seen[Shape(1).name]["cpu_ms"], seen[Shape(1, shape.learners).name]["cpu_ms"]
    of_team = seen[shape.name]
    predicted = model.cpu(share, shape.learners, shape.local_steps, of_team["weights"])
    least, alone = of_team["said_least_ms"], of_team["said_alone_ms"]
    return [
        f"{whole:.3g} ms",
        f"{shape.learners}, {shape.local_steps}",
        f"{of_team['cpu_ms']:.3g} ms",
        f"{predicted:.3g} ms",
        f"{predicted / of_team['cpu_ms'] - 1.0:+.0%}",
        f"{whole / of_team['cpu_ms']:.2f}",
        f"{of_team['sent'] / 1e3:,.1f} kB",
        f"{model.sent(shape.learners, shape.local_steps, of_team['weights']) / 1e3:,.1f} kB",
        f"pays from {least:g} ms, takes {alone:g}" if least else "nothing",
    ]


def links_table(measurements: Sequence[Measurement]) -> list[str]:
    """A sum of two learners by link: the clock, the model, and what was sent.

    Of the clock the least is compared: what else the machine has to do makes a sum slower, and never faster.
    """
    rows: list[Sequence[object]] = []
    repeats = by_repeat(measurements, "links")
    seen = medians(repeats)
    least = {name: min(repeat[name]["step_ms"] for repeat in repeats) for name in seen}
    for shape in shapes_of_links() if seen else []:
        of_link, taken = seen[shape.name], least[shape.name]
        expected = model.on_link(model.sent(2, 1, of_link["weights"]), shape.gbits)
        cells = [f"{of_link['cpu_ms']:.3g} ms", f"{of_link['sent'] / 1e3:,.0f} kB"]
        cells += [f"{of_link['step_ms']:.3g} ms", f"{taken:.3g} ms"]
        predicted = least[shape._replace(gbits=0.0).name] + expected
        by_model = [f"{expected:.3g} ms", f"{predicted:.3g} ms", f"{predicted / taken - 1.0:+.0%}"]
        rows.append((f"{shape.gbits:g} Gbit/s", *cells, *by_model) if shape.gbits else ("no limit", *cells, "", "", ""))
    head = "| link | CPU of each | sent by each | clock, median | least | the link alone by the model | both | off by |"
    return table(head, rows) if rows else _NOT_MEASURED


def learning_table(measurements: Sequence[Measurement]) -> list[str]:
    """Environment steps until a task is solved, by who learns."""
    rows: list[Sequence[object]] = []
    for task in STEPS:
        for form in FORMS:
            of_form = [one for one in measurements if (one.part, one.setting) == (f"learning {task}", form.name)]
            if of_form:
                taken = [one.values["environment_steps"] for one in of_form]
                solved = sum(one.values["solved"] for one in of_form)
                each = ", ".join(f"{one.values['environment_steps']:,.0f}" for one in of_form)
                solved_of = f"{solved:.0f} of {len(of_form)}"
                rows.append((task, form.name, solved_of, f"{statistics.median(taken):,.0f}", each))
    head = "| task | who learns | solved | environment steps, median | of each seed |"
    return table(head, rows) if rows else _NOT_MEASURED


def write(measurements: Sequence[Measurement], docs: Path) -> None:
    """Writes the tables into `docs/scaling.md`, between their marks."""
    tables = {
        "learners_steps": steps_table(measurements),
        "learners_links": links_table(measurements),
        "learners_learning": learning_table(measurements),
    }
    for name, lines in tables.items():
        write_between(docs / "scaling.md", name, lines)
