"""When a second learner pays: gradient steps of one learner and of two, by step time and link; each has a core.

Example:
  python -m benchmarks.scaling.learners --gbits=0,10,1,0.1 --local_steps=1,10,100

The learners draw nothing: each learns the same random batches again and again. Two are in namespaces of the network of
their own, joined by a link that `tc` keeps to so many Gbit/s (0: without a limit); all of it is on this machine, each
learner bound to one core. Prints a line of JSON a measurement, and the model beside it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from benchmarks.pages import ROOT
from benchmarks.reliability.hosts import hosts, unavailable
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

_GBITS = flags.DEFINE_list("gbits", ["0", "10", "1", "0.1"], "Links between two learners; 0 has no limit.")
_LOCAL_STEPS = flags.DEFINE_list("local_steps", ["1", "10"], "learner.local_steps of two learners.")
_NETWORKS = flags.DEFINE_list("networks", [], "Names of the networks measured; empty takes all.")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Of one measurement.", lower_bound=0.1)
_WORKER = flags.DEFINE_string("worker", "", "What one of the learners is told; for this program itself.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measurements of each, in turn.", lower_bound=1)

_CALL_STEPS = 10


class Measured(NamedTuple):
    """Of one gradient step."""

    seconds: float
    cpu: float
    """Seconds of all learners together."""


class Network(NamedTuple):
    """What a learner learns."""

    batch: int
    lines: Sequence[str]
    observation: Sequence[int]
    dtype: str


NETWORKS = {
    "MLP 64x64 of 64": Network(64, ("agent.hidden_units=[64,64]",), (4,), "float32"),
    "MLP 256x256 of 512": Network(512, ("agent.hidden_units=[256,256]",), (64,), "float32"),
    "MLP 256x256 of 2048": Network(2048, ("agent.hidden_units=[256,256]",), (64,), "float32"),
    "MLP 512x512 of 2048": Network(2048, ("agent.hidden_units=[512,512]",), (64,), "float32"),
    "MLP 1024x1024 of 2048": Network(2048, ("agent.hidden_units=[1024,1024]",), (64,), "float32"),
}


def worker(told: dict[str, Any]) -> None:
    """A learner of one or two: answers "go SECONDS" on standard input by what it has done."""
    import numpy as np
    import tensorflow as tf
    from tf_agents.trajectories import Trajectory

    from agents import ArraySpec, Specs
    from pipeline.experiment.config import parse
    from pipeline.learner.learner import Learner
    from pipeline.learner.workers.collectives import Team
    from pipeline.learner.workers.team import Cluster, Wish
    from pipeline.learner.workers.team_learner import TeamLearner
    from pipeline.replay.sampling import Sample

    network, addresses, index = NETWORKS[told["network"]], told["addresses"], told["index"]
    batch: int = told["batch"]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    lines = [*network.lines, f"learner.batch_size={batch}", f"learner.steps_per_call={_CALL_STEPS}"]
    lines += [f"learner.local_steps={told['local_steps']}", "replay.lanes_per_item=1", "collect.lanes=1"]
    experiment = parse("", tuple(lines))
    specs = Specs(ArraySpec(tuple(network.observation), network.dtype), 4)
    team = Team(Cluster(tuple(addresses), index)) if len(addresses) > 1 else None
    learner = TeamLearner(experiment, specs, team) if team else Learner(experiment, specs)
    shape = (_CALL_STEPS, batch // len(addresses), experiment.window)
    random = np.random.default_rng(index)
    trajectory = Trajectory(
        step_type=tf.ones(shape, tf.int32),
        observation=tf.constant(random.normal(size=(*shape, *network.observation)), network.dtype),
        action=tf.zeros(shape, tf.int64),
        policy_info=(),
        next_step_type=tf.ones(shape, tf.int32),
        reward=tf.constant(random.normal(size=shape), tf.float32),
        discount=tf.ones(shape),
    )
    sample = Sample(trajectory, tf.zeros(shape[:2], tf.int32), tf.ones(shape[:2]), tf.zeros((1,), tf.uint64))
    learner.choose_loop()
    learner.learn(sample)
    numbers = sum(int(np.prod(v.shape)) for v in learner.agent.variables)
    weights = sum(int(np.prod(v.shape)) for v in learner.agent.acting_model.weights)
    print(json.dumps({"ready": learner.loop, "numbers": numbers, "weights": weights}), flush=True)
    for line in sys.stdin:
        calls, used, started = 0, time.process_time(), time.perf_counter()
        deadline, decided = started + float(line), int(Wish.LEARN)
        while decided == Wish.LEARN:
            done = time.perf_counter() >= deadline
            wish = Wish.WAIT if done else Wish.LEARN
            decided = team.agree(wish) if team else int(wish)
            if decided == Wish.LEARN:
                learner.learn(sample)
                calls += 1
        spent = time.perf_counter() - started
        answer = {"steps": calls * _CALL_STEPS, "seconds": spent, "cpu": time.process_time() - used}
        print(json.dumps(answer), flush=True)
    os._exit(0)


class Learners:
    """One or two learners that are started, each on a core, two of them on hosts of their own.

    Args:
      network: name of what they learn.
      batch: windows of a gradient step, of all of them.
      count: of learners.
      local_steps: `learner.local_steps`.
      folder: for logs.
      stack: ends them.
    """

    def __init__(self, network: str, batch: int, count: int, local_steps: int, folder: Path, stack: ExitStack) -> None:
        names = [f"learner-{index}" for index in range(count)]
        self._hosts = list(stack.enter_context(hosts(*names)).values())
        self._processes: list[subprocess.Popen[str]] = []
        for index, host in enumerate(self._hosts):
            told = {"network": network, "batch": batch, "index": index, "local_steps": local_steps}
            told["addresses"] = [f"{name}:9100" for name in names]
            command = ["taskset", "--cpu-list", str(index), sys.executable, "-m", "benchmarks.scaling.learners"]
            log = stack.enter_context((folder / f"{network}-{batch}-{count}-{local_steps}-{index}.log").open("ab"))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True, "cwd": ROOT}
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._processes.append(host.start([*command, f"--worker={json.dumps(told)}"], env=environment, **pipes))

    def wait(self) -> dict[str, Any]:
        """Waits until they learn; what the first said of itself."""
        answers = [self._answer(process) for process in self._processes]
        return answers[0]

    def limit(self, gbits: float) -> None:
        """Limits each host's link, both ways; 0 lifts the limit."""
        for host in self._hosts:
            host.limit(gbits * 1e9 / 8 if gbits else None)

    def measure(self, seconds: float) -> Measured:
        """What they do in so many seconds."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes]
        steps = answers[0]["steps"]
        return Measured(answers[0]["seconds"] / steps, sum(answer["cpu"] for answer in answers) / steps)

    def _answer(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"a learner has ended with {process.wait()}: see its log")


def measure(name: str, gbits: Sequence[float], local_steps: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    """One network: a learner of the whole batch, one of half of it, and two by local steps and link, all in turn."""
    network = NETWORKS[name]
    with ExitStack() as stack:
        teams = {"whole": Learners(name, network.batch, 1, 1, folder, stack)}
        teams["half"] = Learners(name, network.batch // 2, 1, 1, folder, stack)
        for steps in local_steps:
            teams[f"two {steps}"] = Learners(name, network.batch, 2, steps, folder, stack)
        said = {key: team.wait() for key, team in teams.items()}
        found: dict[tuple[str, float], list[Measured]] = defaultdict(list)
        for _ in range(_REPEATS.value):
            for key, team in teams.items():
                for link in gbits if key.startswith("two") else (0.0,):
                    if key.startswith("two"):
                        team.limit(link)
                    found[key, link].append(team.measure(_SECONDS.value))
        for (key, link), values in found.items():
            yield {
                "network": name,
                "learners": key,
                "gbits": link,
                "numbers": said[key]["numbers"],
                "weights": said[key]["weights"],
                "loop": said[key]["ready"],
                "step_ms": 1e3 * statistics.median(value.seconds for value in values),
                "cpu_ms": 1e3 * statistics.median(value.cpu for value in values),
            }


def main(_: list[str]) -> int:
    """Measures what the flags ask for, or is one of the learners."""
    if _WORKER.value:
        worker(json.loads(_WORKER.value))
        return 0
    if reason := unavailable():
        raise UsageError(reason)
    gbits, local_steps = [float(text) for text in _GBITS.value], [int(text) for text in _LOCAL_STEPS.value]
    with tempfile.TemporaryDirectory(prefix="learners-") as folder:
        for name in _NETWORKS.value or NETWORKS:
            for line in measure(name, gbits, local_steps, Path(folder)):
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
