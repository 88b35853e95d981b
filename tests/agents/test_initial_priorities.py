"""Priorities of new transitions: the collectors' TD errors against the learner's fold, and the windows of a stream."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents import losses
from agents.initial_priorities import TdErrorWindow, td_errors

MID, LAST = 1, 2


class Step(NamedTuple):
    """What one vector step saw and did: the arguments of `TdErrorWindow.add`."""

    q_values: np.ndarray
    mask: np.ndarray | None
    actions: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    last: np.ndarray


def random_stream(steps: int, lanes: int, masked: bool, seed: int = 0) -> list[Step]:
    """Boundaries anywhere, with and without terminations; what is forbidden is worth the most."""
    random = np.random.default_rng(seed)
    stream = []
    for _ in range(steps):
        q_values = random.normal(size=(lanes, 3)).astype(np.float32)
        actions = random.integers(0, 3, lanes)
        mask = None
        if masked:
            mask = random.random((lanes, 3)) < 0.5
            mask[np.arange(lanes), actions] = True
            q_values[~mask] += 100.0
        reward = 3.0 * random.normal(size=lanes).astype(np.float32)
        stream.append(Step(q_values, mask, actions, reward, random.random(lanes) < 0.2, random.random(lanes) < 0.3))
    return stream


def by_the_learner(
    taken: np.ndarray, best: np.ndarray, reward: np.ndarray, discount: np.ndarray, last: np.ndarray, gamma: float
) -> np.ndarray:
    """|target - Q| by `losses.n_step_return`; everything [T, lanes], the discount 0 or 1."""
    folded = losses.n_step_return(
        tf.constant(np.where(last, LAST, MID).T, tf.int32), tf.constant(reward.T), tf.constant(discount.T), gamma
    )
    value = best[folded.bootstrap_index.numpy(), np.arange(best.shape[1])]
    error = np.abs(folded.reward.numpy() + folded.discount.numpy() * value - taken[0])
    return np.where(folded.valid.numpy(), error, 0.0)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(2, 7), st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_td_errors_are_those_of_the_learners_fold(data: st.DataObject, frames: int, lanes: int, gamma: float) -> None:
    shape = (frames, lanes)
    numbers = arrays(np.float32, shape, elements=st.floats(-10.0, 10.0, width=32))
    flags = arrays(np.bool_, shape)
    taken, best, reward = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    terminated, last = data.draw(flags), data.draw(flags)
    continues = np.float32(~terminated)
    error = td_errors(taken, best, reward, np.float32(gamma) * continues, last)
    assert error.shape == (lanes,)
    assert error.dtype == np.float32
    expected = by_the_learner(taken, best, reward, continues, last, gamma)
    np.testing.assert_allclose(error, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("last", "terminated", "expected"),
    [
        # Taken Q-values 3, 0, 0; best ones 9, 12, 16; rewards 1, 2, 50; gamma is 0.5 and n is 2.
        ([0, 0, 0], [0, 0, 0], 3.0),  # 1 + 0.5 * 2 + 0.25 * 16 - 3
        ([0, 0, 1], [0, 1, 0], 1.0),  # terminated by the second step: 1 + 0.5 * 2 - 3, and no sign
        ([0, 0, 1], [0, 0, 0], 3.0),  # truncated by it: as without a boundary
        ([0, 1, 0], [1, 0, 0], 2.0),  # terminated by the first step: 1 - 3
        ([0, 1, 0], [0, 0, 0], 4.0),  # truncated by it, bootstraps from there: 1 + 0.5 * 12 - 3
        ([0, 1, 0], [0, 1, 1], 4.0),  # what another episode ends with does not matter
        ([1, 0, 0], [0, 0, 0], 0.0),  # no transition starts here
        ([1, 0, 1], [0, 1, 0], 0.0),
    ],
)
def test_td_errors_by_hand(last: list[int], terminated: list[int], expected: float) -> None:
    columns: list[Any] = [[3.0, 0.0, 0.0], [9.0, 12.0, 16.0], [1.0, 2.0, 50.0], 0.5 * (1.0 - np.float32(terminated))]
    error = td_errors(*(np.float32(column)[:, np.newaxis] for column in columns), np.bool_(last)[:, np.newaxis])
    assert error.tolist() == [expected]


def test_td_errors_leave_their_arguments_as_they_are() -> None:
    random = np.random.default_rng(0)
    columns = [random.normal(size=(4, 5)).astype(np.float32) for _ in range(4)]
    last = random.random((4, 5)) < 0.3
    before = [column.copy() for column in (*columns, last)]
    td_errors(*columns, last)
    for column, old in zip((*columns, last), before, strict=True):
        np.testing.assert_array_equal(column, old)


@pytest.mark.parametrize("window", [2, 3, 5])
def test_judge_says_nothing_until_its_window_is_full_and_then_always(window: int) -> None:
    judge = TdErrorWindow(window, 0.9, 0.0)
    given = [judge.add(*step) for step in random_stream(9, 2, masked=False)]
    assert [errors is not None for errors in given] == [False] * (window - 1) + [True] * (10 - window)


@pytest.mark.parametrize(
    ("mask", "reward_clip", "expected"),
    [
        # One lane. Frame 0: Q = [1, 3], action 0, reward 5. Frame 1: Q = [8, 6]. Gamma is 0.5.
        (None, 0.0, 8.0),  # 5 + 0.5 * 8 - 1
        ([False, True], 0.0, 7.0),  # 5 + 0.5 * 6 - 1
        (None, 2.0, 5.0),  # 2 + 0.5 * 8 - 1
        ([False, True], 2.0, 4.0),
        (None, 100.0, 8.0),
    ],
)
def test_judge_by_hand(mask: list[bool] | None, reward_clip: float, expected: float) -> None:
    judge = TdErrorWindow(2, 0.5, reward_clip)
    no = np.array([False])

    def add(q_values: list[float], allowed: list[bool] | None, reward: float) -> np.ndarray | None:
        masks = None if allowed is None else np.array([allowed])
        return judge.add(np.float32([q_values]), masks, np.array([0]), np.float32([reward]), no, no)

    # The mask of the frame where the action was taken must not matter: it allows that action alone.
    assert add([1.0, 3.0], None if mask is None else [True, False], 5.0) is None
    errors = add([8.0, 6.0], mask, -70.0)
    assert errors is not None
    assert errors.tolist() == [expected]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reward_clip", [0.0, 1.5])
@pytest.mark.parametrize("window", [2, 4])
def test_judge_gives_every_window_of_a_stream_the_learners_td_errors(
    window: int, reward_clip: float, masked: bool
) -> None:
    lanes, gamma = 6, 0.9
    stream = random_stream(30, lanes, masked)
    judge = TdErrorWindow(window, gamma, reward_clip)
    given = [judge.add(*step) for step in stream]
    for end in range(window - 1, len(stream)):
        frames = stream[end - window + 1 : end + 1]
        best = [
            [max(frame.q_values[lane][np.s_[:] if frame.mask is None else frame.mask[lane]]) for lane in range(lanes)]
            for frame in frames
        ]
        bound = reward_clip or np.inf
        expected = by_the_learner(
            np.stack([frame.q_values[np.arange(lanes), frame.actions] for frame in frames]),
            np.array(best, np.float32),
            np.stack([frame.reward.clip(-bound, bound) for frame in frames]),
            np.stack([np.float32(~frame.terminated) for frame in frames]),
            np.stack([frame.last for frame in frames]),
            gamma,
        )
        np.testing.assert_allclose(given[end], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reward_clip", [0.0, 1.5])
@pytest.mark.parametrize("masked", [False, True])
def test_arrays_that_the_caller_reuses_do_not_change_what_was_kept(masked: bool, reward_clip: float) -> None:
    stream = random_stream(12, 4, masked)
    fresh, reusing = TdErrorWindow(4, 0.9, reward_clip), TdErrorWindow(4, 0.9, reward_clip)
    buffers = Step(*(None if array is None else array.copy() for array in stream[0]))
    for step in stream:
        for buffer, array in zip(buffers, step, strict=True):
            if buffer is not None:
                buffer[...] = array
        expected, errors = fresh.add(*step), reusing.add(*buffers)
        if expected is not None:
            np.testing.assert_array_equal(errors, expected)
