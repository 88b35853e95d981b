"""On-policy experience: each window once, and only by the weights that acted in it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import SECONDS

from agents import Specs
from pipeline.collector.collector import Collector
from pipeline.collector.renewal import renew
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import Publisher
from pipeline.messages.contents import Variables
from pipeline.messages.ports import free_port
from pipeline.messages.variables_reader import VariablesReader
from pipeline.replay.sampling import Sample
from pipeline.roles.collector_role import run_collector

COLLECTORS, LANES, ROLLOUT, ROUNDS = 2, 4, 6, 25
ON_POLICY = (
    'agent.kind="reinforce"',
    f"agent.rollout={ROLLOUT}",
    'exploration.strategy="boltzmann"',
    f"collect.collectors={COLLECTORS}",
    f"learner.batch_size={LANES * COLLECTORS}",
    "learner.steps_per_call=1",
    "replay.samples_per_insert=1",
)


def each(sample: Sample, field: str) -> Any:
    """A field of a sample's sequences: NumPy array [sequences, frames, ...]."""
    leaf = getattr(sample.trajectory, field).numpy()
    return leaf.reshape(-1, *leaf.shape[2:])


@pytest.mark.parametrize("lanes_per_item", [1, 4])
def test_every_window_is_used_once_and_with_the_weights_that_acted(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs, publish: Any, lanes_per_item: int
) -> None:
    experiment = make_experiment(*ON_POLICY, f"replay.lanes_per_item={lanes_per_item}")
    server = serve(experiment, counting_specs, blocking=True)
    publisher = Publisher([server.address])
    interrupted, codes = threading.Event(), []

    def collect(index: int) -> None:
        codes.append(run_collector(experiment, index, Addresses.of([server.address]), f"process {index}", interrupted))

    threads = [threading.Thread(target=collect, args=(index,), daemon=True) for index in range(COLLECTORS)]
    assert publisher.publish(publish(counting_specs), True)
    for thread in threads:
        thread.start()
    seen: dict[int, list[np.ndarray]] = {}
    for version, sample in zip(range(ROUNDS), server.dataset(), strict=False):
        assert (sample.gradient_steps.numpy() == version).all()
        assert sample.gradient_steps.shape == (1, LANES * COLLECTORS)
        observation = each(sample, "observation")
        assert observation.shape == (LANES * COLLECTORS, ROLLOUT + 1, 4)
        for sequence in observation:
            seen.setdefault(int(sequence[0, 0]), []).append(sequence)
        assert server.info().current_size == 0
        # All actions are the same but for a few: what acted are these weights, in every frame of the next windows.
        prefers = version % 3
        if version:
            assert (each(sample, "action") == (version - 1) % 3).mean() > 0.95
        following = confident(publish(counting_specs, prefers, gradient_steps=version + 1))
        assert publisher.publish(following, True)
    assert publisher.publish(confident(publish(counting_specs, 0, ROUNDS), stopping=True), True)
    for thread in threads:
        thread.join(120)
    assert codes == [0] * COLLECTORS
    assert len(seen) == LANES * COLLECTORS, "lanes are told apart by their seeds"
    for windows in seen.values():
        assert len(windows) == ROUNDS
        frames = np.concatenate(windows)
        episode, step = frames[:, 1], frames[:, 2]
        # Nothing twice, nothing left out: each frame is the next step of its episode or the first of the next.
        goes_on = (np.diff(episode) == 0) & (np.diff(step) == 1)
        begins = (np.diff(episode) == 1) & (step[1:] == 0)
        assert (goes_on | begins).all()


def confident(variables: Variables, stopping: bool = False) -> Variables:
    """The same policy, but all but certain of what it prefers."""
    import msgspec

    from pipeline.messages.contents import Array

    kernel, bias = variables.weights
    bias = Array.of(bias.numpy() * np.float32(20.0))
    return msgspec.structs.replace(variables, weights=(kernel, bias), stopping=stopping, is_finished=stopping)


def test_what_waits_in_the_queue_is_discarded_at_a_resume(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs, publish: Any
) -> None:
    experiment = make_experiment(*ON_POLICY)
    server = serve(experiment, counting_specs, blocking=True)
    collector = Collector(experiment, counting_specs, 0, "process", server.address, publish(counting_specs))
    for step in range(ROLLOUT + 1):
        assert not collector.has_completed_window, step
        collector.step()
    assert collector.has_completed_window
    assert collector.confirm(lambda: True, everything=True)
    assert server.info().current_size == 1
    restored = serve(experiment, counting_specs, restore_from=server.save(), blocking=True)
    assert restored.info().current_size == 0
    collector.close()


def test_a_collector_that_gets_no_new_weights_says_so(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs, publish: Any
) -> None:
    experiment = make_experiment(*ON_POLICY, "collect.away_seconds=0.5")
    server = serve(experiment, counting_specs, blocking=True)
    Publisher([server.address]).publish(publish(counting_specs, gradient_steps=6), True)
    reader = VariablesReader(server.address, 0.05)
    newest = reader.wait(120.0, "the test")
    collector = Collector(experiment, counting_specs, 1, "process", server.address, newest)
    with pytest.raises(TimeoutError, match=r"collector 1 has handed over its sequences .* gradient step 7"):
        renew(collector, reader, lambda: True, 0.5)
    renew(collector, reader, lambda: False, 0.5)  # gives up
    reader.close()
    collector.close()


def test_weights_are_fetched_as_soon_as_they_are_there(
    serve: Any, make_experiment: Callable[..., Any], counting_specs: Specs, publish: Any
) -> None:
    server = serve(make_experiment(*ON_POLICY), counting_specs, blocking=True)
    publisher, reader = Publisher([server.address]), VariablesReader(server.address, 1_000.0)
    publisher.publish(publish(counting_specs, gradient_steps=1), True)
    assert reader.wait(120.0, "the test").gradient_steps == 1
    publisher.publish(publish(counting_specs, gradient_steps=2), True)
    deadline = time.monotonic() + SECONDS
    newer = reader.newer_than((0, 0, 1), lambda: time.monotonic() < deadline)  # the next fetch would be in 1,000 s
    reader.close()
    assert newer is not None
    assert newer.gradient_steps == 2


def test_experience_of_other_weights_is_not_learned_from_and_too_much_of_it_ends_the_run(
    make_experiment: Callable[..., Any], counting_specs: Specs, tmp_path: Path
) -> None:
    import tensorflow as tf

    from pipeline.records.results import Ended
    from pipeline.replay.frames import FrameLayout
    from pipeline.replay.sampling import decode
    from pipeline.roles.learner_parts import Place, learner_parts
    from pipeline.roles.learner_role import LearningProcess

    run, experiment = RunDirectory(tmp_path / "run"), make_experiment(*ON_POLICY)
    run.create(experiment)
    place = Place(free_port())
    parts = learner_parts(experiment, counting_specs, run, place)
    process = LearningProcess(experiment, run, place, parts, started=0.0)
    layout = FrameLayout(counting_specs)
    frames = np.zeros((1, LANES * COLLECTORS, ROLLOUT + 1), layout.dtype)
    frames["gradient_steps"] = 0
    frames["gradient_steps"][0, 3] = 1
    trajectory, versions = decode(tf.constant(frames.view(np.uint8).reshape(*frames.shape, layout.num_bytes)), layout)
    sample = Sample(trajectory, versions, tf.ones(versions.shape), tf.zeros((2,), tf.uint64))
    for batch in range(1, 21):  # what a restart leaves is discarded, and collectors are asked to begin anew
        process._learn(sample)
        assert process.publication().version == (0, batch, 0)
    with pytest.raises(Ended, match="gradient steps 0 to 1 reached the learner at those of 0, 21 times in a row"):
        process._learn(sample)
    assert process.gradient_steps == 0
    assert process.ledger.counters.discarded == 20 * LANES * COLLECTORS
    process.replay.stop()
