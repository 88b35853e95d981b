"""One size of a replay, a batch or a network, in a process of its own; answers each line with what work costs."""

import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from benchmarks import live_replay
from benchmarks.measure import rates
from benchmarks.processes import say
from pipeline import Experiment, environments, load
from pipeline.learner.learner import Learner
from pipeline.messages.ports import free_port
from pipeline.records.counters import Counters
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, decode
from pipeline.runtime.process import quieten_gym

_PLAIN = ("agent.n_step=1", "agent.normalize_observations=false", 'learner.loop="compiled"')
_BATCH = 64


class FilledReplay:
    """A full replay of CartPole-sized transitions.

    Args:
      size: transitions.
      seconds: of one measurement.
    """

    def __init__(self, size: int, seconds: float) -> None:
        self._size, self._seconds = size, seconds
        self._experiment = load("cartpole", (f"replay.capacity={size}", "collect.lanes=64", *_PLAIN))
        self._specs = environments.describe(self._experiment.environment)
        before = psutil.Process().memory_info().rss
        self._server = live_replay.serve(self._experiment, self._specs)
        live_replay.fill(self._experiment, self._specs, self._server.address, size)
        self._resident = (psutil.Process().memory_info().rss - before) / size
        self._write = live_replay.writing(self._experiment, self._specs, self._server.address)
        self._draw = live_replay.drawing(self._server)

    def costs(self) -> dict[str, float]:
        """Of a unit of each work."""
        calls = {"insert": self._write, "draw": self._draw}
        seen = rates(calls, self._seconds, 1, time.process_time)
        started = time.perf_counter()
        written = self._server.save()
        saved = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="growth-") as folder:
            again = EmbeddedReplay(
                self._experiment, self._specs, free_port(), Path(folder), restore_from=written, blocking=False
            )
            resumed = time.perf_counter()
            again.stop()
        shutil.rmtree(written)
        return {
            **{name: 1e6 / found for name, (found,) in seen.items()},
            "checkpoint": 1e6 * (saved - started) / self._size,
            "resume": 1e6 * (resumed - saved) / self._size,
            "resident": self._resident,
        }


class Trained:
    """A learner with prepared samples.

    Args:
      experiment: its sizes.
      seconds: of one measurement.
    """

    def __init__(self, experiment: Experiment, seconds: float) -> None:
        self._experiment, self._seconds = experiment, seconds
        specs = environments.describe(experiment.environment)
        self._learner, layout = Learner(experiment, specs), FrameLayout.of(experiment, specs)
        steps, batch = experiment.learner.steps_per_call, experiment.learner.batch_size
        shape = (steps, batch, experiment.window, layout.num_bytes)
        trajectory, versions = decode(tf.zeros(shape, tf.uint8), layout)
        observation = np.random.default_rng(0).normal(size=trajectory.observation.shape)
        trajectory = trajectory._replace(observation=tf.constant(observation, tf.float32))
        keys = tf.zeros((steps * batch,), tf.uint64)
        self._sample = Sample(trajectory, versions, tf.ones((steps, batch)), keys)
        self._learner.choose_loop()
        self.weights = int(sum(np.prod(weight.shape) for weight in self._learner.agent.acting_model.weights))

    def seconds_of(self) -> dict[str, float]:
        """CPU seconds of a gradient step and of a publication."""
        seen = rates({"gradient": self._learn, "publish": self._publish}, self._seconds, 1, time.process_time)
        return {name: 1.0 / found for name, (found,) in seen.items()}

    def _learn(self) -> int:
        self._learner.learn(self._sample)
        return self._experiment.learner.steps_per_call

    def _publish(self) -> int:
        self._learner.publication(Counters())
        return 1


def costs_of(name: str, size: int, seconds: float) -> Callable[[], dict[str, float]]:
    """Builds what a curve needs at a size; what it returns measures once."""
    if name == "transitions":
        return FilledReplay(size, seconds).costs
    steps = max(1, min(25, 25 * 512 // size)) if name == "batch" else 4
    batch = size if name == "batch" else _BATCH
    width = 64 if name == "batch" else width_of(size)
    lines = (f"learner.batch_size={batch}", f"learner.steps_per_call={steps}", f"agent.hidden_units=[{width},{width}]")
    trained = Trained(load("cartpole", (*_PLAIN, f"replay.min_size={max(1_000, steps * batch)}", *lines)), seconds)

    def costs() -> dict[str, float]:
        seen = trained.seconds_of()
        if name == "batch":
            return {"sample": 1e6 * seen["gradient"] / size}
        return {what: 1e9 * found / trained.weights for what, found in seen.items()}

    return costs


def width_of(weights: int) -> int:
    """Units of each of two hidden layers of a Q-network of CartPole with about so many weights."""
    return round(float(np.sqrt(weights + 16.0)) - 4.0)


def main(told: Any) -> None:
    """Builds, says so, and answers until its standard input ends."""
    quieten_gym()
    costs = costs_of(*told)
    costs()  # warms up
    gc.collect()
    say("built")
    for _ in sys.stdin:
        say(costs())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
