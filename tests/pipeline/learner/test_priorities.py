"""Priorities on their way back: what new items get, and which draws met items that nobody had judged."""

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
    """A replay's side of writing priorities back, which keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def give_priorities(self, sample: Any, priorities: np.ndarray) -> None:
        self.calls.append((sample.keys.numpy(), priorities))


def writer_of(experiment: Experiment, counters: Counters) -> tuple[PriorityWriter, Written]:
    replay = Written()
    return PriorityWriter(experiment, replay, counters), replay  # type: ignore[arg-type]


def test_the_largest_priority_halves_in_a_thousand_gradient_steps_unless_a_larger_one_comes() -> None:
    counters = Counters(largest_priority=8.0)
    writer, _ = writer_of(prioritized(steps_per_call=100), counters)
    keys = np.arange(100 * BATCH, dtype=np.uint64)
    for _ in range(10):
        writer.write(sample_of_keys(keys), np.full((100, BATCH), 0.5, np.float32))
    assert counters.largest_priority == pytest.approx(4.0)
    writer.write(sample_of_keys(keys), np.full((100, BATCH), 6.0, np.float32))
    assert counters.largest_priority == 6.0
    writer.close()


def test_the_share_is_of_draws_that_met_no_priority_of_their_own() -> None:
    writer, replay = writer_of(prioritized(), Counters())
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 2**63, STEPS * BATCH, np.uint64) for _ in range(2))
    shares = []
    # The second call was drawn while the first one's priorities were on their way.
    for keys in (first, first, first, np.concatenate([first[:4], second[:4]]), second):
        writer.write(sample_of_keys(keys), np.ones((STEPS, BATCH), np.float32))
        shares.append(writer.unjudged_share)
    writer.close()
    assert shares == [1.0, 1.0, 0.0, 0.5, 1.0]
    assert len(replay.calls) == 5


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
    counters = Counters(largest_priority=1.0)
    writer, _ = writer_of(prioritized(), counters)
    values = np.array([[np.nan, np.inf, 0.5, 0.25], [0.1, 0.2, 0.3, 0.4]], np.float32)
    writer.write(sample_of_keys(np.arange(STEPS * BATCH, dtype=np.uint64)), values)
    writer.close()
    assert 0.99 < counters.largest_priority <= 1.0
