"""What an Atari transition costs: bytes of replay memory, and collector speed beside the bare vector environment's.

Example:
  python -m benchmarks.parts.atari --collectors=2 --lanes=16

Memory: frames of random bytes, which nothing compresses, and frames of play. Speed: the bare vector environment on all
cores, and collectors with the Q-network in their loop, each a process with one thread for its games, in turn; their
server is in yet another process.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
from absl import flags

from benchmarks.measure import median, print_result, rates, spread
from benchmarks.pages import table, write_between
from benchmarks.processes import Process, answer_rates, ask_together, say
from pipeline import Experiment, environments, load
from pipeline.collector.collector import Collector
from pipeline.command import run_command
from pipeline.messages.variables_reader import VariablesReader
from pipeline.replay.frames import FrameLayout

_CONFIG = flags.DEFINE_string("config", "pong", "Config of the game.")
_COLLECTORS = flags.DEFINE_integer("collectors", 2, "Collector processes.", lower_bound=1)
_LANES = flags.DEFINE_integer("lanes", 16, "Lanes of a collector, and of the bare environment.", lower_bound=1)
_TRANSITIONS = flags.DEFINE_integer("transitions", 40_000, "Stored for each measurement of memory.", lower_bound=100)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Of one measurement of speed.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of speed.", lower_bound=1)
_COLLECT_INTO = flags.DEFINE_string("collect_into", None, "Address of a server: this process is a collector.")
_STEP_BARE = flags.DEFINE_boolean("step_bare", False, "This process steps the bare environment.")
_STORE = flags.DEFINE_enum("store", None, ["random", "played"], "This process measures the memory of such frames.")

_PAGE = flags.DEFINE_string("page", "", "Page to write the figures into, between its marks; empty writes none.")

_MODULE = "benchmarks.parts.atari"
_PLANNED = 1_000_000
_STORE_SECONDS = 1_200.0


def _experiment() -> Experiment:
    lines = (f"collect.lanes={_LANES.value}", f"replay.capacity={_TRANSITIONS.value}", "replay.min_size=512")
    return load(_CONFIG.value, (*lines, *(["environment.kwargs.threads=1"] if _COLLECT_INTO.value else [])))


def store(frames_of: str) -> None:
    """Prints the bytes that a transition adds to this process, which holds the replay, and those of a frame."""
    from benchmarks import live_replay

    experiment = _experiment()
    specs = environments.describe(experiment.environment)
    layout, lanes = FrameLayout.of(experiment, specs), experiment.collect.lanes
    server = live_replay.serve(experiment, specs)
    writer = live_replay.writer(experiment, specs, server.address)
    environment = environments.make(experiment.environment, lanes)
    frames, random = layout.empty(lanes), np.random.default_rng(0)
    played = environment.reset(0).observation[""]
    process, (image,) = psutil.Process(), specs.leaves().values()
    before = steps = 0
    warm_up = 2_048 // lanes  # buffers and threads that stay are none of a transition's
    for steps in range(1, warm_up + _TRANSITIONS.value // lanes + 1):
        if frames_of == "random":
            frames["observation/"] = random.integers(0, 256, (lanes, *image.shape), np.uint8)
        else:
            played = environment.step(random.integers(0, specs.num_actions, lanes)).observation[""]
            frames["observation/"] = played
        frames["step_type"] = frames["next_step_type"] = 1
        writer.append(frames)
        writer.confirm(lambda: True, everything=steps == warm_up)
        if steps == warm_up:
            before = process.memory_info().rss
    writer.confirm(lambda: True, everything=True)
    grown = process.memory_info().rss - before
    say([grown / ((steps - warm_up) * lanes), int(np.prod(image.shape))])
    os._exit(0)


def answer(step: Callable[[], int]) -> None:
    """Measures when told to, once it is warm."""
    rates({"warm up": step}, 1.0, 1)
    say("ready")
    answer_rates(step, _SECONDS.value)


def collect(address: str) -> None:
    """Is a collector that answers for its environment steps per second."""
    experiment = _experiment()
    reader = VariablesReader(address, experiment.collect.variables_seconds)
    variables = reader.wait(60.0, "the benchmark")
    specs = environments.describe(experiment.environment)
    collector = Collector(experiment, specs, 0, "benchmark", address, variables)

    def step() -> int:
        collector.step()
        collector.confirm(lambda: True)
        return experiment.collect.lanes

    answer(step)


def step_bare() -> None:
    """Answers for the bare vector environment, with random actions."""
    vector = environments.make(_experiment().environment, _LANES.value).vector
    vector.reset(seed=0)
    random, actions = np.random.default_rng(0), environments.describe(_experiment().environment).num_actions

    def step() -> int:
        vector.step(random.integers(0, actions, vector.num_envs))
        return int(vector.num_envs)

    answer(step)


def _flags(argument: str) -> list[str]:
    values = {"config": _CONFIG.value, "lanes": _LANES.value, "transitions": _TRANSITIONS.value}
    return [*(f"--{name}={value}" for name, value in values.items()), f"--seconds={_SECONDS.value}", argument]


def _memory(frames_of: str, folder: Path, stack: ExitStack) -> tuple[float, int]:
    process = Process(f"{frames_of}-frames", _MODULE, _flags(f"--store={frames_of}"), folder)
    stack.callback(process.end)
    of_transition, of_frame = process.answer(_STORE_SECONDS)
    return of_transition, of_frame


def measure_speed(folder: Path, stack: ExitStack) -> dict[str, list[float]]:
    """Environment steps per second of the bare environment and of the collectors, in turn.

    Args:
      folder: for logs.
      stack: ends the processes.
    """
    from benchmarks import live_replay

    experiment = _experiment()
    specs = environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    # Late enough in training that actions are mostly greedy.
    live_replay.publish(experiment, specs, server.address, environment_steps=1_000_000)
    stack.callback(server.stop)

    def start(name: str, argument: str) -> Process:
        process = Process(name, _MODULE, _flags(argument), folder)
        stack.callback(process.end)
        process.answer()
        return process

    bare = [start("bare", "--step_bare")]
    collectors = [start(f"collector-{n}", f"--collect_into={server.address}") for n in range(_COLLECTORS.value)]
    found: dict[str, list[float]] = {"bare": [], "collected": []}
    for _ in range(_REPEATS.value):
        found["bare"].append(ask_together(bare, _SECONDS.value))
        found["collected"].append(ask_together(collectors, _SECONDS.value))
    return found


def main(_: list[str]) -> int:
    """Measures memory, then speed."""
    if _STORE.value:
        store(_STORE.value)
    if _COLLECT_INTO.value:
        collect(_COLLECT_INTO.value)
    if _STEP_BARE.value:
        step_bare()
    result: dict[str, object] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="reverb-dqn-") as folder, ExitStack() as stack:
        for frames_of in ("random", "played"):
            of_transition, of_frame = _memory(frames_of, Path(folder), stack)
            bytes_and_frames = f"{of_transition:,.0f} bytes, {of_transition / of_frame:.3f} frames"
            rows.append((f"{frames_of} frames", bytes_and_frames, f"{of_transition * _PLANNED / 2**30:.1f} GiB"))
            print(*rows[-1], sep=": ", flush=True)
            result[frames_of] = {"bytes": round(of_transition), "frames": round(of_transition / of_frame, 3)}
        speed = measure_speed(Path(folder), stack)
    share = median(speed["collected"]) / median(speed["bare"])
    words = (
        f"{_COLLECTORS.value} collectors of {_LANES.value} lanes on {os.cpu_count()} cores, policy included: "
        f"{spread(speed['collected'])} environment steps/s; the bare vector environment with all cores, in turn: "
        f"{spread(speed['bare'])}; {share:.2f} of it. Medians of {_REPEATS.value} (`python -m benchmarks.parts.atari`)."
    )
    print(words)
    if _PAGE.value:
        lines = table(f"| replay | a transition | {_PLANNED:,} transitions |", rows)
        write_between(Path(_PAGE.value), "atari", [*lines, "", words])
    print_result({**result, "collected": median(speed["collected"]), "bare": median(speed["bare"]), "share": share})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
