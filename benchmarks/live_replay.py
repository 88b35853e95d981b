"""A filled Reverb table in this process, and a way to fill one with random frames."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agents import ArraySpec, Specs
from pipeline.experiment.sections import Experiment
from pipeline.messages.channel import Publisher
from pipeline.messages.ports import free_port
from pipeline.records.counters import Counters
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import MID, FrameLayout
from pipeline.replay.writer import FrameWriter

SPECS = {
    "cartpole_dqn": Specs(ArraySpec((4,), "float32"), 2),
    "minatar_breakout": Specs(ArraySpec((10, 10, 4), "uint8", (1,)), 6),
    "pong": Specs(ArraySpec((84, 84), "uint8", (255,), "HW"), 6),
}
"""What the configs' environments show, so that none of them need be installed."""


def serve(experiment: Experiment, specs: Specs, port: int = 0) -> EmbeddedReplay:
    """A replay server without a ratio to hold: it takes and gives as fast as it can.

    Args:
      experiment: of the replay.
      specs: of its transitions.
      port: to listen at; 0 finds a free one.
    """
    folder = Path(tempfile.mkdtemp(prefix="reverb-dqn-"))
    return EmbeddedReplay(experiment, specs, port or free_port(), folder, blocking=False)


def publish(experiment: Experiment, specs: Specs, address: str, environment_steps: int) -> None:
    """Publishes weights that have learned nothing, as after so many environment steps: exploration falls with them."""
    from pipeline.learner.learner import Learner  # processes that only write or draw do without

    publication = Learner(experiment, specs).publication(Counters(environment_steps=environment_steps))
    Publisher([address]).publish(publication, wait_for_all=True)


def writer(experiment: Experiment, specs: Specs, address: str) -> FrameWriter:
    """A writer as a collector has it."""
    return FrameWriter.of(experiment, FrameLayout.of(experiment, specs), address)


def writing(experiment: Experiment, specs: Specs, address: str) -> Callable[[], int]:
    """A call that appends 64 vector steps and returns how many transitions they are."""
    frame_writer, lanes = writer(experiment, specs, address), experiment.collect.lanes
    frames = FrameLayout.of(experiment, specs).empty(lanes)

    def write() -> int:
        for _ in range(64):
            frame_writer.append(frames)
            frame_writer.confirm(lambda: True)
        return 64 * lanes

    return write


def drawing(server: EmbeddedReplay) -> Callable[[], int]:
    """A call that draws the batches of one call of the learner and returns how many transitions they are."""
    samples = iter(server.dataset())
    return lambda: int(np.prod(next(samples).gradient_steps.shape))


def fill(experiment: Experiment, specs: Specs, address: str, transitions: int) -> None:
    """Writes that many transitions of random observations, actions and rewards."""
    layout, lanes = FrameLayout.of(experiment, specs), experiment.collect.lanes
    frame_writer, random = writer(experiment, specs, address), np.random.default_rng(0)
    frames = layout.empty(lanes)
    for _ in range(transitions // lanes):
        for name, spec in specs.leaves().items():
            frames[layout.leaf_field(name)] = random.normal(size=(lanes, *spec.shape))
        frames["action"] = random.integers(0, specs.num_actions, lanes)
        frames["reward"] = random.normal(size=lanes)
        frames["terminated"] = random.random(lanes) < 0.01
        frames["step_type"] = frames["next_step_type"] = MID
        frame_writer.append(frames)
        frame_writer.confirm(lambda: True)
    for _ in range(frame_writer.book.missing):
        frame_writer.pad(layout.padding(lanes))
    frame_writer.confirm(lambda: True, everything=True)
