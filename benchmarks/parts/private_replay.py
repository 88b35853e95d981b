"""What keeping others out of the replay costs: CartPole-sized frames written by another process, drawn in the server's.

Example:
  python -m benchmarks.parts.private_replay --repeats=7

The server and the writer are processes of their own, as in a run: open to everyone, on the loopback address, and in a
network namespace.
"""

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from absl import flags

from benchmarks import live_replay
from benchmarks.measure import median, print_result, spread
from benchmarks.processes import Process, answer_rates, say
from pipeline import Experiment, environments, load
from pipeline.command import run_command
from pipeline.security.network_namespace import Namespace

_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements of each.", lower_bound=1)
_PART = flags.DEFINE_string("part", "", "What a process that this one starts does; for itself.")
_PRIVATE = flags.DEFINE_string("private", "off", "replay.private of that process.")
_ADDRESS = flags.DEFINE_string("address", "", "The server's, for the writer.")


class Pair(NamedTuple):
    """A server that draws and a writer beside it."""

    server: Process
    writer: Process


def experiment() -> Experiment:
    return load("cartpole", (f"replay.private={_PRIVATE.value!r}",))


def draw() -> None:
    """The part of the server and learner."""
    specs = environments.describe(experiment().environment)
    server = live_replay.serve(experiment(), specs)
    live_replay.fill(experiment(), specs, server.address, 20_000)
    say(server.address)
    answer_rates(live_replay.drawing(server), _SECONDS.value)


def write() -> None:
    """The part of a collector."""
    specs = environments.describe(experiment().environment)
    call = live_replay.writing(experiment(), specs, _ADDRESS.value)
    say("ready")
    answer_rates(call, _SECONDS.value)


def start_pair(private: str, folder: Path, namespace: Namespace | None, stack: contextlib.ExitStack) -> Pair:
    def start(part: str, address: str) -> tuple[Process, str]:
        told = [f"--part={part}", f"--private={private}", f"--address={address}", f"--seconds={_SECONDS.value}"]
        process = Process(f"{part}-{private}", "benchmarks.parts.private_replay", told, folder, namespace)
        stack.callback(process.end)
        return process, process.answer()

    server, address = start("draw", "")
    writer, _ = start("write", address)
    return Pair(server, writer)


def main(_: list[str]) -> int:
    """Measures all in turn."""
    if _PART.value:
        {"draw": draw, "write": write}[_PART.value]()
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        namespace = Namespace()
        stack.callback(namespace.close)
        pairs = {private: start_pair(private, folder, None, stack) for private in ("off", "loopback")}
        pairs["namespace"] = start_pair("namespace", folder, namespace, stack)
        measured: dict[str, list[float]] = {}
        for _round in range(_REPEATS.value):
            for private, pair in pairs.items():
                measured.setdefault(f"write {private}", []).append(pair.writer.ask(seconds=_SECONDS.value))
                measured.setdefault(f"sample {private}", []).append(pair.server.ask(seconds=_SECONDS.value))
    for name, values in sorted(measured.items()):
        print(f"{name:16}  {spread(values)} transitions/s")
    print_result({name: median(values) for name, values in measured.items()})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
