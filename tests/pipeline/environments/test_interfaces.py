"""Environments with other interfaces than gymnasium's: each is stepped as it is, or refused in a line that names it."""

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import environments
from pipeline.environments import EnvironmentFault, LaneEnvironment, LaneStep
from pipeline.environments.interfaces import tuples
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

LENGTH = 3
"""Steps of an episode; its observations count from 0."""
MODULE = "environments_of_a_user"


@pytest.fixture(autouse=True)
def users_module() -> Iterator[types.ModuleType]:
    """A module that environments are put into, to be named by import path."""
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    yield module
    del sys.modules[MODULE]


def config_of(entry_point: Any, **fields: Any) -> EnvironmentConfig:
    sys.modules[MODULE].__dict__["Own"] = entry_point
    return EnvironmentConfig(id="", import_path=f"{MODULE}:Own", **fields)


def played(config: EnvironmentConfig, steps: int = 2 * LENGTH + 1, lanes: int = 2) -> list[LaneStep]:
    """A reset and steps; each array is a copy. The last allowed action is taken."""
    environments.check(config, lanes)
    environment = environments.make(config, lanes)
    try:
        step = environment.reset(7)
        seen = [copied(step)]
        for _ in range(steps):
            actions = np.ones(lanes, np.int64)
            if step.mask is not None:
                actions = step.mask.shape[1] - 1 - step.mask[:, ::-1].argmax(axis=1)
            step = environment.step(actions)
            seen.append(copied(step))
    finally:
        environment.close()
    return seen


def copied(step: LaneStep) -> LaneStep:
    observation = {leaf: values.copy() for leaf, values in step.observation.items()}
    mask = None if step.mask is None else step.mask.copy()
    return LaneStep(observation, mask, step.reward.copy(), step.terminated.copy(), step.truncated.copy())


def assert_counts(seen: list[LaneStep], truncates: bool = False) -> None:
    """The episode is LENGTH steps long, its reward 1 a step, and it begins anew."""
    for number, step in enumerate(seen):
        place = number % (LENGTH + 1)
        (values,) = step.observation.values()
        assert values.reshape(len(values), -1)[:, -1].tolist() == [place, place]
        assert step.reward.tolist() == [float(place > 0)] * 2
        ended = [place == LENGTH] * 2
        assert step.truncated.tolist() == (ended if truncates else [False, False])
        assert step.terminated.tolist() == ([False, False] if truncates else ended)


def refusal(config: EnvironmentConfig, lanes: int = 2) -> str:
    with pytest.raises(UsageError) as caught:
        environments.check(config, lanes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Tuples


def resets(form: str) -> Callable[..., Any]:
    """A method `reset` with one of the signatures that are met."""
    if form == "none":
        return lambda self: self.begin({})
    if form == "seed":
        return lambda self, seed=None: self.begin({"seed": seed})
    if form == "options":
        return lambda self, *, options=None: self.begin({"options": options})
    if form == "anything":
        return lambda self, **more: self.begin(more)
    if form == "handed_on":

        def take(self: Any, **more: Any) -> Any:
            return (lambda seed=None: self.begin({"seed": seed}))(**more)

        return take
    if form == "return_info":
        return lambda self, *, seed=None, return_info=False, options=None: self.begin({"seed": seed}, return_info)
    return lambda self, *, seed=None, options=None: self.begin({"seed": seed})


def tuple_class(base: str, reset: str, pairs: bool, values: int, truncates: bool, old_spaces: bool) -> Any:
    import gym

    bases = {"gymnasium": (gymnasium.Env,), "gym": (gym.Env,), "none": ()}[base]
    kinds = gym.spaces if old_spaces else spaces
    seeds: list[Any] = []

    class Counts(*bases):  # type: ignore[misc]
        observation_space = kinds.Dict({"place": kinds.Box(0, 9, (1,), np.float32)})
        action_space = kinds.Discrete(2)

        def begin(self, given: Any, wants_info: bool | None = None) -> Any:
            self.place = 0
            seeds.append(given.get("seed"))
            seen = {"place": np.zeros(1, np.float32)}
            return (seen, {}) if (pairs if wants_info is None else wants_info) else seen

        def step(self, action: Any) -> Any:
            self.place += 1
            seen, over = {"place": np.full(1, self.place, np.float32)}, self.place == LENGTH
            if values == 4:
                return seen, 1.0, over, {"TimeLimit.truncated": True} if over and truncates else {}
            return seen, 1.0, over and not truncates, over and truncates, {}

    Counts.reset = resets(reset)
    Counts.seeds = seeds
    return Counts


@settings(max_examples=40, deadline=None)
@given(
    base=st.sampled_from(["gymnasium", "gym", "none"]),
    reset=st.sampled_from(["none", "seed", "options", "anything", "handed_on", "return_info", "usual"]),
    pairs=st.booleans(),
    values=st.sampled_from([4, 5]),
    truncates=st.booleans(),
    old_spaces=st.booleans(),
    wrapped=st.booleans(),
)
def test_gyms_of_all_versions_and_what_lies_between(
    base: str, reset: str, pairs: bool, values: int, truncates: bool, old_spaces: bool, wrapped: bool
) -> None:
    kind = tuple_class(base, reset, pairs, values, truncates, old_spaces)
    entry: Any = kind
    if wrapped and base == "gymnasium" and not old_spaces:
        entry = lambda: gymnasium.wrappers.TransformReward(kind(), lambda reward: reward)  # noqa: E731
    assert_counts(played(config_of(entry)), truncates)
    if reset in ("seed", "anything", "handed_on", "return_info", "usual"):
        assert {7, 8} <= set(kind.seeds)


def test_an_environment_in_order_is_called_without_a_detour() -> None:
    kind = tuple_class("gymnasium", "usual", True, 5, False, False)
    environment = environments.make(config_of(kind), 1)
    environment.reset(0)
    environment.step(np.zeros(1, np.int64))
    checked = environment.vector.envs[0]
    while not isinstance(checked, tuples.Converted):
        checked = checked.env
    assert checked.step == checked.env.step
    assert checked.reset == checked.env.reset
    assert isinstance(environment.vector.envs[0].unwrapped, kind)
    environment.close()


def test_old_seeds_and_infos_are_used(caplog: pytest.LogCaptureFixture) -> None:
    kind = tuple_class("gym", "none", False, 4, False, True)
    kind.seed = lambda self, seed=None: kind.seeds.append(seed)
    tuples._said.clear()
    played(config_of(kind))
    assert {7, 8} <= set(kind.seeds)
    assert [record.message.split(":")[0] for record in caplog.records if "before 0.26" in record.message] == [
        "environment 'Own' has gym's interface of before 0.26"
    ] * 2, "once for resets, once for steps, however many lanes"


class Plain(gymnasium.Env[Any, Any]):
    """In order; others change what they test."""

    observation_space: Any = spaces.Box(0, 9, (1,), np.float32)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.place += 1
        return np.full(1, self.place, np.float32), 1.0, self.place == LENGTH, False, {}


def changed(**members: Any) -> Any:
    return type("Changed", (Plain,), members)


SEEN = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"step": lambda self, action: None}, r"step\(\) returns nothing"),
        ({"step": lambda self, action: SEEN}, r"step\(\) returns ndarray"),
        ({"step": lambda self, action: (SEEN, 1.0, False)}, r"step\(\) returns 3 values"),
        ({"step": lambda self, action: ({"a": SEEN}, {"a": 1.0}, {"a": False}, {}, {})}, "several agents"),
        ({"step": lambda self, action: (SEEN, 1.0, False, False, [1])}, "list for info"),
        ({"reset": lambda self, *, seed=None, options=None: None}, r"reset\(\) returned nothing"),
        ({"reset": lambda self, key, seed=None: (SEEN, {})}, "wants 'key'"),
        ({"observation_space": None}, "no observation_space"),
        ({"action_space": None}, "no action_space"),
        ({"action_space": 4}, "action_space is 4"),
    ],
)
def test_what_has_no_form_is_refused_by_the_check(members: dict[str, Any], words: str) -> None:
    import re

    message = refusal(config_of(changed(**members)))
    assert re.search(words, message), message
    assert "'Own'" in message


def test_spaces_that_exist_after_a_reset_alone_are_taken() -> None:
    class Late(Plain):
        observation_space = action_space = None

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.observation_space, self.action_space = Plain.observation_space, Plain.action_space
            return super().reset(seed=seed)

    assert_counts(played(config_of(Late)))


@pytest.mark.parametrize("method", ["action_masks", "action_mask"])
@pytest.mark.parametrize("base", ["gymnasium", "none"])
def test_masks_of_a_method_are_obeyed(method: str, base: str) -> None:
    class Picky(Plain):
        def step(self, action: Any) -> Any:
            assert action == self.place % 2
            return super().step(action)

    masks = {method: lambda self: [self.place % 2 == 0, self.place % 2 == 1]}
    kind = type("Masking", (Picky,), masks)
    if base == "gymnasium":
        assert played(config_of(kind))[0].mask is not None
    elif method == "action_masks":
        own = {name: getattr(kind, name) for name in ("step", "action_masks", "observation_space", "action_space")}
        plain = type("NoBase", (), own)

        def reset(self: Any, seed: Any = None, options: Any = None) -> Any:
            self.place = 0
            return SEEN, {}

        def step(self: Any, action: Any) -> Any:
            assert action == self.place % 2
            self.place += 1
            return np.full(1, self.place, np.float32), 1.0, self.place == LENGTH, False, {}

        plain.reset, plain.step = reset, step  # type: ignore[attr-defined]
        assert played(config_of(plain))[0].mask is not None


# What is no single environment


def test_vector_environments_and_other_objects_are_named() -> None:
    vector = refusal(config_of(lambda: gymnasium.make_vec("CartPole-v1", num_envs=2)))
    assert "vector environment" in vector
    stable = type("VecEnv", (), {"num_envs": 2, "step_async": None, "reset": None, "step": None})
    assert "vector environment" in refusal(config_of(stable))
    assert "has no step()" in refusal(config_of(type("Half", (), {"reset": None})))
    assert "builtins.int has no reset() nor step()" in refusal(config_of(lambda: 3))
    assert "object of class Plain" in refusal(config_of(Plain()))


# PettingZoo


def by_turns(agents: tuple[str, ...], masked: bool) -> Any:
    class Game:
        metadata: dict[str, Any] = {}
        possible_agents = list(agents)

        def observation_space(self, agent: str) -> Any:
            seen = spaces.Box(0, 9, (1,), np.float32)
            return spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(2)}) if masked else seen

        def action_space(self, agent: str) -> Any:
            return spaces.Discrete(2)

        def reset(self, seed: int | None = None, options: Any = None) -> None:
            self.agents, self.agent_selection, self.place = list(agents), agents[0], 0

        def step(self, action: Any) -> None:
            assert action == 1 or not masked
            self.place += 1

        def last(self) -> Any:
            seen: Any = np.full(1, self.place, np.float32)
            if masked:
                seen = {"observation": seen, "action_mask": np.array([0, 1], np.int8)}
            return seen, float(self.place > 0), self.place == LENGTH, False, {}

        def agent_iter(self) -> None: ...

        def close(self) -> None: ...

    return Game


class Parallel:
    metadata: dict[str, Any] = {}
    possible_agents = ["walker"]

    def observation_space(self, agent: str) -> Any:
        return Plain.observation_space

    def action_space(self, agent: str) -> Any:
        return Plain.action_space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.place = 0
        return {"walker": SEEN}, {"walker": {}}

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == {"walker"}
        self.place += 1
        parts = np.full(1, self.place, np.float32), 1.0, self.place == LENGTH, False, {}
        return tuple({"walker": part} for part in parts)

    def close(self) -> None: ...


@pytest.mark.parametrize("masked", [False, True])
def test_a_game_of_one_agent_is_taken(masked: bool) -> None:
    seen = played(config_of(by_turns(("player",), masked)))
    assert_counts(seen)
    assert (seen[0].mask is not None) == masked
    if masked:
        assert seen[0].mask is not None
        assert seen[0].mask.tolist() == [[False, True]] * 2
    else:
        assert_counts(played(config_of(Parallel)))


def test_a_game_of_two_is_refused_with_what_to_do() -> None:
    message = refusal(config_of(by_turns(("white", "black"), False)))
    assert "2 agents (white, black)" in message
    assert "gymnasium.Env of one agent" in message


# Time steps


def test_tf_agents_environments_train_by_their_specs() -> None:
    from tf_agents.environments import batched_py_environment, py_environment, tf_py_environment
    from tf_agents.specs import array_spec
    from tf_agents.trajectories import time_step as ts

    class Walk(py_environment.PyEnvironment):  # type: ignore[misc]
        def __init__(self, seen: Any, mask: str = "", shape: tuple[int, ...] = ()) -> None:
            super().__init__()
            self.seen, self.mask, self.shape, self.seeds = seen, mask, shape, []

        def action_spec(self) -> Any:
            return array_spec.BoundedArraySpec(self.shape, np.int32, 3, 4)

        def observation_spec(self) -> Any:
            mask = array_spec.BoundedArraySpec((2,), np.int32, 0, 1)
            return self.with_mask(self.seen, mask)

        def with_mask(self, seen: Any, mask: Any) -> Any:
            if self.mask == "pair":
                return seen, mask
            return {"network_input": seen, self.mask: mask} if self.mask else seen

        def now(self) -> Any:
            return self.with_mask(np.full(self.seen.shape, self.place, self.seen.dtype), np.array([0, 1], np.int32))

        def _reset(self) -> Any:
            self.place = 0
            return ts.restart(self.now())

        def _step(self, action: Any) -> Any:
            assert action.dtype == np.int32
            assert action.shape == self.shape
            assert int(action.item()) == 4 or (not self.mask and int(action.item()) == 3)
            self.place += 1
            return ts.termination(self.now(), 1.0) if self.place == LENGTH else ts.transition(self.now(), 1.0)

    quantity = array_spec.BoundedArraySpec((1,), np.float32, 0.0, 9.0)
    for mask in ("", "pair", "mask", "constraint", "action_mask"):
        seen = played(config_of(lambda mask=mask: Walk(quantity, mask)))
        assert_counts(seen)
        assert (seen[0].mask is not None) == bool(mask)
    category = array_spec.BoundedArraySpec((1,), np.int32, 0, 9)
    specs = environments.describe(config_of(lambda: Walk(category, shape=(1,))))
    assert specs.leaves()[""].maximum == (9,)
    assert_counts(played(config_of(lambda: Walk(quantity, shape=(1,)))))
    inside = lambda count: batched_py_environment.BatchedPyEnvironment([Walk(quantity) for _ in range(count)])  # noqa: E731
    assert_counts(played(config_of(lambda: inside(1))))
    assert "2 in one" in refusal(config_of(lambda: inside(2)))
    assert_counts(played(config_of(lambda: tf_py_environment.TFPyEnvironment(Walk(quantity)))))


# Ids


def test_an_id_may_name_the_module_that_registers_it(users_module: types.ModuleType) -> None:
    gymnasium.register("RegisteredByAUser-v0", entry_point=tuple_class("gymnasium", "none", False, 4, False, False))
    try:
        assert_counts(played(EnvironmentConfig(id=f"{MODULE}:RegisteredByAUser-v0")))
        message = refusal(EnvironmentConfig(id="", import_path=f"{MODULE}:RegisteredByAUser-v0"))
        assert "environment.id=" in message
        users_module.__dict__["Outer"] = types.SimpleNamespace(Inner=Plain)
        assert_counts(played(EnvironmentConfig(id="", import_path=f"{MODULE}:Outer.Inner")))
        assert "no_such_module" in refusal(EnvironmentConfig(id="no_such_module:Id-v0"))
        assert "Id-v0" in refusal(EnvironmentConfig(id=f"{MODULE}:Id-v0"))
        assert "behind the colon" in refusal(EnvironmentConfig(id=f"{MODULE}:"))
    finally:
        del gymnasium.registry["RegisteredByAUser-v0"]


def test_what_is_registered_with_gym_is_made_by_gym() -> None:
    import gym

    kind: Any = tuple_class("gym", "none", False, 4, False, True)
    endless = type("Endless", (kind,), {"step": lambda self, action: (*kind.step(self, action)[:2], False, {})})
    gym.register("OfGymAlone-v3", entry_point=endless, max_episode_steps=LENGTH)
    try:
        assert_counts(played(EnvironmentConfig(id="OfGymAlone-v3")), truncates=True)
    finally:
        del gym.envs.registry.env_specs["OfGymAlone-v3"]


# The check


def test_the_check_steps_every_lane() -> None:
    made: list[Any] = []

    class FourthFails(Plain):
        def __init__(self) -> None:
            self.number = len(made)
            made.append(self)

        def step(self, action: Any) -> Any:
            if self.number % 5 == 4:
                raise RuntimeError("the fifth of each five")
            return super().step(action)

    with pytest.raises(EnvironmentFault, match="the fifth of each five"):
        environments.check(config_of(FourthFails), 64)


def test_the_check_makes_few_lanes_of_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_CHECK_SECONDS", 0.0)
    made: list[Any] = []

    class Counted(Plain):
        def __init__(self) -> None:
            made.append(self)

    environments.check(config_of(Counted), 64)
    assert len(made) == 3, "one alone, then two together"


def test_a_fault_now_and_then_is_none_of_the_check() -> None:
    class Once(Plain):
        failed = False

        def step(self, action: Any) -> Any:
            if not Once.failed:
                Once.failed = True
                raise RuntimeError("once")
            return super().step(action)

    assert environments.check(config_of(Once), 2).num_actions == 2


def test_lanes_that_reset_within_a_step_are_refused_before_the_start() -> None:
    config = EnvironmentConfig(id="SameStepForTests-v0", import_path="environments_for_tests")
    assert "NEXT_STEP" in refusal(config)


def test_a_lane_environment_is_what_is_made() -> None:
    environment = environments.make(config_of(Plain), 2)
    assert isinstance(environment, LaneEnvironment)
    environment.close()


@pytest.mark.parametrize("key", ["", "action_mask"])
def test_a_mask_that_the_config_names_is_left_to_it(key: str) -> None:
    seen = played(config_of(by_turns(("player",), True), mask_key=key))
    assert seen[0].mask is not None
    assert seen[0].mask.tolist() == [[False, True]] * 2
