"""How collectors end; a program, as what waits for its servers' limiters waits in C++ and is never waited for.

`collectors_ending.py CONFIG FOLDER PORT PORT`. Two collectors run in it until they are told to leave, one of which the
limiter holds back; it prints what became of each, by whether inserts block. Meanwhile it serves collectors of other
processes on the two ports: once it holds both of them back it prints "held back", and waits for its own end.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from waiting import SECONDS

from agents import ArraySpec, DqnConfig, Specs
from agents.networks import value_model
from pipeline.acting import network_program
from pipeline.experiment.config import load, parse
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import Publisher, take
from pipeline.messages.contents import REPORTS_TABLE, Array, CollectorReport, Report, Variables
from pipeline.messages.ports import free_port
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.roles.collector_role import run_collector
from pipeline.runtime import native
from pipeline.runtime.process import die_with_parent

SPECS = Specs(ArraySpec((4,), "float32"), 3)
OVERRIDES = (
    "environment.import_path='environments_for_tests:Counting'",
    "collect.lanes=4",
    "learner.batch_size=8",
    "learner.steps_per_call=2",
    "collect.report_seconds=0.05",
    "replay.min_size=8",
    "replay.samples_per_insert=1.0",
    "replay.steps_per_item=2",
)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Waits until something is so; the program ends where it never is."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            print(f"waited in vain: {what}", flush=True)
            os._exit(1)
        time.sleep(0.02)


def holds_inserts(server: EmbeddedReplay) -> bool:
    """Whether Reverb lets no further item in, as nobody samples."""
    of = server.info().rate_limiter_info
    inserted = of.insert_stats.completed
    return bool(inserted >= of.min_size_to_sample and (inserted + 1) * of.samples_per_insert > of.max_diff)


def publication(gradient_steps: int, **fields: Any) -> Variables:
    """Weights of a linear network."""
    model = value_model(SPECS, DqnConfig(hidden_units=()), None, seed=0)
    weights = tuple(Array.of(weight.numpy()) for weight in model.weights)
    return Variables(gradient_steps, 0, program=network_program.convert(model, SPECS), weights=weights, **fields)


def until_told(server: EmbeddedReplay, first: Variables, last: Variables, blocking: bool) -> dict[str, Any]:
    """What became of a collector that leaves when it is told to."""
    reports: list[CollectorReport] = []
    publisher = Publisher([server.address])
    publisher.publish(first, True)

    def receive() -> None:
        take(native.reverb_client(server.address), REPORTS_TABLE, Report, 10**6, reports.append)

    def collect() -> int:
        experiment = parse("", OVERRIDES)
        return run_collector(experiment, 0, Addresses.of([server.address]), "p", threading.Event())

    threading.Thread(target=receive, daemon=True).start()
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(collect)
        if blocking:
            wait_for(lambda: holds_inserts(server), "the limiter holds the collector back")
        else:
            wait_for(lambda: len(reports) >= 3 and server.tally().inserted > 20, "the collector stores and reports")
        publisher.publish(last, True)
        wait_for(lambda: code.done() and reports and reports[-1].last, "the collector has left")
    report = reports[-1]
    return {
        "code": code.result(),
        "last": [each.last for each in reports],
        "items": server.tally().inserted,
        "transitions": report.windows,
        "unconfirmed": report.unconfirmed,
        "steps": report.environment_steps,
        "episodes": report.episodes,
        "returns": sum(len(each.returns) for each in reports),
    }


def main(config: str, folder: Path, ports: list[int]) -> None:
    first = publication(0)
    last = publication(1, stopping=True, is_finished=True)
    others = [EmbeddedReplay(load(config), SPECS, port, folder / str(port)) for port in ports]
    for server in others:
        Publisher([server.address]).publish(first, True)
    own = {
        blocking: EmbeddedReplay(parse("", OVERRIDES), SPECS, free_port(), folder / str(blocking), blocking=blocking)
        for blocking in (True, False)
    }
    with ThreadPoolExecutor(2) as pool:
        found = {key: pool.submit(until_told, server, first, last, key) for key, server in own.items()}
        print(json.dumps({"blocking" if key else "free": each.result() for key, each in found.items()}), flush=True)
    for server in others:
        wait_for(lambda server=server: holds_inserts(server), "the collectors of other processes are held back")  # type: ignore[misc]
    print("held back", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    die_with_parent()
    main(sys.argv[1], Path(sys.argv[2]), [int(port) for port in sys.argv[3:]])
