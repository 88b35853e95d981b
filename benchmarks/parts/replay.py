"""Insert and sample rates of the replay by lanes per item, CartPole-sized, in process.

Example:
  python -m benchmarks.parts.replay --lanes=1,8,16,32,64
"""

import sys

from absl import flags

from benchmarks import live_replay
from benchmarks.measure import median, print_result, rates, spread
from pipeline import environments, load
from pipeline.command import run_command

_LANES = flags.DEFINE_list("lanes", ["1", "8", "16", "32", "64"], "Lanes of a collector, all stored in one item.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Of one measurement.", lower_bound=0.01)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", lower_bound=1)


def measure(lanes: int) -> dict[str, float]:
    """Transitions per second written, and drawn in batches of 64, with that many lanes in an item."""
    experiment = load("cartpole", (f"collect.lanes={lanes}", "learner.batch_size=64", "agent.n_step=1"))
    specs = environments.describe(experiment.environment)
    server = live_replay.serve(experiment, specs)
    live_replay.fill(experiment, specs, server.address, 20_000)
    calls = {
        "insert": live_replay.writing(experiment, specs, server.address),
        "sample": live_replay.drawing(server),
    }
    results = rates(calls, _SECONDS.value, _REPEATS.value)
    print(f"{lanes:3d} lanes: insert {spread(results['insert'])}/s, sample {spread(results['sample'])}/s")
    return {name: median(values) for name, values in results.items()}


def main(_: list[str]) -> int:
    """Measures each number of lanes."""
    print_result({lanes: measure(int(lanes)) for lanes in _LANES.value})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
