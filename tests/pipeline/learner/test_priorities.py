"""Priorities on their way back: what new items get, and which draws met items that nobody had judged."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.learner.priorities import JudgedKeys, PriorityWriter
from pipeline.records.counters import Counters
from pipeline.replay.sampling import Sample

STEPS, BATCH = 2, 4


def prioritized(**learner: int) -> Experiment:
    steps = learner.get("steps_per_call", STEPS)
    return parse(
        "[replay]\nprioritized = true\ncapacity = 64\nmin_size = 8\n"
        f"[learner]\nbatch_size = {BATCH}\nsteps_per_call = {steps}\n"
    )


def sample_of_keys(keys: np.ndarray) -> Sample:
    """A call's draws, of which nothing but the items is looked at."""
    return Sample((), tf.zeros(()), tf.zeros(()), tf.constant(keys))


class Written:
    """A replay's side of writing priorities back, which keeps what it is given, and gives the samples it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []
        self.given: list[Sample] = []

    def samples(self) -> Iterator[Sample]:
        return iter(self.given)

    def give_priorities(self, sample: Any, priorities: np.ndarray) -> None:
        self.calls.append((sample.keys.numpy(), priorities))


def writer_of(experiment: Experiment, counters: Counters) -> tuple[PriorityWriter, Written]:
    replay = Written()
    return PriorityWriter(experiment, replay, counters), replay  # type: ignore[arg-type]


def drawn(writer: PriorityWriter, replay: Written, keys: np.ndarray) -> Sample:
    """A call's draws, as the learner gets them."""
    replay.given = [sample_of_keys(keys)]
    (sample,) = writer.samples()
    return sample


def test_the_largest_priority_halves_in_a_thousand_gradient_steps_unless_a_larger_one_comes() -> None:
    counters = Counters(largest_priority=8.0, gradient_steps=1)
    writer, _ = writer_of(prioritized(steps_per_call=100), counters)
    keys = np.arange(100 * BATCH, dtype=np.uint64)
    for _ in range(10):
        writer.write(sample_of_keys(keys), np.full((100, BATCH), 0.5, np.float32))
    assert counters.largest_priority == pytest.approx(4.0)
    writer.write(sample_of_keys(keys), np.full((100, BATCH), 6.0, np.float32))
    assert counters.largest_priority == 6.0
    writer.close()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_first_priorities_replace_the_one_that_nobody_has_given(scale: float) -> None:
    counters = Counters()
    writer, _ = writer_of(prioritized(), counters)
    writer.write(sample_of_keys(np.arange(8, dtype=np.uint64)), np.full((STEPS, BATCH), scale, np.float32))
    writer.close()
    assert counters.largest_priority == pytest.approx(scale)


def test_the_share_is_of_draws_that_met_no_priority_of_their_own() -> None:
    writer, replay = writer_of(prioritized(), Counters())
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 2**63, STEPS * BATCH, np.uint64) for _ in range(2))
    half, ones = np.concatenate([first[:4], second[:4]]), np.ones((STEPS, BATCH), np.float32)
    shares, ahead = [], drawn(writer, replay, first)
    for keys in (first, first, half, half, second):  # each is drawn while the one before is learned from
        sample, ahead = ahead, drawn(writer, replay, keys)
        writer.write(sample, ones)
        writer.settle()
        shares.append(writer.unjudged_share)
    writer.close()
    assert shares == [1.0, 0.0, 0.5, 0.5, 0.5]


def test_what_was_drawn_waits_for_its_priority_with_the_mean_one() -> None:
    counters = Counters(largest_priority=9.0)
    writer, replay = writer_of(prioritized(), counters)
    old, new = np.arange(1, 9, dtype=np.uint64), np.arange(5, 13, dtype=np.uint64)
    priorities = np.linspace(0.5, 4.0, 8, dtype=np.float32).reshape(STEPS, BATCH)
    writer.write(drawn(writer, replay, old), priorities)
    writer.settle()
    assert [keys.tolist() for keys, _ in replay.calls] == [old.tolist()]  # nothing has been judged: no mean is known
    drawn(writer, replay, np.concatenate([new, new[-2:]]))
    writer.settle()
    keys, given = replay.calls[-1]
    assert sorted(keys.tolist()) == [9, 10, 11, 12]  # each once; the others have priorities of their own
    np.testing.assert_allclose(given, np.full((1, 4), 2.25))
    drawn(writer, replay, old)
    writer.settle()
    assert len(replay.calls) == 2
    writer.close()


def test_new_items_with_priorities_of_collectors_keep_them_until_they_are_judged() -> None:
    experiment = parse("[replay]\nprioritized = true\ninitial_priority = 'td_error'\ncapacity = 64\nmin_size = 8\n")
    writer, replay = writer_of(experiment, Counters())
    size = experiment.learner.steps_per_call * experiment.learner.batch_size
    writer.write(sample_of_keys(np.arange(size, dtype=np.uint64)), np.ones((size // 4, 4), np.float32))
    drawn(writer, replay, np.arange(size, size + 8, dtype=np.uint64))
    writer.close()
    assert len(replay.calls) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), min_size=1, max_size=20))
def test_what_was_judged_within_the_capacity_is_remembered(calls: list[list[int]]) -> None:
    judged = JudgedKeys(capacity=400)
    for keys in calls:
        judged.add(np.array(keys, np.uint64))
    for keys in calls:
        assert judged.contains(np.array(keys, np.uint64)).all()


def test_what_has_left_is_forgotten() -> None:
    judged, random = JudgedKeys(capacity=100), np.random.default_rng(1)
    old = random.integers(0, 2**63, 50, np.uint64)
    judged.add(old)
    for _ in range(20):
        judged.add(random.integers(0, 2**63, 50, np.uint64))
    assert judged.contains(old).mean() < 0.3
    assert judged.contains(random.integers(0, 2**63, 1_000, np.uint64)).mean() < 0.2


def test_a_priority_that_is_not_finite_does_not_become_that_of_new_items() -> None:
    counters = Counters(largest_priority=1.0, gradient_steps=1)
    writer, _ = writer_of(prioritized(), counters)
    values = np.array([[np.nan, np.inf, 0.5, 0.25], [0.1, 0.2, 0.3, 0.4]], np.float32)
    writer.write(sample_of_keys(np.arange(STEPS * BATCH, dtype=np.uint64)), values)
    writer.close()
    assert 0.99 < counters.largest_priority <= 1.0
