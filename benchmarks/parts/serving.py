"""Requests per second and their latency that `pipeline.serve` answers with a policy of CartPole, over kept connections.

Example:
  python -m benchmarks.parts.serving --connections=1,8 --bad_clients=200 --page=docs/export.md

The load comes from a process of its own on the same machine: each connection sends its next request, of one
observation, when it has the answer to the one before. The policy has random weights of the shipped configuration. With
`--bad_clients`, the last of `--connections` is measured once more beside so many of `benchmarks.parts.bad_clients`.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from benchmarks.measure import machine, median, print_result, spread
from benchmarks.pages import table, write_between
from pipeline import environments, load
from pipeline.acting import policy_files
from pipeline.acting.policy_files import Policy
from pipeline.command import run_command
from pipeline.experiment.config import dump

_CONNECTIONS = flags.DEFINE_list("connections", ["1", "8"], "Kept open at a time.")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_BAD_CLIENTS = flags.DEFINE_integer("bad_clients", 0, "Beside which to measure once more.", lower_bound=0)
_PAGE = flags.DEFINE_string("page", None, "Of the documentation, to write the figures into.")
_START_SECONDS = 60.0
_WARM_UP_SECONDS = 1.0
"""At least: on a busy machine, beside clients that begin to do their worst, the first answer may take a while."""
_BAD_SECONDS = 3.0
"""In which the bad clients become as many as they are."""
_BODY = b'{"instances": [[0.01, -0.02, 0.03, -0.04]]}'
_REQUEST = (
    b"POST /v1/models/policy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
_LENGTH = b"content-length:"


class Load(NamedTuple):
    """Of one measurement."""

    rate: float
    """Requests answered a second."""
    p50: float
    """Milliseconds from a request to its whole answer: the median of all requests."""
    p99: float


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, and sends the next."""

    def __init__(self, latencies: list[float]) -> None:
        self._latencies, self._received, self._sent = latencies, b"", 0.0
        self.fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self.fault.set_exception(RuntimeError(self._received.decode()))
            self._transport.close()
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._received = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.fault.done():
            self.fault.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(_REQUEST)


async def put_load(port: int, connections: int, seconds: float) -> Load:
    """One measurement.

    Raises:
      RuntimeError: a request was answered with another status than 200.
      ConnectionError: a connection was lost.
    """
    latencies: list[float] = []
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    made = [await loop.create_connection(lambda: _Connection(latencies), "127.0.0.1", port) for _ in range(connections)]
    done, _ = await asyncio.wait([protocol.fault for _, protocol in made], timeout=seconds)
    for fault in done:
        fault.result()
    passed, answered = time.perf_counter() - started, np.array(latencies) * 1e3
    for transport, protocol in made:
        protocol.fault.cancel()
        transport.close()
    return Load(len(answered) / passed, float(np.percentile(answered, 50)), float(np.percentile(answered, 99)))


def untrained(run_dir: Path) -> None:
    """A run of CartPole's shipped configuration with a policy that has learned nothing."""
    from pipeline.learner.learner import Learner  # imports TensorFlow
    from pipeline.records.counters import Counters

    experiment = load("cartpole")
    first = Learner(experiment, environments.describe(experiment.environment)).publication(Counters())
    policy_files.save(Policy(first.program, first.weights, 0, 0, 0.0), run_dir / "policies" / "best")
    (run_dir / "config.toml").write_text(dump(experiment))


def measure(connections: int, port: int) -> list[Load]:
    """Repeats one load, after a short one to warm up."""
    asyncio.run(put_load(port, connections, max(_WARM_UP_SECONDS, _SECONDS.value / 10)))
    loads = [asyncio.run(put_load(port, connections, _SECONDS.value)) for _ in range(_REPEATS.value)]
    print(f"{connections:3d} connections: {spread([each.rate for each in loads])} requests/s, {_latency(loads)}")
    return loads


def measure_beside_bad_clients(connections: int, port: int) -> list[Load]:
    """The same while other clients do their worst."""
    line = [sys.executable, "-m", "benchmarks.parts.bad_clients", str(port), str(_BAD_CLIENTS.value)]
    bad = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    try:
        time.sleep(_BAD_SECONDS)
        return measure(connections, port)
    finally:
        bad.terminate()
        bad.wait(_START_SECONDS)


def _latency(loads: list[Load]) -> str:
    p50, p99 = _latencies(loads)
    return f"half answered within {p50:.2f} ms, 99 % within {p99:.2f} ms"


def _latencies(loads: list[Load]) -> tuple[float, float]:
    return median([each.p50 for each in loads]), median([each.p99 for each in loads])


def lines_of(measured: dict[str, list[Load]]) -> list[str]:
    """The figures for people, by connections."""
    rows = [
        (count, spread([each.rate for each in loads]), *(f"{latency:.2f} ms" for latency in _latencies(loads)))
        for count, loads in measured.items()
    ]
    said = (
        f"One observation of CartPole a request, the load generator on the same machine: {machine()}. Medians of "
        f"{_REPEATS.value} times {_SECONDS.value:g} s (`python -m benchmarks.parts.serving --connections=1,8 "
        f"--bad_clients={_BAD_CLIENTS.value} --page=docs/export.md`)."
    )
    return [*table("| connections | requests/s | half within | 99 % within |", rows), "", said]


def main(_: list[str]) -> int:
    """Starts the server, measures each number of connections, and writes the page."""
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder:
        untrained(Path(folder))
        line = [sys.executable, "-m", "pipeline.serve", f"--run_dir={folder}", "--port=0"]
        server = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2].partition("/")[0])
            measured = {count: measure(int(count), port) for count in _CONNECTIONS.value}
            if _BAD_CLIENTS.value:
                beside = f"{_CONNECTIONS.value[-1]}, beside {_BAD_CLIENTS.value} bad clients"
                measured[beside] = measure_beside_bad_clients(int(_CONNECTIONS.value[-1]), port)
        finally:
            server.terminate()
            server.wait(_START_SECONDS)
    if _PAGE.value:
        write_between(Path(_PAGE.value), "serving", lines_of(measured))
    print_result(
        {"requests_per_second": {count: median([each.rate for each in loads]) for count, loads in measured.items()}}
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
