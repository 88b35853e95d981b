"""Acting at a server beside each collector acting by itself: steps, CPU and latency; and what a transport costs.

Examples:
  python -m benchmarks.parts.inference --config=pong --lanes=8 --collectors=1,2,4
  python -m benchmarks.parts.inference --transports=6400,225792
  python -m benchmarks.parts.inference --config=pong --lanes=8 --lane_groups

Collectors step real environments with the Q-network in their loop and write into a server that holds nothing back. For
each number of collectors both forms are there at once and measured in turn, one at rest while the other works, so that
noise meets both alike. CPU is that of the collectors and, of the central form, of the acting server.
"""

import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import median, print_result, rates, spread
from benchmarks.pages import table, write_between
from benchmarks.processes import Process, say
from pipeline import Experiment, environments, load
from pipeline.collector.collector import Collector
from pipeline.command import run_command
from pipeline.messages import listening
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
_ROLE = flags.DEFINE_enum("as_role", None, ["collector", "acting"], "What this process is.")
_ADDRESS = flags.DEFINE_string("address", "", "Of the replay's server, for this process.")
_ACTING = flags.DEFINE_string("acting", "", "Of the acting server, for this process.")

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # this process forks beside channels of its own
_MODULE = "benchmarks.parts.inference"
_REPLY_BYTES = 400
_ASKED = 300
"""Requests of a measurement of a transport."""


def _experiment(collectors: int = 4) -> Experiment:
    lines = [f"collect.lanes={_LANES.value}", f"collect.collectors={collectors}", "collect.inference='central'"]
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
    for _ in range(50):
        collector.step()
        collector.confirm(lambda: True)
    say("ready")
    for _ in sys.stdin:
        before, began = collector.environment_steps, time.perf_counter()
        waits.clear()
        while (passed := time.perf_counter() - began) < _SECONDS.value:
            collector.use(reader.newest or variables)
            collector.step()
            collector.confirm(lambda: True)
        p50, p99 = np.percentile(waits, [50, 99]).tolist()
        say([collector.environment_steps - before, passed, p50, p99])
    os._exit(0)


def _flags(*further: str) -> list[str]:
    values = [f"--config={_CONFIG.value}", f"--lanes={_LANES.value}", f"--seconds={_SECONDS.value}"]
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

    experiment = _experiment()
    specs = environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    live_replay.publish(experiment, specs, server.address, environment_steps=1_000_000)
    rows: list[tuple[str, ...]] = []
    for number in map(int, _COLLECTORS.value):
        with ExitStack() as stack:

            def start(name: str, *further: str, stack: ExitStack = stack) -> Process:
                process = Process(name, _MODULE, _flags(f"--address={server.address}", *further), folder)
                stack.callback(process.end)
                process.answer()
                return process

            place = f"--acting=unix:{folder}/acting-{number}.sock"
            forms = {
                "central": [
                    start(f"acting-{number}", "--as_role=acting", place),
                    *(start(f"collector-{number}-{n}", "--as_role=collector", place) for n in range(number)),
                ],
                "local": [start(f"collector-{number}-{n}-alone", "--as_role=collector") for n in range(number)],
            }
            for form in forms.values():
                for process in form:
                    process.rest()
            found: dict[str, list[dict[str, float]]] = {"local": [], "central": []}
            for _ in range(_REPEATS.value):
                for name, measured in found.items():
                    measured.append(_ask(forms[name]))
        for name, measured in found.items():
            columns = {key: [each[key] for each in measured] for key in measured[0]}
            p50, p99, cpu = (median(columns[key]) for key in ("p50", "p99", "cpu"))
            rows.append((str(number), name, spread(columns["steps"]), f"{p50:.2f}", f"{p99:.2f}", f"{cpu:.3g}"))
            print(*rows[-1], sep=" | ", flush=True)
    server.stop()
    return rows


def _echo(bound: socket.socket, size: int) -> None:
    connection, _ = bound.accept()
    buffer = bytearray(size)
    while True:
        have = 0
        while have < size:
            count = connection.recv_into(memoryview(buffer)[have:])
            if not count:
                return
            have += count
        connection.sendall(bytes(_REPLY_BYTES))


def _over_socket(bound: socket.socket, size: int, stack: ExitStack) -> Callable[[bytes], None]:
    process = multiprocessing.get_context("fork").Process(target=_echo, args=(bound, size), daemon=True)
    process.start()
    stack.callback(process.join)
    name = bound.getsockname()
    connection = stack.enter_context(socket.socket(bound.family, socket.SOCK_STREAM))
    connection.connect(name)
    if bound.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = bytearray(_REPLY_BYTES)

    def ask(data: bytes) -> None:
        connection.sendall(data)
        have = 0
        while have < len(back):
            have += connection.recv_into(memoryview(back)[have:])

    return ask


def _over_unix(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reverb-dqn-"))
    return _over_socket(stack.enter_context(listening.at_path(Path(folder) / "echo.sock")), size, stack)


def _over_tcp(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    return _over_socket(stack.enter_context(listening.at_port("127.0.0.1", 0)), size, stack)


def _over_memory(size: int, stack: ExitStack) -> Callable[[bytes], None]:
    """Shared memory, and a byte over a socket that says that something is there."""
    import mmap

    shared, (here, there) = mmap.mmap(-1, size + _REPLY_BYTES), socket.socketpair()

    def answer() -> None:
        here.close()
        while there.recv(1):
            bytes(shared[:size])
            shared[size:] = bytes(_REPLY_BYTES)
            there.send(b"x")

    process = multiprocessing.get_context("fork").Process(target=answer, daemon=True)
    process.start()
    stack.callback(process.join)
    there.close()
    stack.callback(here.close)

    def ask(data: bytes) -> None:
        shared[:size] = data
        here.send(b"x")
        here.recv(1)
        bytes(shared[size:])

    return ask


def _over_grpc(_: int, stack: ExitStack) -> Callable[[bytes], None]:
    """A stream of gRPC in Python, over a Unix socket."""
    import queue

    import grpc  # type: ignore[import-untyped]

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="reverb-dqn-"))
    address, unbounded = f"unix:{folder}/echo.sock", [("grpc.max_receive_message_length", -1)]
    answering = multiprocessing.get_context("spawn").Process(target=_answer_grpc, args=(address,), daemon=True)
    answering.start()
    stack.callback(answering.kill)
    channel = grpc.insecure_channel(address, options=unbounded)
    grpc.channel_ready_future(channel).result(60.0)
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    replies = channel.stream_stream("/echo/ask")(iter(asked.get, None))
    stack.callback(channel.close)
    stack.callback(asked.put, None)

    def ask(data: bytes) -> None:
        asked.put(data)
        next(replies)

    return ask


def _answer_grpc(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    handler = grpc.stream_stream_rpc_method_handler(lambda asked, _: (bytes(_REPLY_BYTES) for _ in asked))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"ask": handler}),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


_WAYS: dict[str, Callable[[int, ExitStack], Callable[[bytes], None]]] = {
    "shared memory": _over_memory,
    "Unix socket": _over_unix,
    "TCP": _over_tcp,
    "gRPC": _over_grpc,
}


def measure_transports(size: int) -> list[tuple[str, ...]]:
    """Rows of the table: bytes, transport, and microseconds of a request and its reply."""
    data = np.random.default_rng(0).bytes(size)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _WAYS}
    for _ in range(_REPEATS.value):
        for name, way in _WAYS.items():
            with ExitStack() as stack:
                ask = way(size, stack)
                for _ in range(20):
                    ask(data)
                took = []
                for _ in range(_ASKED):
                    began = time.perf_counter()
                    ask(data)
                    took.append(1e6 * (time.perf_counter() - began))
                p50, p99 = np.percentile(took, [50, 99]).tolist()
                found[name].append((p50, p99))
    rows: list[tuple[str, ...]] = []
    for name, measured in found.items():
        p50, p99 = (statistics.median(each[column] for each in measured) for column in (0, 1))
        rows.append((f"{size:,}", name, f"{p50:,.0f}", f"{p99:,.0f}"))
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def measure_groups() -> list[tuple[str, ...]]:
    """Rows of the table: how one process steps all lanes together, in two halves, or one half while the other acts."""
    from concurrent.futures import ThreadPoolExecutor

    from agents import build
    from pipeline.acting.frame_stacks import FrameStack, stacked
    from pipeline.acting.network_program import convert, convolves_much, make_actor

    experiment = _experiment()
    specs, frames = environments.describe(experiment.environment), experiment.environment.frame_stack
    seen = stacked(specs, frames)
    model = build(experiment.agent.kind, seen, experiment.agent).acting_model
    program, weights = b"" if convolves_much(model) else convert(model, seen), model.get_weights()

    class Group:
        """Some of the lanes."""

        def __init__(self, lanes: int) -> None:
            self.lanes = lanes
            self._environment = environments.make(experiment.environment, lanes)
            self._stack = FrameStack(specs, frames, lanes)
            self._actor = make_actor(experiment.agent, seen, lanes, program, weights)
            self._observation = self._environment.reset(0).observation

        def scores(self) -> Any:
            return self._actor.q_values(self._stack.push(self._observation, np.zeros(self.lanes, np.bool_)))

        def step(self, scores: Any) -> None:
            self._observation = self._environment.step(scores.argmax(axis=1)).observation

    whole, halves = Group(_LANES.value), [Group(_LANES.value // 2) for _ in range(2)]
    thread = ThreadPoolExecutor(1)

    def together() -> int:
        whole.step(whole.scores())
        return whole.lanes

    def in_turn() -> int:
        for half in halves:
            half.step(half.scores())
        return whole.lanes

    asked = [thread.submit(half.scores) for half in halves]

    def double_buffered() -> int:
        for number, half in enumerate(halves):
            half.step(asked[number].result())  # the other half's scores are being computed
            asked[number] = thread.submit(half.scores)
        return whole.lanes

    forms = {"all lanes": together, "two halves": in_turn, "one half while the other acts": double_buffered}
    rates(forms, 1.0, 1)  # warm up
    speeds = rates(forms, _SECONDS.value, _REPEATS.value)
    used = rates(forms, _SECONDS.value, _REPEATS.value, time.process_time)
    return [(name, spread(speeds[name]), f"{1e3 / median(used[name]):.3g}") for name in forms]


def main(_: list[str]) -> int:
    """Measures transports, lane groups, or both forms of acting."""
    if _ROLE.value == "acting":
        act()
    if _ROLE.value == "collector":
        collect()
    if _TRANSPORTS.value:
        rows = [row for size in map(int, _TRANSPORTS.value) for row in measure_transports(size)]
        head, mark = "| bytes of a request | transport | p50, us | p99, us |", "transports"
    elif _GROUPS.value:
        rows, mark = measure_groups(), f"lane groups {_CONFIG.value}"
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
