"""A learner in parts, for itself: it draws, learns or publishes for some seconds, as it is asked on standard input."""

import json
import os
import sys
import time
from collections.abc import Callable

import msgspec
import numpy as np

from benchmarks import live_replay
from benchmarks.processes import say
from benchmarks.scaling.measured.experiments import experiment_of
from pipeline import environments
from pipeline.experiment import config
from pipeline.learner.learner import Learner
from pipeline.messages.channel import Publisher
from pipeline.messages.contents import Variables
from pipeline.messages.traffic import Traffic
from pipeline.records.counters import Counters
from pipeline.replay.sampling import Sample
from pipeline.replay.shards.permits import Permits
from pipeline.roles.separate_replay import find_replay
from pipeline.runtime.process import quieten_gym

_MORE_PERMITS = 2  # than the least: items are not filled by halves


class Trainer:
    """The parts of a learner on a filled replay.

    Args:
      lines: of TOML, over those of the config.
      addresses: of the replay's servers.
    """

    def __init__(self, lines: list[str], addresses: list[str]) -> None:
        self._experiment = experiment_of(lines, len(addresses))
        specs = environments.describe(self._experiment.environment)
        replay = find_replay(self._experiment, specs, addresses)
        least = self._experiment.replay.min_size
        for address in addresses:
            live_replay.fill(self._experiment, specs, address, least // len(addresses))
        if len(addresses) > 1:
            permits = Permits(self._experiment, addresses[0])
            permits.spend(least + _MORE_PERMITS * self._experiment.windows_per_item)
            permits.confirm(lambda: True)
        self._samples, self._learner = replay.samples(), Learner(self._experiment, specs)
        self._learner.choose_loop()
        self._sample: Sample = next(self._samples)
        self._publisher = Publisher(addresses)
        told = self._learner.publication(Counters())
        self._publication: Variables = msgspec.structs.replace(told, config=config.dump(self._experiment))
        self._publish(new=True)

    def draw(self, _: float) -> int:
        """Draws the batches of one call; returns the transitions."""
        self._sample = next(self._samples)
        return int(np.prod(self._sample.gradient_steps.shape))

    def learn(self, _: float) -> int:
        """Learns from the batches last drawn; returns the gradient steps."""
        self._learner.learn(self._sample)
        return self._experiment.learner.steps_per_call

    def publish(self, _: float) -> int:
        """Publishes new weights, once the servers have confirmed the ones before."""
        return self._publish(new=True)

    def publish_at_pace(self, deadline: float) -> int:
        """Publishes new weights, as often as a learner does."""
        return self._publish(True, deadline)

    def announce_at_pace(self, deadline: float) -> int:
        """Publishes the same weights, as often as a learner does."""
        return self._publish(False, deadline)

    def _publish(self, new: bool, deadline: float = 0.0) -> int:
        if new:
            steps = self._publication.gradient_steps + 1
            self._publication = msgspec.structs.replace(self._publication, gradient_steps=steps)
        self._publisher.publish(self._publication, wait_for_all=True)
        pace = self._experiment.learner.publish_seconds
        time.sleep(max(0.0, min(pace, deadline - time.perf_counter())))
        return 1


def answer(call: Callable[[float], int], seconds: float, traffic: Traffic) -> dict[str, float]:
    """Repeats a call for some seconds: units done, CPU seconds of this process and its bytes."""
    (sent, received), used, started = traffic.read(), time.process_time(), time.perf_counter()
    units, deadline = 0, started + seconds
    while time.perf_counter() < deadline:
        units += call(deadline)
    passed, cpu = time.perf_counter() - started, time.process_time() - used
    now = traffic.read()
    return {"units": units, "spent": passed, "cpu": cpu, "sent": now[0] - sent, "received": now[1] - received}


def main() -> None:
    """Answers lines such as "draw 2.0"."""
    quieten_gym()
    trainer, traffic = Trainer(*json.loads(sys.argv[1])), Traffic()
    say("ready")
    for line in sys.stdin:
        what, seconds = line.split()
        say(answer(getattr(trainer, what), float(seconds), traffic))
    os._exit(0)


if __name__ == "__main__":
    main()
