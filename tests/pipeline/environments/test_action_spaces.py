"""Action spaces of several dimensions, their masks, and Box actions cut into points, through real lanes."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from environments_of_dimensions import FORMS, numbers, sizes
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agents.exploration import greedy, uniform
from pipeline import environments
from pipeline.environments.interfaces import action_spaces
from pipeline.experiment.config import UsageError, parse

DIALS = 'environment.import_path="environments_of_dimensions:Dials"'


def config(*lines: str) -> Any:
    return parse("", ('environment.id=""', *lines)).environment


def dials(form: str, masks: str = "none", *more: str) -> Any:
    return config(DIALS, f'environment.kwargs={{form="{form}", masks="{masks}"}}', *more)


@pytest.mark.parametrize("form", FORMS)
def test_vectors_become_actions_of_the_space_and_back(form: str) -> None:
    space = FORMS[form]
    of_each = action_spaces.sizes_of(space)
    assert list(of_each) == sizes(space)
    random = np.random.default_rng(0)
    actions = np.stack([random.integers(0, size, 20) for size in of_each], axis=1)
    batch = action_spaces.outward(space, actions)
    lanes = batch if isinstance(batch, np.ndarray) else list(gymnasium.vector.utils.iterate(batched(space), batch))
    for vector, action in zip(actions, lanes, strict=True):
        assert space.contains(action)
        assert numbers(space, action) == vector.tolist()
        assert action_spaces.inward(space, action).tolist() == vector.tolist()
    assert action_spaces.inward(space, batch, 20).tolist() == actions.tolist()
    first = action_spaces.outward(space, np.zeros((1, len(of_each)), np.int64))
    assert action_spaces.starts_of(space) == tuple(np.concatenate([np.ravel(part) for part in flat(first)]).tolist())


def batched(space: Any) -> Any:
    return gymnasium.vector.utils.batch_space(space, 20)


def flat(action: Any) -> list[Any]:
    if isinstance(action, dict):
        return [leaf for part in action.values() for leaf in flat(part)]
    return [leaf for part in action for leaf in flat(part)] if isinstance(action, tuple) else [action]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Box(-1, 1, (2,)), "set environment.discretize"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))]), "or a Tuple or Dict of those: wrap it"),
        (spaces.Text(3), "or a Tuple or Dict of those: wrap it"),
    ],
)
def test_other_spaces_are_refused_with_what_would_do(space: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        action_spaces.sizes_of(space)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2))
def test_masks_may_be_one_row_or_an_array_a_dimension(rows: list[list[bool]]) -> None:
    space, row = spaces.MultiDiscrete([3, 3]), [value for part in rows for value in part]
    forms: list[Any] = [
        row,
        np.array(row),
        tuple(np.array(part, np.int8) for part in rows),
        np.array(rows),
        np.array([np.array(part, object) for part in rows], object),
    ]
    for form in forms:
        assert np.asarray(action_spaces.flat_mask(space, form)).astype(bool).tolist() == row
    ragged = (np.array([1, 0], np.int8), np.array([1], np.int8))
    assert action_spaces.flat_mask(spaces.MultiDiscrete([2, 1]), ragged).tolist() == [1, 0, 1]


def test_masks_of_binary_spaces_may_say_which_values_there_are() -> None:
    # 0 is that value alone, 1 that alone, 2 both: choices are 0 and 1 of each.
    found = action_spaces.flat_mask(spaces.MultiBinary(3), np.array([0, 1, 2], np.int8))
    assert found.tolist() == [True, False, False, True, True, True]


def test_masks_of_nested_spaces_are_of_their_parts() -> None:
    nested = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiDiscrete([2, 1])})
    mask = {"b": (np.array([0, 1]), np.array([1])), "a": np.array([1, 0])}
    assert action_spaces.flat_mask(nested, mask).tolist() == [1, 0, 0, 1, 1]
    assert action_spaces.flat_mask(nested, np.array([1, 0, 0, 1, 1])).tolist() == [1, 0, 0, 1, 1]


MASKED = [
    ("vector", "flat"), ("vector", "parts"), ("matrix", "parts"), ("binary", "own"), ("binary matrix", "own"),
    ("tuple", "parts"), ("dict", "flat"), ("one", "parts"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "masks"), [*((form, "none") for form in FORMS), *MASKED])
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_lanes_take_vectors_and_obey_masks(form: str, masks: str, vectorization: str) -> None:
    given_config = dials(form, masks, f'environment.vectorization="{vectorization}"', "environment.frame_skip=2")
    specs = environments.describe(given_config)
    assert (specs.action_sizes, specs.masked) == (tuple(sizes(FORMS[form])), masks != "none")
    assert specs.num_actions == sum(specs.action_sizes)
    lanes = environments.make(given_config, 3, masked=specs.masked)
    random, seen = np.random.default_rng(0), lanes.reset(0)
    for _ in range(15):  # episodes end within; the environment raises at what it did not allow, which no fault excuses
        actions, begin = np.zeros((3, len(specs.action_sizes)), np.int64), 0
        for dimension, size in enumerate(specs.action_sizes):
            allowed = None if seen.mask is None else seen.mask[:, begin : begin + size]
            actions[:, dimension] = uniform((3, size), random, allowed)
            begin += size
        seen = lanes.step(actions)
    lanes.close()


def test_a_mask_that_leaves_nothing_of_a_dimension_is_a_fault() -> None:
    lanes = environments.make(dials("vector", "forbids all"), 1, masked=True)
    seen = lanes.reset(0)
    for _ in range(3):
        assert seen.mask is not None
        action = greedy(np.zeros((1, 5), np.float32), seen.mask, (3, 2))
        if lanes.steps == 1:
            with pytest.raises(environments.EnvironmentFault, match="allows nothing of some dimension of the action"):
                lanes.step(action)
            break
        seen = lanes.step(action)
    assert lanes.steps == 2
    lanes.close()


def test_what_is_forbidden_of_one_dimension_is_never_sent() -> None:
    from pipeline.environments.lanes.contract import ForbiddenAction

    lanes = environments.make(dials("vector", "flat"), 1, masked=True)
    seen = lanes.reset(3)
    while seen.mask is not None and seen.mask.all():
        seen = lanes.step(np.zeros((1, 2), np.int64))
    assert seen.mask is not None
    place = int(np.flatnonzero(~seen.mask[0])[0])
    action = [place, 0] if place < 3 else [0, place - 3]
    with pytest.raises(ForbiddenAction, match="is forbidden"):
        lanes.step(np.array([action]))
    lanes.close()


def test_the_step_before_is_observed_by_dimension() -> None:
    lanes = environments.make(dials("vector", "none", "environment.previous_step=true"), 2)
    assert lanes.specs.leaves()["previous_action"].maximum == (3, 2)
    first = lanes.reset(0)
    assert first.observation["previous_action"].tolist() == [[0, 0]] * 2
    second = lanes.step(np.array([[2, 1], [0, 0]]))
    assert second.observation["previous_action"].tolist() == [[3, 2], [1, 1]]
    lanes.close()


def test_box_actions_are_cut_into_points_from_their_least_to_their_largest() -> None:
    class Asked(gymnasium.Env[Any, Any]):
        observation_space = spaces.Discrete(1)
        action_space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32))

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return action, 0.0, False, False, {}

    wrapped = action_spaces.Discretized(Asked(), 5)
    assert wrapped.action_space == spaces.MultiDiscrete([5, 5])
    assert [wrapped.step(np.array([n, n]))[0].tolist() for n in range(5)] == [
        [-1.0, 0.0], [-0.5, 1.0], [0.0, 2.0], [0.5, 3.0], [1.0, 4.0]
    ]  # fmt: skip


def test_discretize_makes_an_environment_of_it() -> None:
    specs = environments.describe(config('environment.id="Pendulum-v1"', "environment.discretize=7"))
    assert specs.action_sizes == (7,)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('environment.id="Pendulum-v1"',), "set environment.discretize to cut its numbers into so many points each"),
        (('environment.id="CartPole-v1"', "environment.discretize=3"), r"is for Box actions of floats.* leave it out"),
        (
            (
                'environment.id="CartPole-v1"',
                "environment.discretize=3",
                'environment.vectorization="vector_entry_point"',
            ),
            "discretize=0",
        ),
        (('environment.id="Pendulum-v1"', "environment.discretize=1"), "environment.discretize=1 .*at least 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_discretised_is_refused_in_one_line(lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        environments.describe(config(*lines))
    assert "\n" not in str(refused.value)
