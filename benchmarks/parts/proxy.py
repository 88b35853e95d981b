"""What mutual TLS costs: rates and latency of a replay in another process, direct and through both proxies.

Example:
  python -m benchmarks.parts.proxy

The replay, both proxies and who uses them share this machine's cores. The table of docs/several_hosts.md is written.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import live_replay
from benchmarks.measure import median, print_result, rates, spread
from benchmarks.pages import DOCS, table, write_between
from benchmarks.processes import Process, say
from pipeline import environments, load
from pipeline.command import run_command
from pipeline.experiment.sections import Experiment
from pipeline.messages.channel import wait_for_server
from pipeline.messages.ports import free_port
from pipeline.replay.frames import FrameLayout
from pipeline.runtime import native
from pipeline.security.certificate_authority import REPLAY, Authority
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import ClientSide, Credentials, ServerSide

_SERVE = flags.DEFINE_list("serve", [], "Of the replay's own process: its ports.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements of each.", lower_bound=1)
_WRITE = flags.DEFINE_bool("write", True, "Write the table of docs/several_hosts.md.")

_START_SECONDS = 120.0
_BATCHES = 50  # of one element of the dataset
_UNITS = {"write": "transitions written/s", "sample": "transitions drawn/s", "call": "ServerInfo calls/s"}


def experiment(port: int, weights_port: int) -> Experiment:
    """CartPole with small items, as replays on other hosts want them."""
    ports = f"replay.port={port}", f"replay.weights_port={weights_port}"
    return load("cartpole", ("learner.batch_size=64", "agent.n_step=1", *ports))


def serve(port: int, weights_port: int) -> None:
    """The replay's process: filled, until its input ends."""
    served = experiment(port, weights_port)
    specs = environments.describe(served.environment)
    server = live_replay.serve(served, specs, port)
    live_replay.fill(served, specs, server.address, 20_000)
    say("filled")
    sys.stdin.read()
    server.stop()


def drawing(served: Experiment, address: str) -> Callable[[], int]:
    """A call that draws a batch as a learner does and returns how many transitions it has."""
    import reverb
    import tensorflow as tf

    table = FrameLayout.of(served, environments.describe(served.environment)).table
    items = max(1, served.learner.batch_size * _BATCHES // served.windows_per_item)

    def draw(_: Any) -> Any:
        drawn = reverb.TrajectoryDataset.from_table_signature(
            address, table, max_in_flight_samples_per_worker=max(8, items // 2)
        )
        return drawn.batch(items, drop_remainder=True)

    samples = iter(tf.data.Dataset.range(2).interleave(draw, cycle_length=2, num_parallel_calls=2).prefetch(1))

    def take() -> int:
        next(samples)
        return items * served.windows_per_item

    return take


def calls(served: Experiment, address: str, messages_address: str) -> dict[str, Callable[[], int]]:
    """What is measured, of the replay at those addresses for frames and for messages."""
    specs, client = environments.describe(served.environment), native.reverb_client(messages_address)

    def call() -> int:
        client.ServerInfo(10)
        return 1

    return {
        "write": live_replay.writing(served, specs, address),
        "sample": drawing(served, address),
        "call": call,
    }


def proxied(folder: Path, port: int, weights_port: int, stack: ExitStack) -> tuple[str, str]:
    """Starts both proxies; returns the replay's addresses behind them, for frames and for messages."""
    authority = Authority(folder / "certificates")
    authority.create(["localhost"], 1, 1)

    def start(side: ServerSide | ClientSide) -> Proxy:
        proxy = Proxy(side, folder / "log")
        stack.callback(proxy.stop)
        proxy.start()
        return proxy

    credentials = [Credentials(authority.certificate, authority.of(role)) for role in (REPLAY, "learner")]
    server = start(ServerSide(credentials[0], "127.0.0.1", 0, port, weights_port))
    server_port = int(server.address.rpartition(":")[2])
    client = start(ClientSide(credentials[1], folder / "sockets", "localhost", server_port))
    return client.address, client.messages_address


def measure(folder: Path, stack: ExitStack) -> dict[str, list[float]]:
    """Rates by "what way", such as "write direct"."""
    port, weights_port = free_port(), free_port()
    replay = Process("replay", "benchmarks.parts.proxy", [f"--serve={port},{weights_port}"], folder)
    stack.callback(replay.end)
    replay.answer()
    served = experiment(port, weights_port)
    direct = f"localhost:{port}"
    addresses = {"direct": (direct, direct), "proxied": proxied(folder, port, weights_port, stack)}
    by_way: dict[str, dict[str, Callable[[], int]]] = {}
    for way, (address, messages_address) in addresses.items():
        wait_for_server(address, _START_SECONDS, "the benchmark")
        by_way[way] = calls(served, address, messages_address)
    results: dict[str, list[float]] = {}
    for what in _UNITS:  # one after the other: a sampler that waits goes on to fetch ahead
        pair = {f"{what} {way}": by_way[way][what] for way in addresses}
        for call in pair.values():
            call()
        results |= rates(pair, _SECONDS.value, _REPEATS.value)
    return results


def rows(results: dict[str, list[float]]) -> list[str]:
    """The table of the page."""
    cells = []
    for what, unit in _UNITS.items():
        direct, through = results[f"{what} direct"], results[f"{what} proxied"]
        cells.append((unit, spread(direct), spread(through), f"{median(through) / median(direct):.0%}"))
    lines = [
        f"Medians (least to largest) of {_REPEATS.value}, in turn, all processes on the same machine:",
        "",
        *table("| | direct, loopback | through both proxies | share |", cells),
    ]
    near, far = (1e6 / median(results[f"call {way}"]) for way in ("direct", "proxied"))
    return [*lines, "", f"A call takes {near:.0f} us directly and {far:.0f} us through both proxies."]


def main(_: list[str]) -> int:
    """Measures both ways and writes the page's table."""
    if _SERVE.value:
        serve(*map(int, _SERVE.value))
        return 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        results = measure(Path(folder), stack)
    lines = rows(results)
    print("\n".join(lines))
    if _WRITE.value:
        write_between(DOCS / "several_hosts.md", "proxy", lines)
    print_result({name: median(values) for name, values in results.items()})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
