"""Samples that keep whole items: the learner's program makes of them the stacks that were handed to it before."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from agents import ArraySpec, DqnConfig, Specs
from pipeline.experiment.sections import (
    CollectConfig,
    EnvironmentConfig,
    Experiment,
    LearnerConfig,
    ReplayConfig,
)
from pipeline.learner import bad_batches
from pipeline.learner.feeder import Feeder
from pipeline.learner.learner import Learner
from pipeline.learner.open_support import largest_reward
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.replay.sampling import Sample, arrange

SPECS = Specs({"pixels": ArraySpec((3, 2), "uint8", (255,)), "speed": ArraySpec((), "float32")}, 3, masked=True)
STEPS, BATCH = 2, 16


def experiment_of(packed: bool = True, loop: str = "plain", prioritized: bool = False, **agent: Any) -> Experiment:
    """Stacks of three frames; with local steps, which are of several learners, a sample has trajectories."""
    config = DqnConfig(hidden_units=(8,), n_step=2, **agent)
    return Experiment(
        environment=EnvironmentConfig(frame_stack=3),
        agent=config,
        collect=CollectConfig(lanes=2),
        replay=ReplayConfig(prioritized=prioritized, lanes_per_item=1 if prioritized else 2, steps_per_item=2),
        learner=LearnerConfig(batch_size=BATCH, steps_per_call=STEPS, loop=loop, local_steps=1 if packed else STEPS),
    )


def items_of(experiment: Experiment, longer: int = 0) -> NDArray[Any]:
    """Random frames of items, structured [items, item_length, lanes]: episodes of five steps."""
    layout, random = FrameLayout.of(experiment, SPECS), np.random.default_rng(0)
    shape = (experiment.items_per_call, experiment.item_length + longer, experiment.lanes_per_item)
    frames = np.zeros(shape, layout.dtype)
    frames["observation/pixels"] = random.integers(0, 256, (*shape, 3, 2))
    frames["observation/speed"] = random.normal(size=shape)
    frames["mask"] = True
    frames["action"] = random.integers(0, 3, shape)
    frames["reward"] = random.normal(size=shape)
    frames["gradient_steps"] = random.integers(0, 1_000, shape)
    at = (np.arange(shape[1]) + random.integers(0, 6, shape[0])[:, None])[..., None] % 6
    frames["step_type"] = np.select([at == 0, at == 5], [FIRST, LAST], MID)
    frames["next_step_type"] = np.roll(frames["step_type"], -1, axis=1)
    frames["terminated"] = frames["next_step_type"] == LAST
    return frames


def sample_of(experiment: Experiment, frames: NDArray[Any]) -> Sample:
    count = experiment.items_per_call
    layout = FrameLayout.of(experiment, SPECS)
    relative = np.random.default_rng(1).uniform(0.5, 2.0, count).astype(np.float32)
    of_bytes = tf.constant(frames.view(np.uint8).reshape(*frames.shape, layout.num_bytes))
    return arrange(experiment, layout, BATCH, of_bytes, tf.constant(relative), tf.zeros((count,), tf.uint64))


@pytest.mark.parametrize("longer", [0, 2])
def test_what_is_made_of_whole_items_is_what_was_handed_over_before(longer: int) -> None:
    packed, spread = experiment_of(), experiment_of(packed=False)
    frames = items_of(packed, longer)
    kept, expected = sample_of(packed, frames), sample_of(spread, frames)
    assert kept.trajectory.shape == (8, packed.item_length, 2, FrameLayout.of(packed, SPECS).num_bytes)
    learner = Learner(packed, SPECS, ["CPU:0"])
    tf.nest.map_structure(np.testing.assert_array_equal, learner.trajectory(kept), expected.trajectory)
    tf.nest.map_structure(np.testing.assert_array_equal, kept[1:], expected[1:])
    largest = np.abs(frames["reward"][:, : packed.item_length]).max()
    assert (
        largest_reward(kept, FrameLayout.of(packed, SPECS))
        == largest
        >= largest_reward(expected, FrameLayout.of(spread, SPECS))
    )
    batch = bad_batches.arrays_of(kept._replace(trajectory=learner.trajectory(kept)), 1)
    np.testing.assert_array_equal(batch["observation/0/pixels"], expected.trajectory.observation[0]["pixels"][1])


def test_windows_are_those_of_an_obvious_walk_through_the_items() -> None:
    experiment = experiment_of()
    frames = items_of(experiment)
    learner = Learner(experiment, SPECS, ["CPU:0"])
    made = learner.trajectory(sample_of(experiment, frames))
    numbered = iter(range(STEPS * BATCH))
    for step in range(2):
        for lane in range(2):
            for item in range(experiment.items_per_call):
                call, place = divmod(next(numbered), BATCH)
                window = frames[item, step + 2 : step + 2 + 3, lane]  # behind the two that the first stack needs
                np.testing.assert_array_equal(made.reward[call, place], window["reward"])
                newest = made.observation[0]["pixels"][call, place][..., -2:]
                np.testing.assert_array_equal(newest, window["observation/pixels"])


@pytest.fixture
def graphs_as_written() -> Iterator[None]:
    """TensorFlow's rewriting of arithmetic orders the sums of the two graphs differently: their last bits differ."""
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True, **options})


@pytest.mark.parametrize(("loop", "prioritized"), [("plain", True), ("compiled", False)])
@pytest.mark.usefixtures("graphs_as_written")
def test_training_is_the_same_bit_for_bit(loop: str, prioritized: bool) -> None:
    states: list[list[NDArray[Any]]] = []
    for packed in (True, False):
        experiment = experiment_of(packed, loop, prioritized)
        learner = Learner(experiment, SPECS, ["CPU:0"])
        sample = sample_of(experiment, items_of(experiment))
        assert isinstance(sample.trajectory, tf.Tensor) == packed
        outcomes = [learner.learn(sample) for _ in range(3)]
        assert not any(outcome.skipped for outcome in outcomes)
        told = [np.float32(outcome[:5]) for outcome in outcomes]
        states.append([*(variable.numpy() for variable in learner.agent.variables), *told])
        if prioritized:
            states[-1] += [outcome.priorities for outcome in outcomes if outcome.priorities is not None]
    for made, handed in zip(*states, strict=True):
        np.testing.assert_array_equal(made, handed)


def test_what_is_learned_from_is_brought_to_the_device_early_and_is_the_same() -> None:
    experiment = experiment_of()
    drawn = sample_of(experiment, items_of(experiment))
    device = tf.config.list_logical_devices("CPU")[0].name  # stands for an accelerator, which is chosen by itself
    for given in (device, "", None):
        feeder = Feeder(lambda: iter([drawn]), device=given)
        feeder.start()
        sample = feeder.next(60.0)
        assert sample is not None
        assert (sample.trajectory is drawn.trajectory) == (given != device)
        np.testing.assert_array_equal(sample.trajectory, drawn.trajectory)
        assert sample.keys is drawn.keys  # what is read by the learner's process stays in its memory
        feeder.stop_drawing()
