"""Environment steps per second into Reverb by lanes, Q-network in the loop; with --pin the collector on one core.

Example:
  python -m benchmarks.parts.collector --lanes=1,16,64

`bare` is the vector environment alone, stepped with fixed actions on the same core in the same run.
"""

import gc
import json
import os
import subprocess
import sys
import time

import numpy as np
from absl import flags

from benchmarks.measure import median, print_result, spread
from pipeline import Experiment, environments, load
from pipeline.collector.collector import Collector
from pipeline.command import run_command
from pipeline.messages.variables_reader import VariablesReader

_LANES = flags.DEFINE_list("lanes", ["1", "16", "64"], "Lanes of the collector, all stored in one item.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)
_PIN = flags.DEFINE_boolean(
    "pin", True, "Hold the collector, its threads included, to one core, the server to the rest."
)
_CORE = flags.DEFINE_integer("core", None, "The core that this collector is held to.")
_COLLECT_INTO = flags.DEFINE_string("collect_into", None, "Address of a server: this process is the collector.")


def _experiment(lanes: int) -> Experiment:
    plain = ("learner.batch_size=64", "agent.n_step=1", "agent.normalize_observations=false")
    return load("cartpole", (f"collect.lanes={lanes}", *plain))


def collect(lanes: int, address: str) -> None:
    """Prints environment steps per second collected with a mostly greedy policy, and bare, one line a measurement."""
    if _CORE.value is not None:
        os.sched_setaffinity(0, {_CORE.value})
    experiment = _experiment(lanes)
    reader = VariablesReader(address, experiment.collect.variables_seconds)
    variables = reader.wait(60.0, "the benchmark")
    specs = environments.describe(experiment.environment)
    collector = Collector(experiment, specs, 0, "benchmark", address, variables)
    gc.freeze()
    for repeat in range(_REPEATS.value + 1):  # the first one warms up
        before, started = collector.environment_steps, time.perf_counter()
        while (passed := time.perf_counter() - started) < _SECONDS.value:
            collector.use(reader.newest or variables)
            collector.step()
            collector.confirm(lambda: True)
        collected = (collector.environment_steps - before) / passed
        if repeat:
            print(json.dumps([collected, bare(experiment)]), flush=True)
    sys.stdout.flush()
    os._exit(0)


def bare(experiment: Experiment) -> float:
    """Environment steps per second of the vector environment alone."""
    vector = environments.make(experiment.environment, experiment.collect.lanes).vector
    vector.reset(seed=0)
    actions = np.zeros(vector.num_envs, np.int64)
    steps, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < _SECONDS.value / 4:
        vector.step(actions)
        steps += vector.num_envs
    return steps / passed


def measure(lanes: int, core: int | None) -> dict[str, float]:
    """Starts a server here and a collector in a process of its own."""
    from benchmarks import live_replay  # imports TensorFlow, which a collector's process does not have

    experiment = _experiment(lanes)
    specs = environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    live_replay.publish(experiment, specs, server.address, environment_steps=100_000)
    command = [
        sys.executable,
        "-m",
        "benchmarks.parts.collector",
        f"--lanes={lanes}",
        f"--collect_into={server.address}",
    ]
    command += [f"--seconds={_SECONDS.value}", f"--repeats={_REPEATS.value}"]
    command += [] if core is None else [f"--core={core}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    values = [json.loads(line) for line in output.splitlines()]
    collected, alone = [value[0] for value in values], [value[1] for value in values]
    print(f"{lanes:3d} lanes: {spread(collected)} environment steps/s; bare environment {spread(alone)}")
    server.stop()
    return {"collected": median(collected), "bare": median(alone)}


def main(_: list[str]) -> int:
    """Measures each number of lanes."""
    if _COLLECT_INTO.value:
        collect(int(_LANES.value[0]), _COLLECT_INTO.value)
    cores = sorted(os.sched_getaffinity(0))
    if _PIN.value:
        os.sched_setaffinity(0, set(cores[1:] or cores))
    result = {lanes: measure(int(lanes), cores[0] if _PIN.value else None) for lanes in _LANES.value}
    os.sched_setaffinity(0, set(cores))
    print_result({"environment_steps_per_second": result})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
