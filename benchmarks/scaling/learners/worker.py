"""One of the learners that `teams` measures: it answers each line of seconds by what it has done in them."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tf_agents.trajectories import Trajectory

from agents import ArraySpec, Specs
from benchmarks.scaling.learners.networks import NETWORKS, Network
from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.team import Cluster, Wish
from pipeline.learner.workers.team_learner import TeamLearner
from pipeline.replay.sampling import Sample


def random_sample(network: Network, experiment: Experiment, batch: int, seed: int) -> Sample:
    """The batches of a call: it draws nothing, and learns from them again and again."""
    shape = (network.call_steps, batch, experiment.window)
    random = np.random.default_rng(seed)
    seen = random.normal(size=(*shape, *network.observation))
    trajectory = Trajectory(
        step_type=tf.ones(shape, tf.int32),
        observation=tf.constant((seen > 1.0 if network.dtype == "uint8" else seen).astype(network.dtype)),
        action=tf.zeros(shape, tf.int64),
        policy_info=(),
        next_step_type=tf.ones(shape, tf.int32),
        reward=tf.constant(random.normal(size=shape), tf.float32),
        discount=tf.ones(shape),
    )
    return Sample(trajectory, tf.zeros(shape[:2], tf.int32), tf.ones(shape[:2]), tf.zeros((1,), tf.uint64))


class Work(NamedTuple):
    """What is measured."""

    call: Callable[[], object]
    """Makes some steps."""
    steps: int
    """Of a call."""
    said: Mapping[str, object]
    """Of itself, once it is ready."""


def learning(told: Mapping[str, Any], team: Team | None) -> Work:
    """Gradient steps of a learner alone, or of one of a team."""
    network, index, batch = NETWORKS[told["network"]], told["index"], told["batch"]
    lines = [*network.lines, f"learner.batch_size={batch}", f"learner.steps_per_call={network.call_steps}"]
    lines += [f"learner.local_steps={told['local_steps']}", "replay.lanes_per_item=1", "collect.lanes=1"]
    experiment = parse("", tuple(lines))
    largest = (1,) if network.dtype == "uint8" else ()
    specs = Specs(ArraySpec(tuple(network.observation), network.dtype, largest), 4)
    learner = TeamLearner(experiment, specs, team) if team else Learner(experiment, specs)
    sample = random_sample(network, experiment, batch // (team.size if team else 1), index)
    learner.choose_loop()
    learner.learn(sample)
    weights = sum(int(np.prod(v.shape)) for v in learner.agent.acting_model.weights)
    said = {"weights": weights, "warning": learner.warning}
    return Work(lambda: learner.learn(sample), network.call_steps, said)


def summing(numbers: int, team: Team) -> Work:
    """Sums over a team's network, and nothing else."""
    flat = tf.ones((numbers,))
    team.sum(flat).numpy()
    return Work(lambda: team.sum(flat).numpy(), 1, {"weights": numbers, "warning": ""})


def main(told: Mapping[str, Any]) -> None:
    """Works alone, or as one of a team."""
    addresses, index = told["addresses"], told["index"]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    team = Team(Cluster(tuple(addresses), index)) if len(addresses) > 1 else None
    work = summing(told["numbers"], team) if team and "numbers" in told else learning(told, team)
    print(json.dumps(work.said), flush=True)
    for line in sys.stdin:
        calls, used, started = 0, time.process_time(), time.perf_counter()
        deadline, decided = started + float(line), int(Wish.LEARN)
        while decided == Wish.LEARN:
            # a call at least, however slow: all learners have to make as many
            wish = Wish.WAIT if calls and time.perf_counter() >= deadline else Wish.LEARN
            decided = team.agree(wish) if team else int(wish)
            if decided == Wish.LEARN:
                work.call()
                calls += 1
        spent = time.perf_counter() - started
        answer = {"steps": calls * work.steps, "seconds": spent, "cpu": time.process_time() - used}
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
