"""Lanes that observe their previous step: the parts, their zeros, faults, and what else sees them."""

from typing import Any

import msgspec
import numpy as np
import pytest

from agents import ArraySpec
from pipeline import environments
from pipeline.environments.lanes.wrappers import without_previous_step
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig


def of_class(name: str, module: str = "environments_for_tests", **fields: Any) -> EnvironmentConfig:
    return EnvironmentConfig(id="", import_path=f"{module}:{name}", previous_step=True, **fields)


def observing(kind: str) -> EnvironmentConfig:
    return of_class("Observing", kwargs={"kind": kind})


def test_action_and_reward_of_the_step_before_are_observed() -> None:
    environment = environments.make(of_class("Counting"), 3)
    random = np.random.default_rng(0)
    seen, begins = environment.reset(5), np.ones(3, np.bool_)
    actions, reward = np.zeros(3, np.int64), np.zeros(3)
    episodes = 0
    for _ in range(60):
        observation = seen.observation
        for lane in range(3):  # the environment itself observes its last action, -1 at first
            own = observation["observation"][lane]
            assert observation["previous_action"][lane] == (0 if begins[lane] else actions[lane] + 1) == own[3] + 1
            assert observation["previous_reward"][lane] == (0.0 if begins[lane] else reward[lane])
        actions = random.integers(0, 3, 3)
        begins = environment.resetting
        seen = environment.step(actions)
        reward = seen.reward.copy()
        episodes += int(begins.sum())
    environment.close()
    assert episodes > 6


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("float", {"observation"}),
        ("image", {"observation"}),
        ("tuple", {"observation/0", "observation/1"}),
        ("dict", {"speed", "gear"}),
        ("nested", {"camera", "car/0", "car/1/x"}),
    ],
)
def test_parts_of_any_observation(kind: str, names: set[str]) -> None:
    specs = environments.describe(observing(kind))
    bare = environments.describe(msgspec.structs.replace(observing(kind), previous_step=False))
    leaves = specs.leaves()
    assert leaves["previous_action"] == ArraySpec((), "int32", (specs.num_actions,))
    assert leaves["previous_reward"] == ArraySpec((), "float32")
    own = {name: leaf for name, leaf in leaves.items() if not name.startswith("previous_")}
    assert set(own) == names
    assert list(own.values()) == list(bare.leaves().values())


def test_an_environment_that_has_a_part_of_that_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"environment\.previous_step=false") as caught:
        environments.make(of_class("ObservingPreviousReward"), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vectorization", ["sync", "async"])  # of which one renews a lane, the other all
def test_a_lane_that_a_fault_cuts_begins_with_zeros(vectorization: Any) -> None:
    config = of_class("Faulty", kwargs={"fault": "raises"}, vectorization=vectorization)
    environment = environments.make(config, 3, 1.0)
    environment.reset(0)
    cut_lanes: set[int] = set()
    for _ in range(6):
        step = environment.step(np.full(3, 2, np.int64))
        own = step.observation["observation"][:, 3]  # -1 in an episode's first
        np.testing.assert_array_equal(step.observation["previous_action"], own + 1)
        assert (step.observation["previous_reward"][own < 0] == 0.0).all()
        if step.cut is not None:
            assert (own[step.cut] < 0).all()
            cut_lanes |= set(np.flatnonzero(step.cut).tolist())
    environment.close()
    assert 1 in cut_lanes


def guarded(observation: Any) -> Any:
    """A shield by what was done last: no action twice in a row."""
    return np.arange(3) + 1 != observation["previous_action"][:, np.newaxis]


def test_a_shield_sees_the_previous_step() -> None:
    config = of_class("Counting", shield=f"{__name__}:guarded")
    environment = environments.make(config, 2)
    step = environment.reset(0)
    assert step.mask is not None
    assert step.mask.all()
    step = environment.step(np.array([0, 2]))
    assert step.mask is not None
    np.testing.assert_array_equal(step.mask, [[False, True, True], [True, True, False]])
    environment.close()


def test_novelty_is_of_what_the_environment_itself_observes() -> None:
    specs = environments.describe(observing("dict"))
    assert without_previous_step(specs) == environments.describe(
        msgspec.structs.replace(observing("dict"), previous_step=False)
    )
