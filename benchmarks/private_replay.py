"""What keeping others out of the replay costs: CartPole-sized frames written by another process, drawn in the server's.

Example:
  python -m benchmarks.private_replay --repeats=7

The server and the writer are processes of their own, as in a run: open to everyone, on the loopback address, and in a
network namespace.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from benchmarks import live_replay
from benchmarks.measure import median, print_result, rates, spread
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

    server: "subprocess.Popen[str]"
    writer: "subprocess.Popen[str]"


def experiment() -> Experiment:
    return load("cartpole", (f"replay.private={_PRIVATE.value!r}",))


def answer(call: Callable[[], int]) -> int:
    """Does the call for each line on stdin, for `--seconds`, and prints how many units it did per second."""
    for _ in sys.stdin:
        (rate,) = rates({"": call}, _SECONDS.value, 1)[""]
        print(rate, flush=True)
    return 0


def draw() -> int:
    """The part of the server and learner."""
    specs = environments.describe(experiment().environment)
    server = live_replay.serve(experiment(), specs)
    live_replay.fill(experiment(), specs, server.address, 20_000)
    print(server.address, flush=True)
    return answer(live_replay.drawing(server))


def write() -> int:
    """The part of a collector."""
    specs = environments.describe(experiment().environment)
    call = live_replay.writing(experiment(), specs, _ADDRESS.value)
    print("ready", flush=True)
    return answer(call)


def start(part: str, private: str, address: str, namespace: Namespace | None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.private_replay", f"--part={part}", f"--private={private}"]
    command += [f"--address={address}", f"--seconds={_SECONDS.value}"]
    return subprocess.Popen(
        namespace.command(command) if namespace else command,
        pass_fds=namespace.descriptors if namespace else (),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(process: "subprocess.Popen[str]") -> float:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(line(process))


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_pair(private: str, namespace: Namespace | None, stack: contextlib.ExitStack) -> Pair:
    server = start("draw", private, "", namespace)
    stack.callback(server.kill)
    writer = start("write", private, line(server), namespace)
    stack.callback(writer.kill)
    line(writer)
    return Pair(server, writer)


def main(_: list[str]) -> int:
    """Measures all in turn."""
    if _PART.value:
        return draw() if _PART.value == "draw" else write()
    with contextlib.ExitStack() as stack:
        namespace = Namespace()
        stack.callback(namespace.close)
        pairs = {private: start_pair(private, None, stack) for private in ("off", "loopback")}
        pairs["namespace"] = start_pair("namespace", namespace, stack)
        measured: dict[str, list[float]] = {}
        for _round in range(_REPEATS.value):
            for private, pair in pairs.items():
                measured.setdefault(f"write {private}", []).append(ask(pair.writer))
                measured.setdefault(f"sample {private}", []).append(ask(pair.server))
    for name, values in sorted(measured.items()):
        print(f"{name:16}  {spread(values)} transitions/s")
    print_result({name: median(values) for name, values in measured.items()})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
