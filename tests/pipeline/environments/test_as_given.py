"""Observations, rewards and flags: taken as an environment gives them, or a fault, a warning or a refusal by name."""

import logging
from typing import Any

import numpy as np
import pytest
from environments_as_given import Batches, Given, Sharing
from environments_for_tests import SPACES
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.environments import EnvironmentFault, LaneEnvironment
from pipeline.environments.lanes.spaces import harmless_dtypes, leaf_readers, specs_of
from pipeline.environments.lanes.vectors import SerialVectorEnv
from pipeline.environments.lanes.wrappers import ContractCheck, misfit
from pipeline.experiment.config import UsageError

ACTION = spaces.Discrete(2)
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
Box = spaces.Box


def lanes_of(*arguments: Any, number: int = 2, **more: Any) -> LaneEnvironment:
    return LaneEnvironment(SerialVectorEnv([lambda: Given(*arguments, **more)] * number), "Given-v0")


def seen(*arguments: Any, **more: Any) -> list[Any]:
    """What the second lane observes after a step."""
    environment = lanes_of(*arguments, **more)
    environment.reset(0)
    step = environment.step(np.zeros(2, np.int64))
    return [values[1].tolist() for values in step.observation.values()]


def fault_of(*arguments: Any, **more: Any) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        seen(*arguments, **more)
    return str(caught.value)


@given(st.sampled_from([kind for kind in SPACES if kind not in ("text", "sequence")]), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_lanes_that_share_their_arrays_observe_what_each_gave(kind: str, number: int) -> None:
    space = SPACES[kind]
    row = create_empty_array(space, n=1, fn=np.zeros)

    def one_of(part: Any, rows: Any) -> Any:
        if isinstance(part, spaces.Dict):
            return {key: one_of(inner, rows[key]) for key, inner in part.spaces.items()}
        if isinstance(part, spaces.Tuple):
            return tuple(one_of(*pair) for pair in zip(part.spaces, rows, strict=True))
        return rows[0] if part.shape else rows.reshape(())

    buffer = one_of(space, row)
    environment = LaneEnvironment(SerialVectorEnv([lambda: Sharing(space, buffer)] * number), "Sharing-v0")
    alone = [Sharing(space, one_of(space, create_empty_array(space, n=1, fn=np.zeros))) for _ in range(number)]
    readers = leaf_readers(space)

    def expected(observations: list[Any]) -> Any:
        batches = [
            {leaf: read(_batched(space, each))[0].copy() for leaf, read in readers.items()} for each in observations
        ]
        return {leaf: np.stack([batch[leaf] for batch in batches]) for leaf in readers}

    step, following = environment.reset(5), [each.reset(seed=5 + lane)[0] for lane, each in enumerate(alone)]
    for taken in range(6):
        for leaf, values in expected(following).items():
            assert np.array_equal(step.observation[leaf], values)
        step = environment.step(np.zeros(number, np.int64))
        following = [each.reset()[0] if taken == 3 else each.step(0)[0] for each in alone]


def _batched(space: Any, observation: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _batched(part, observation[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_batched(*pair) for pair in zip(space.spaces, observation, strict=True))
    return np.asarray(observation)[np.newaxis]


@given(
    st.sampled_from(INTEGERS), st.sampled_from(INTEGERS), st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 12, 40])
)
@settings(max_examples=200, deadline=None)
def test_integers_are_observed_as_given_or_a_fault(declared: str, given_as: str, number: int, shift: int) -> None:
    number >>= shift if abs(number) >> shift else 0
    of_given, of_declared = np.iinfo(given_as), np.iinfo(declared)
    number = min(max(number, int(of_given.min)), int(of_given.max))
    space = Box(of_declared.min, of_declared.max, (1,), np.dtype(declared).type)
    value = np.array([number], given_as)
    fits = of_declared.min <= number <= of_declared.max and (declared == "uint8" or abs(number) <= 2**24)
    if fits:
        assert seen(space, np.zeros(1, declared), value) == [[number]]
    else:
        message = fault_of(space, np.zeros(1, declared), value)
        assert str(number) in message
        assert "lane 0, step 1" in message


@given(st.sampled_from(["discrete", "discrete_from", "multi_discrete_from", "binary"]), st.integers(-300, 300))
@settings(max_examples=60, deadline=None)
def test_categories_are_those_declared_or_a_fault(kind: str, number: int) -> None:
    space = SPACES[kind]
    first = space.sample()
    then = np.array(first, np.int64)
    if then.ndim:
        then[-1] = number
    else:
        then = np.int64(number)
    if space.contains(then.astype(space.dtype)) and number == then.ravel()[-1].astype(space.dtype):
        start = np.asarray(getattr(space, "start", 0))
        assert seen(space, first, then) == [(then - start).tolist()]
    else:
        assert str(number) in fault_of(space, first, then)


@pytest.mark.parametrize(
    ("space", "first", "then", "words"),
    [
        (Box(0, 255, (1,), np.uint8), np.zeros(1, np.uint8), np.array([356]), "356 does not fit into uint8"),
        (Box(0, 255, (1,), np.uint8), np.zeros(1, np.uint8), np.array([-1]), "-1 does not fit into uint8"),
        (Box(0, 1, (1,), np.float32), [0.0], np.array([2**24 + 1]), "16777217 does not fit into float32"),
        (Box(-np.inf, np.inf, (1,), np.float64), [0.0], np.array([2**53]), "does not fit into float64"),
        (Box(-9, 9, (1,), np.float16), [0.0], np.array([1e5]), "not finite"),
        (spaces.Discrete(4), 0, 4, r"4 is not in Discrete\(4\)"),
        (spaces.Discrete(4, start=2), 2, 1, r"1 is not in Discrete\(4, start=2\)"),
        (spaces.MultiDiscrete([2, 3]), [0, 0], [0, 3], "3 is not in MultiDiscrete"),
        (spaces.MultiBinary(2), [0, 0], [0, 257], "257 does not fit into int8"),
        (spaces.Discrete(4), 0, 2**70, "dtype object"),
        (spaces.Dict({"gear": spaces.Discrete(4)}), {"gear": 0}, {"gear": 7}, "observation gear: 7 is not in"),
        (spaces.Dict({"eye": Box(0, 255, (1,), np.uint8)}), {"eye": [0]}, {"eye": [300]}, "eye: 300 does not fit"),
    ],
    ids=str,
)
def test_what_cannot_be_held_is_a_fault_that_names_it(space: Any, first: Any, then: Any, words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        seen(space, first, then)
    if not isinstance(first, dict) and "finite" not in words and "not in" not in words:
        check = ContractCheck(Given(space, first, then))  # of a worker's lane
        check.reset(seed=0)
        with pytest.raises(Exception, match=words):
            check.step(0)


def test_batches_are_checked_as_lanes_are() -> None:
    step = (np.array([[1], [356]]), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {})
    environment = LaneEnvironment(Batches(Box(0, 255, (1,), np.uint8), np.zeros((2, 1), np.uint8), step), "Batches-v0")
    environment.reset(0)
    with pytest.raises(EnvironmentFault, match="lane 1, step 1: observation: 356 does not fit into uint8"):
        environment.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, np.zeros((3, 1), np.float32), "observations of 3 lanes"),
        (1, np.zeros((2, 1)), r"rewards of dtype float64 and shape \(2, 1\)"),
        (1, np.array(["1", "2"]), "rewards of dtype <U1"),
        (2, np.array([0, 2]), "terminated is .*2"),
        (3, [None, None], "truncated of dtype object"),
    ],
)
def test_what_batches_return_beside_is_checked(place: int, value: Any, words: str) -> None:
    good: list[Any] = [np.zeros((2, 1), np.float32), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}]
    good[place] = value
    environment = LaneEnvironment(Batches(Box(-1, 1, (1,)), np.zeros((2, 1), np.float32), good), "Batches-v0")
    environment.reset(0)
    with pytest.raises(EnvironmentFault, match=words):
        environment.step(np.zeros(2, np.int64))


def test_flags_of_batches_may_be_zeros_and_ones() -> None:
    step = (np.zeros((2, 1), np.float32), [1, 2], np.array([0, 1]), np.array([0, 0]), {})
    environment = LaneEnvironment(Batches(Box(-1, 1, (1,)), np.zeros((2, 1), np.float32), step), "Batches-v0")
    environment.reset(0)
    following = environment.step(np.zeros(2, np.int64))
    assert following.terminated.tolist() == environment.resetting.tolist() == [False, True]
    assert following.reward.tolist() == [1.0, 2.0]


BOX = (Box(-1, 1, (1,), np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward", None),
        ("reward", "1.5"),
        ("reward", 1j),
        ("reward", np.complex64(1)),
        ("reward", [1.0, 2.0]),
        ("reward", {}),
        ("reward", float("nan")),
        ("reward", 1e300),
        ("terminated", None),
        ("terminated", "no"),
        ("terminated", np.nan),
        ("terminated", {}),
        ("terminated", 2),
        ("truncated", [True, False]),
        ("truncated", {"TimeLimit.truncated": True}),
        ("info", ["a"]),
        ("info", "text"),
    ],
)
def test_rewards_flags_and_infos_that_are_none_are_faults_by_name(name: str, value: Any) -> None:
    environment = lanes_of(*BOX, **{name: value})
    environment.reset(0)
    with pytest.raises(EnvironmentFault, match=rf"lane 0, step 1: .*{name}"):
        environment.step(np.zeros(2, np.int64))
    if name != "reward" or not isinstance(value, float):
        check = ContractCheck(Given(*BOX, **{name: value}))
        check.reset(seed=0)
        with pytest.raises(Exception, match=name):
            check.step(0)


@pytest.mark.parametrize("reward", [1, True, np.float64(1), np.int8(1), np.array(1.0), np.array([1.0]), np.bool_(1)])
def test_any_number_is_a_reward(reward: Any) -> None:
    environment = lanes_of(*BOX, reward=reward, truncated=np.array([1]))
    environment.reset(0)
    step = environment.step(np.zeros(2, np.int64))
    assert step.reward.tolist() == [1.0, 1.0]
    assert step.truncated.all()


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (Box(-1, 1, (2,), np.float32), [0.0, 1.5]),
        (Box(np.float32([-1, -np.inf]), np.float32([1, np.inf])), [-2.0, 9.0]),
        (Box(0, 7, (2,), np.uint8), np.array([9, 0], np.uint8)),
        (Box(-5, 5, (2,), np.int32), np.array([6, 0])),
    ],
    ids=str,
)
def test_numbers_beyond_declared_bounds_are_one_warning(
    space: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    environment = lanes_of(spaces.Dict({"speed": space}), {"speed": np.zeros(2, space.dtype)}, {"speed": value})
    with caplog.at_level(logging.WARNING):
        environment.reset(0)
        for _ in range(3):
            step = environment.step(np.zeros(2, np.int64))
            assert step.observation["speed"][1].tolist() == list(value)
    (record,) = caplog.records
    assert "'speed'" in record.getMessage()
    assert "'Given-v0'" in record.getMessage()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Dict({"a/b": Box(-1, 1, (1,)), "a": spaces.Dict({"b": ACTION})}), "'a/b'"),
        (spaces.Dict({"a/0": ACTION, "a": spaces.Tuple([ACTION])}), "'a/0'"),
        (spaces.Dict({"": spaces.Dict({"x": ACTION}), "x": ACTION}), "'x'"),
        (spaces.Discrete(2**31), "the observation is Discrete"),
        (spaces.Dict({"key": spaces.Discrete(2**40)}), "observation 'key' is Discrete"),
        (spaces.MultiDiscrete([2, 2**31]), "at most 2,147,483,647 categories"),
        (Box(-1, 1, (0,)), "holds no numbers"),
        (spaces.Dict({"x": Box(0, 255, (3, 0), np.uint8)}), "observation 'x' is Box"),
        (spaces.Dict({}), "no parts"),
        (spaces.Tuple([]), "no parts"),
    ],
    ids=str,
)
def test_spaces_that_cannot_be_are_refused_by_name(space: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        specs_of(space, ACTION, masked=False)
    assert "\n" not in str(caught.value)


def test_what_is_harmless_fits_as_the_slow_check_has_it() -> None:
    for declared in (*INTEGERS, "float16", "float32", "float64"):
        space = Box(0, 1, (2,), np.dtype(declared).type)
        for char in harmless_dtypes(space):
            dtype = np.dtype(char)
            if dtype.kind in "iu":
                ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
                assert misfit(space, ends) is None
                assert np.array_equal(ends.astype(declared).astype(dtype), ends)
