"""Acting at a server beside each collector acting by itself: steps, CPU and latency; and what a transport costs.

Examples:
  python -m benchmarks.parts.inference --config=pong --lanes=8 --collectors=1,2,4
  python -m benchmarks.parts.inference --transports=6400,225792
  python -m benchmarks.parts.inference --config=pong --lanes=8 --lane_groups

Collectors step real environments with the Q-network in their loop and write into a server that holds nothing back. For
each number of collectors all forms are there at once and measured in turn, the others at rest while one works, so that
noise meets all alike. Of the central form with two groups a collector steps one half of its lanes while the acting
server has the other's request. CPU is that of the collectors and, of the central form, of the acting server.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from absl import flags

from agents import Specs
from benchmarks.measure import median, print_result, spread
from benchmarks.pages import table, write_between
from benchmarks.parts.inference import lane_groups, transports
from benchmarks.processes import Process, say
from pipeline import Experiment, environments, load
from pipeline.collector.collector import Collector
from pipeline.command import run_command
from pipeline.messages import listening
from pipeline.messages.contents import Variables
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records.recorder import Recorder
from pipeline.replay.frames import FrameLayout

_CONFIG = flags.DEFINE_string("config", "pong", "Config of the environment and of the network.")
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config; may be repeated.")
_LANES = flags.DEFINE_integer("lanes", 8, "Lanes of a collector.", lower_bound=1)
_COLLECTORS = flags.DEFINE_list("collectors", ["1", "2", "4"], "Numbers of collectors.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_TRANSPORTS = flags.DEFINE_list("transports", [], "Bytes of a request: measures transports alone, nothing else.")
_GROUPS = flags.DEFINE_boolean("lane_groups", False, "Measures double-buffered halves of the lanes, nothing else.")
_PAGE = flags.DEFINE_string("page", "", "Page to write the figures into, between its marks; empty writes none.")
_HALVES = flags.DEFINE_boolean("halves", False, "Of this process: two collectors of so many lanes each, in turn.")
_ROLE = flags.DEFINE_enum("as_role", None, ["collector", "acting"], "What this process is.")
_ADDRESS = flags.DEFINE_string("address", "", "Of the replay's server, for this process.")
_ACTING = flags.DEFINE_string("acting", "", "Of the acting server, for this process.")

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # this process forks beside channels of its own
_MODULE = "benchmarks.parts.inference"


def _experiment(groups: int = 1) -> Experiment:
    lanes = _LANES.value // groups
    lines = [f"collect.lanes={lanes}", "collect.collectors=8", "collect.inference='central'"]
    lines += ["replay.capacity=20000", "replay.min_size=512", *_SET.value]
    return load(
        _CONFIG.value,
        (*lines, *(["environment.kwargs.threads=1"] if "ALE/" in load(_CONFIG.value).environment.id else [])),
    )


def act() -> None:
    """Is the acting server."""
    from pipeline.acting.acting_server import run_acting_server

    experiment = _experiment()
    seen = FrameLayout.of(experiment, environments.describe(experiment.environment)).agent_specs
    bound, never = listening.at(_ACTING.value, "--acting"), threading.Event()
    run_acting_server(experiment, seen, bound, _ADDRESS.value, never, Recorder(None), lambda _: say("ready"))


def collect() -> None:
    """Is a collector that answers with steps, seconds, and the seconds of each wait for scores."""
    experiment, is_central = _experiment(), bool(_ACTING.value)
    specs = environments.describe(experiment.environment)
    reader = VariablesReader(_ADDRESS.value, experiment.collect.variables_seconds, is_central)
    variables = reader.wait(60.0, "the benchmark")
    of_all = experiment, specs, 0, f"benchmark-{os.getpid()}", _ADDRESS.value, variables
    if _HALVES.value:
        step_halves(experiment, specs, reader, variables)
    if is_central:
        from pipeline.collector.central_collector import CentralCollector

        collector: Collector = CentralCollector(_ACTING.value, lambda: True, *of_all)
    else:
        collector = Collector(*of_all)
    waits: list[float] = []
    scores_of = collector._actor.q_values

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        scores = scores_of(*arguments)
        waits.append(time.perf_counter() - began)
        return scores

    collector._actor.q_values = timed  # type: ignore[method-assign,assignment]

    def step() -> int:
        collector.use(reader.newest or variables)
        collector.step()
        collector.confirm(lambda: True)
        return collector.environment_steps

    answer(step, waits)


def step_halves(experiment: Experiment, specs: Specs, reader: VariablesReader, variables: Variables) -> NoReturn:
    """Is a collector of twice the lanes, in two groups."""
    waits: list[float] = []
    halves = [
        lane_groups.Half(_ACTING.value, experiment, specs, f"{os.getpid()}-{n}", _ADDRESS.value, variables, waits)
        for n in range(2)
    ]
    for half in halves:
        half.ask()

    def step() -> int:
        for half in halves:
            half.use(reader.newest or variables)
            half.step()  # the other half's scores are being computed
            half.ask()
            half.confirm(lambda: True)
        return sum(half.environment_steps for half in halves)

    answer(step, waits)


def answer(step: Callable[[], int], waits: list[float]) -> NoReturn:
    """Answers each line with steps, seconds, and the median and the 99th percentile of waits for scores."""
    for _ in range(50):
        step()
    say("ready")
    for _ in sys.stdin:
        before, began = step(), time.perf_counter()
        waits.clear()
        after = before
        while (passed := time.perf_counter() - began) < _SECONDS.value:
            after = step()
        p50, p99 = np.percentile(waits, [50, 99]).tolist()
        say([after - before, passed, p50, p99])
    os._exit(0)


def _flags(lanes: int, *further: str) -> list[str]:
    values = [f"--config={_CONFIG.value}", f"--lanes={lanes}", f"--seconds={_SECONDS.value}"]
    return [*values, *(f"--set={line}" for line in _SET.value), *further]


def _ask(form: list[Process]) -> dict[str, float]:
    """Steps a second, CPU seconds for 1,000 steps, and milliseconds of a wait for scores, of one form at work."""
    for process in form:
        process.go_on()
    collectors = [process for process in form if process.name.startswith("collector")]
    before = sum(process.cpu() for process in form)
    for process in collectors:
        process.tell()
    answers = [process.answer(_SECONDS.value + 60.0) for process in collectors]
    cpu = sum(process.cpu() for process in form) - before
    for process in form:
        process.rest()
    steps = sum(answer[0] for answer in answers)
    return {
        "steps": sum(answer[0] / answer[1] for answer in answers),
        "cpu": 1e3 * cpu / steps,
        "p50": 1e3 * statistics.median(answer[2] for answer in answers),
        "p99": 1e3 * max(answer[3] for answer in answers),
    }


def measure(folder: Path) -> list[tuple[str, ...]]:
    """Rows of the table: collectors, form, and what was measured of it."""
    from benchmarks import live_replay

    specs = environments.describe(_experiment().environment)
    servers = {groups: live_replay.serve(_experiment(groups), specs) for groups in (1, 2)}  # an item has as many lanes
    for server in servers.values():
        live_replay.publish(_experiment(), specs, server.address, environment_steps=1_000_000)
    rows: list[tuple[str, ...]] = []
    for number in map(int, _COLLECTORS.value):
        with ExitStack() as stack:

            def start(name: str, *further: str, groups: int = 1, stack: ExitStack = stack) -> Process:
                given = _flags(_LANES.value // groups, f"--address={servers[groups].address}", *further)
                process = Process(name, _MODULE, given, folder)
                stack.callback(process.end)
                process.answer()
                return process

            def central(groups: int, *further: str, number: int = number, start: Any = start) -> list[Process]:
                place = f"--acting=unix:{folder}/acting-{number}-{groups}.sock"
                server, name = start(f"acting-{number}-{groups}", "--as_role=acting", place, groups=groups), "collector"
                flags = "--as_role=collector", place, *further
                return [server, *(start(f"{name}-{number}-{n}-{groups}", *flags, groups=groups) for n in range(number))]

            forms = {
                "local": [start(f"collector-{number}-{n}-alone", "--as_role=collector") for n in range(number)],
                "central": central(1),
                "central, two groups": central(2, "--halves"),
            }
            for form in forms.values():
                for process in form:
                    process.rest()
            found: dict[str, list[dict[str, float]]] = {name: [] for name in forms}
            for _ in range(_REPEATS.value):
                for name, measured in found.items():
                    measured.append(_ask(forms[name]))
        for name, measured in found.items():
            columns = {key: [each[key] for each in measured] for key in measured[0]}
            p50, p99, cpu = (median(columns[key]) for key in ("p50", "p99", "cpu"))
            rows.append((str(number), name, spread(columns["steps"]), f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.3g}"))
            print(*rows[-1], sep=" | ", flush=True)
    for server in servers.values():
        server.stop()
    return rows


def main(_: list[str]) -> int:
    """Measures transports, lane groups, or both forms of acting."""
    if _ROLE.value == "acting":
        act()
    if _ROLE.value == "collector":
        collect()
    if _TRANSPORTS.value:
        rows = [row for size in map(int, _TRANSPORTS.value) for row in transports.measure(size, _REPEATS.value)]
        print(*(" | ".join(row) for row in rows), sep="\n", flush=True)
        head, mark = "| bytes of a request | transport | p50, us | p99, us |", "transports"
    elif _GROUPS.value:
        rows = lane_groups.measure(_experiment(), _SECONDS.value, _REPEATS.value)
        mark = f"lane groups {_CONFIG.value}"
        head = "| one process steps | environment steps/s | CPU s for 1,000 steps |"
        print(*rows, sep="\n", flush=True)
    else:
        with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
            rows = measure(Path(folder))
        head, mark = (
            "| collectors | inference | environment steps/s | scores: p50, ms | p99, ms | CPU s for 1,000 steps |",
            f"inference {_CONFIG.value}",
        )
    if _PAGE.value:
        write_between(Path(_PAGE.value), mark, table(head, rows))
    print_result({mark: rows})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
