"""The pure functions of agents.losses: hand-worked numbers, and slow obvious references under hypothesis."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import losses

FIRST, MID, LAST = 0, 1, 2


class Episode(NamedTuple):
    rewards: list[float]
    terminated: bool


class Frame(NamedTuple):
    episode: Episode
    step: int

    @property
    def step_type(self) -> int:
        if self.step == len(self.episode.rewards):
            return LAST
        return FIRST if self.step == 0 else MID

    @property
    def reward(self) -> float:
        # What the step that resets the environment returned belongs to no episode: a large number would show.
        return 1e4 if self.step_type == LAST else self.episode.rewards[self.step]

    @property
    def discount(self) -> float:
        return 0.0 if self.episode.terminated and self.step == len(self.episode.rewards) - 1 else 1.0


def fold(windows: list[list[Frame]], gamma: float) -> losses.NStepReturn:
    folded = losses.n_step_return(
        tf.constant([[frame.step_type for frame in window] for window in windows], tf.int32),
        tf.constant([[frame.reward for frame in window] for window in windows], tf.float32),
        tf.constant([[frame.discount for frame in window] for window in windows], tf.float32),
        gamma,
    )
    return losses.NStepReturn(*(tensor.numpy() for tensor in folded))


def expected_return(episode: Episode, step: int, n: int, gamma: float) -> tuple[float, float, int]:
    """Reward, discount and steps of the n-step return from one step of an episode, as a textbook has it."""
    steps = min(n, len(episode.rewards) - step)
    reward = sum(gamma**k * episode.rewards[step + k] for k in range(steps))
    reaches_end = step + steps == len(episode.rewards)
    return reward, 0.0 if reaches_end and episode.terminated else gamma**steps, steps


rewards = st.floats(-10.0, 10.0, width=32)
episodes = st.builds(Episode, st.lists(rewards, min_size=1, max_size=6), st.booleans())


@settings(deadline=None, max_examples=100)
@given(st.lists(episodes, min_size=1, max_size=4), st.integers(1, 7), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_fold_of_every_window_of_a_stream_is_the_textbook_return(
    stream: list[Episode], n_step: int, gamma: float
) -> None:
    frames = [Frame(episode, step) for episode in stream for step in range(len(episode.rewards) + 1)]
    # Windows at every offset, LAST frames included: the batch is a set of lanes out of phase.
    windows = [[frames[(start + t) % len(frames)] for t in range(n_step + 1)] for start in range(len(frames))]
    folded = fold(windows, gamma)
    for row, (episode, step) in enumerate(frames):
        starts_transition = step < len(episode.rewards)
        assert folded.valid[row] == starts_transition
        if starts_transition:
            reward, discount, steps = expected_return(episode, step, n_step, gamma)
            assert folded.reward[row] == pytest.approx(reward, rel=1e-5, abs=1e-4)
            assert folded.discount[row] == pytest.approx(discount, abs=1e-6)
            assert folded.bootstrap_index[row] == steps


@settings(deadline=None, max_examples=50)
@given(st.lists(episodes, min_size=3, max_size=3), st.integers(1, 5), st.integers(-5, 5))
def test_what_follows_an_episode_end_does_not_reach_the_return(
    stream: list[Episode], n_step: int, reward: float
) -> None:
    first, second, other = stream

    def windows(follower: Episode) -> list[list[Frame]]:
        frames = [Frame(episode, step) for episode in (first, follower) for step in range(len(episode.rewards) + 1)]
        return [
            [frames[min(start + t, len(frames) - 1)] for t in range(n_step + 1)] for start in range(len(first.rewards))
        ]

    longer = Episode([float(reward), *other.rewards], other.terminated)
    for one, another in zip(fold(windows(second), 0.9), fold(windows(longer), 0.9), strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.mark.parametrize(
    ("step_types", "discounts", "reward", "discount", "index", "valid"),
    [
        # Rewards are 1, 2, 4, 8 and gamma is 0.5 throughout; n = 3.
        # No boundary: 1 + 0.5 * 2 + 0.25 * 4 = 3, bootstrap by 0.5^3 from frame 3. The 8 is the next step's.
        ([FIRST, MID, MID, MID], [1, 1, 1, 1], 3.0, 0.125, 3, True),
        # Terminated by the second step: 1 + 0.5 * 2 = 2, nothing to bootstrap.
        ([MID, MID, LAST, FIRST], [1, 0, 1, 1], 2.0, 0.0, 2, True),
        # Truncated there: the same 2, and 0.5^2 of the value of the last frame.
        ([MID, MID, LAST, FIRST], [1, 1, 1, 1], 2.0, 0.25, 2, True),
        # An episode of one step, terminated, then truncated.
        ([FIRST, LAST, FIRST, LAST], [0, 1, 0, 1], 1.0, 0.0, 1, True),
        ([FIRST, LAST, FIRST, LAST], [1, 1, 1, 1], 1.0, 0.5, 1, True),
        # The end lies on the window's last frame: 3 as without a boundary, and no bootstrap after a termination.
        ([MID, MID, MID, LAST], [1, 1, 0, 1], 3.0, 0.0, 3, True),
        ([MID, MID, MID, LAST], [1, 1, 1, 1], 3.0, 0.125, 3, True),
        # Begins on an episode's end: no transition, nothing summed.
        ([LAST, FIRST, MID, MID], [1, 1, 1, 1], 0.0, 1.0, 0, False),
    ],
)
def test_n_step_return_by_hand(
    step_types: list[int], discounts: list[float], reward: float, discount: float, index: int, valid: bool
) -> None:
    folded = losses.n_step_return(
        tf.constant([step_types]), tf.constant([[1.0, 2.0, 4.0, 8.0]]), tf.constant([discounts], tf.float32), 0.5
    )
    assert [tensor.numpy().item() for tensor in folded] == [reward, discount, index, valid]


def test_n_step_return_of_a_batch_is_that_of_its_rows() -> None:
    random = np.random.default_rng(0)
    step_type = random.integers(0, 3, (16, 5)).astype(np.int32)
    reward = random.normal(size=(16, 5)).astype(np.float32)
    discount = random.integers(0, 2, (16, 5)).astype(np.float32)
    together = losses.n_step_return(tf.constant(step_type), tf.constant(reward), tf.constant(discount), 0.9)
    for row in range(16):
        alone = losses.n_step_return(*(tf.constant(part[row : row + 1]) for part in (step_type, reward, discount)), 0.9)
        for whole, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[row : row + 1], single, rtol=1e-6)


def test_action_value_takes_the_q_value_of_each_action() -> None:
    q = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(losses.action_value(q, tf.constant([2, 0])), [3.0, 4.0])


@pytest.mark.parametrize("dtype", [tf.bool, tf.int32, tf.float32])
def test_masked_q_keeps_allowed_values_and_puts_the_lowest_float_elsewhere(dtype: tf.DType) -> None:
    masked = losses.masked_q(tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.cast([[1, 0], [0, 1]], dtype))
    lowest = np.finfo(np.float32).min
    np.testing.assert_array_equal(masked, [[1.0, lowest], [lowest, 4.0]])


def test_masked_q_without_a_mask_changes_nothing() -> None:
    q = tf.constant([[1.0, -2.0]])
    np.testing.assert_array_equal(losses.masked_q(q, None), q)


@pytest.mark.parametrize(
    ("selector", "mask", "value"),
    [
        # q_t = [10, 5, 7]. DQN selects by q_t itself: the largest is 10; without action 0 it is 7.
        ([10.0, 5.0, 7.0], None, 10.0),
        ([10.0, 5.0, 7.0], [True, True, True], 10.0),
        ([10.0, 5.0, 7.0], [False, True, True], 7.0),
        # Double DQN selects by other values: action 1, worth 5; without action 1 it is action 2, worth 7.
        ([1.0, 3.0, 2.0], None, 5.0),
        ([1.0, 3.0, 2.0], [True, False, True], 7.0),
        # Values far below the others stay the choice where nothing else is allowed.
        ([-1e6, 3.0, 2.0], [True, False, False], 10.0),
    ],
)
def test_bootstrap_value_by_hand(selector: list[float], mask: list[bool] | None, value: float) -> None:
    mask_t = None if mask is None else tf.constant([mask])
    assert losses.bootstrap_value(tf.constant([[10.0, 5.0, 7.0]]), tf.constant([selector]), mask_t).numpy() == [value]


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_bootstrap_value_is_the_best_allowed_by_a_loop(data: st.DataObject, actions: int, batch: int) -> None:
    # Whole numbers, so that there are ties: the first of equals is taken.
    values = st.lists(st.integers(-5, 5).map(float), min_size=actions, max_size=actions)
    q_t = [data.draw(values) for _ in range(batch)]
    selector = [data.draw(values) for _ in range(batch)]
    allowed = [data.draw(st.sets(st.integers(0, actions - 1), min_size=1)) for _ in range(batch)]
    mask = [[action in row for action in range(actions)] for row in allowed]
    expected = [
        q_row[max(sorted(row), key=lambda action, by=by: by[action])]
        for q_row, by, row in zip(q_t, selector, allowed, strict=True)
    ]
    value = losses.bootstrap_value(tf.constant(q_t), tf.constant(selector), tf.constant(mask))
    np.testing.assert_array_equal(value, np.float32(expected))


def test_huber_is_half_the_square_up_to_one_and_linear_beyond() -> None:
    # 0.5 * 0.5^2 = 0.125; at 1 both pieces give 0.5; beyond, |x| - 0.5.
    td_error = tf.constant([0.0, 0.5, -0.5, 1.0, -3.0, 10.0])
    np.testing.assert_allclose(losses.elementwise_loss(td_error, "huber"), [0.0, 0.125, 0.125, 0.5, 2.5, 9.5])


def test_mse_is_half_the_square() -> None:
    np.testing.assert_allclose(losses.elementwise_loss(tf.constant([0.5, -3.0]), "mse"), [0.125, 4.5])


def test_huber_gradient_is_the_td_error_clipped_to_one() -> None:
    td_error = tf.constant([0.25, -0.5, 3.0, -7.0])
    with tf.GradientTape() as tape:
        tape.watch(td_error)
        loss = losses.elementwise_loss(td_error, "huber")
    np.testing.assert_allclose(tape.gradient(loss, td_error), [0.25, -0.5, 1.0, -1.0])


@pytest.mark.parametrize(
    ("largest", "clipped"),
    [
        (10.0, [3.0, 4.0]),  # the norm, sqrt(9 + 16) = 5, is within the bound
        (5.0, [3.0, 4.0]),
        (1.0, [0.6, 0.8]),  # scaled by 1 / 5
        (0.0, [3.0, 4.0]),  # 0 does not clip
    ],
)
def test_clip_by_global_norm_by_hand(largest: float, clipped: list[float]) -> None:
    parts, norm = losses.clip_by_global_norm([tf.constant([3.0]), tf.constant([[4.0]])], largest)
    assert norm.numpy() == 5.0
    np.testing.assert_allclose([part.numpy().item() for part in parts], clipped, rtol=1e-6)


def test_clip_by_global_norm_of_no_gradient_is_no_gradient() -> None:
    (part,), norm = losses.clip_by_global_norm([tf.zeros(3)], 1.0)
    assert norm.numpy() == 0.0
    np.testing.assert_array_equal(part, np.zeros(3))


def test_clip_by_global_norm_does_not_hide_a_gradient_that_is_not_finite() -> None:
    _, norm = losses.clip_by_global_norm([tf.constant([1.0, np.nan])], 1.0)
    assert not np.isfinite(norm.numpy())
