"""When several learners pay, by step time and link, and what local steps do to learning; writes docs/scaling.md.

Example:
  python -m benchmarks.scaling.learners --parts=steps --network='256x256, 512'

The parts: `steps` has one, two and four learners on links without a limit, `links` sums of two on links that `tc` keeps
to 0.1, 1 and 10 Gbit/s, and `learning` whole runs until they are solved. Learners of a team are on hosts of their own
(namespaces of the network), and each is bound to a core of this machine. What is measured replaces what the file of
results has of the same part and network; runs that it has are not run again. --parts= measures nothing and writes the
tables.
"""

import itertools
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from benchmarks.measure import machine, now
from benchmarks.pages import ROOT
from benchmarks.reliability.hosts import unavailable
from benchmarks.scaling import results
from benchmarks.scaling.learners import learning, report, teams
from benchmarks.scaling.learners.networks import NETWORKS
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

PARTS = ("steps", "links", "learning")

_PARTS = flags.DEFINE_list("parts", list(PARTS), "Parts to measure.")
_NETWORKS = flags.DEFINE_multi_string("network", [], "Names of the networks that the part steps measures; all.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Of one measurement.", lower_bound=0.1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each, in turn.", lower_bound=1)
_TASKS = flags.DEFINE_list("tasks", ["cartpole"], "Configs of the part learning.")
_RESULTS = flags.DEFINE_string(
    "results", "benchmarks/scaling/learners/results.jsonl", "File of results, read and added to."
)
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of scaling.md; empty writes nothing.")


def measure_steps(part: str, path: Path) -> None:
    """Measures the part `steps` or `links`."""
    if reason := unavailable():
        raise UsageError(reason)
    shapes = teams.shapes_of_steps() if part == "steps" else teams.shapes_of_links()
    on = machine()
    for network in _NETWORKS.value or NETWORKS if part == "steps" else [""]:
        name = f"{part} {network}".strip()

        def keep(setting: str, repeat: int, values: Mapping[str, float], name: str = name) -> None:
            if repeat == 0 and setting == shapes[0].name:
                results.drop(path, name)
            results.append(path, results.Measurement(name, setting, repeat, dict(values), now(), on))
            shown = ", ".join(f"{key} {value:,.5g}" for key, value in values.items())
            print(f"{name} {repeat} {setting}: {shown}", flush=True)

        with tempfile.TemporaryDirectory(prefix="learners-") as folder:
            teams.measure(network, shapes, _SECONDS.value, _REPEATS.value, Path(folder), keep)


def measure_learning(path: Path) -> None:
    """Runs what is missing of the part `learning`."""
    on = machine()
    done = {(one.part, one.setting, one.repeat) for one in results.read(path)}
    for task, seed, form in itertools.product(_TASKS.value, learning.SEEDS, learning.FORMS):
        part = f"learning {task}"
        if (part, form.name, seed) in done:
            continue
        with tempfile.TemporaryDirectory(prefix="learners-") as folder:
            values = learning.train(task, form, seed, Path(folder))
        results.append(path, results.Measurement(part, form.name, seed, dict(values), now(), on))
        print(f"{part}, seed {seed}, {form.name}: {values}", flush=True)


def main(_: list[str]) -> int:
    """Measures the parts asked for and writes the tables."""
    parts = [part for part in _PARTS.value if part]
    if unknown := sorted({*parts} - {*PARTS}):
        raise UsageError(f"--parts: {', '.join(unknown)} unknown; there are {', '.join(PARTS)}")
    if unknown := sorted({*_NETWORKS.value} - NETWORKS.keys()):
        raise UsageError(f"--network: {'; '.join(unknown)} unknown; there are {'; '.join(NETWORKS)}")
    path = ROOT / _RESULTS.value
    for part in parts:
        if part == "learning":
            measure_learning(path)
        else:
            measure_steps(part, path)
    if _DOCS.value:
        report.write(results.read(path), ROOT / _DOCS.value)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
