"""What an Atari transition costs: bytes of replay memory, and collector speed beside the bare vector environment's.

Example:
  python -m benchmarks.atari --transitions=40000 --lanes=8

Memory: frames of random bytes, which nothing compresses, and frames of play. Speed: the lanes alone and a collector
with the Q-network in its loop, in turn in one process; its server is in another.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from absl import flags

from benchmarks.measure import median, print_result, rates, spread
from benchmarks.pages import write_between
from pipeline import Experiment, environments, load
from pipeline.checkpoint import Counters
from pipeline.collector import Collector
from pipeline.command import run_command
from pipeline.frames import FrameLayout
from pipeline.variables import VARIABLES_TABLE, Sender, VariablesReader

_CONFIG = flags.DEFINE_string("config", "pong", "Config of the game.")
_LANES = flags.DEFINE_integer("lanes", 8, "Lanes of the collector.", lower_bound=1)
_TRANSITIONS = flags.DEFINE_integer("transitions", 40_000, "Stored for each measurement of memory.", lower_bound=100)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Of one measurement of speed.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of speed.", lower_bound=1)
_COLLECT_INTO = flags.DEFINE_string("collect_into", None, "Address of a server: this process is the collector.")
_STORE = flags.DEFINE_enum("store", None, ["random", "played"], "This process measures the memory of such frames.")

_PAGE = flags.DEFINE_string("page", "", "Page to write the figures into, between its marks; empty writes none.")

_PLANNED = 1_000_000


def _experiment() -> Experiment:
    size = _TRANSITIONS.value
    return load(_CONFIG.value, (f"collect.lanes={_LANES.value}", f"replay.capacity={size}", "replay.min_size=512"))


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
    print(json.dumps([grown / ((steps - warm_up) * lanes), int(np.prod(image.shape))]), flush=True)
    os._exit(0)


def collect(address: str) -> None:
    """Prints, of each measurement, environment steps per second collected and those of the bare lanes."""
    experiment = _experiment()
    reader = VariablesReader(address, experiment.collect.variables_seconds)
    variables = reader.wait(60.0, "the benchmark")
    specs = environments.describe(experiment.environment)
    collector = Collector(experiment, specs, 0, "benchmark", address, variables)
    vector = environments.make(experiment.environment, experiment.collect.lanes).vector
    vector.reset(seed=0)
    random = np.random.default_rng(0)

    def step_bare() -> int:
        vector.step(random.integers(0, specs.num_actions, vector.num_envs))
        return int(vector.num_envs)

    def step_collector() -> int:
        collector.step()
        collector.confirm(lambda: True)
        return experiment.collect.lanes

    found = rates({"collected": step_collector, "bare": step_bare}, _SECONDS.value, _REPEATS.value)
    print(json.dumps(found), flush=True)
    os._exit(0)


def _child(*arguments: str) -> object:
    command = [sys.executable, "-m", "benchmarks.atari", f"--config={_CONFIG.value}", f"--lanes={_LANES.value}"]
    command += [f"--transitions={_TRANSITIONS.value}", f"--seconds={_SECONDS.value}", f"--repeats={_REPEATS.value}"]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=1_200)
    found: object = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_speed() -> dict[str, list[float]]:
    """Starts a server here and a collector in a process of its own."""
    from benchmarks import live_replay
    from pipeline.learner import Learner

    experiment = _experiment()
    specs = environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    # Late enough in training that actions are mostly greedy.
    publication = Learner(experiment, specs).publication(Counters(environment_steps=1_000_000))
    Sender(server.address, VARIABLES_TABLE).send(publication, 10.0)
    time.sleep(1.0)
    found: object = _child(f"--collect_into={server.address}")
    server.stop()
    assert isinstance(found, dict)
    return found


def main(_: list[str]) -> int:
    """Measures memory, then speed."""
    if _STORE.value:
        store(_STORE.value)
    if _COLLECT_INTO.value:
        collect(_COLLECT_INTO.value)
    result: dict[str, object] = {}
    rows = []
    for frames_of in ("random", "played"):
        found = _child(f"--store={frames_of}")
        assert isinstance(found, list)
        of_transition, of_frame = found
        planned = of_transition * _PLANNED / 2**30
        rows.append(
            f"| {frames_of} frames | {of_transition:,.0f} bytes, {of_transition / of_frame:.3f} frames | "
            f"{planned:.1f} GiB |"
        )
        print(rows[-1], flush=True)
        result[frames_of] = {"bytes": round(of_transition), "frames": round(of_transition / of_frame, 3)}
    speed = measure_speed()
    share = median(speed["collected"]) / median(speed["bare"])
    words = (
        f"A collector of {_LANES.value} lanes, policy included: {spread(speed['collected'])} environment steps/s; the "
        f"lanes alone, in the same process and in turn: {spread(speed['bare'])}; {share:.2f} of it. Medians of "
        f"{_REPEATS.value} (`python -m benchmarks.atari`)."
    )
    print(words)
    if _PAGE.value:
        head = [f"| replay | a transition | {_PLANNED:,} transitions |", "|---|---|---|"]
        write_between(Path(_PAGE.value), "atari", [*head, *rows, "", words])
    print_result({**result, "collected": median(speed["collected"]), "bare": median(speed["bare"]), "share": share})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
