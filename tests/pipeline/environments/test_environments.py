"""Environments in lockstep: boundaries, seeds, masks, faults, spaces and statistics."""

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from environments_for_tests import (
    SPACES,
    Counting,
    Faulty,
    Observing,
    episode_length,
    is_truncation,
    reward_of,
)
from environments_that_fail import UnreliableParts
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import ArraySpec
from pipeline import environments
from pipeline.environments import EnvironmentFault, LaneEnvironment, LaneStep
from pipeline.environments.lanes.faults import Faults
from pipeline.environments.lanes.vectors import SerialVectorEnv
from pipeline.environments.lanes.wrappers import misfit
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

ROOT = Path(environments.__file__).parent.parent.parent
Make = Callable[..., LaneEnvironment]


def of_class(name: str, **kwargs: Any) -> EnvironmentConfig:
    return EnvironmentConfig(id="", import_path=f"environments_for_tests:{name}", kwargs=kwargs)


def registered(environment_id: str, **fields: Any) -> EnvironmentConfig:
    return EnvironmentConfig(id=environment_id, import_path="environments_for_tests", **fields)


@pytest.fixture
def make() -> Iterator[Make]:
    """`environments.make`, closed at the end."""
    made: list[LaneEnvironment] = []

    def make_one(config: EnvironmentConfig, lanes: int = 3, faulty_episodes: float = 0.0) -> LaneEnvironment:
        made.append(environments.make(config, lanes, faulty_episodes))
        return made[-1]

    yield make_one
    for environment in made:
        environment.close()


def refusal(config: EnvironmentConfig, lanes: int = 1) -> str:
    with pytest.raises(UsageError) as caught:
        environments.make(config, lanes).close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbers(lanes: int, value: int = 0) -> Any:
    return np.full(lanes, value, np.int64)


def copy_of(step: LaneStep) -> LaneStep:
    """A step whose arrays outlive the next one."""
    return LaneStep(
        {name: array.copy() for name, array in step.observation.items()},
        None if step.mask is None else step.mask.copy(),
        *(array.copy() for array in step[2:5]),
        None if step.cut is None else step.cut.copy(),
    )


def trajectory(environment: LaneEnvironment, seed: int, steps: int, action_seed: int = 0) -> list[LaneStep]:
    """What a number of random actions lead to."""
    random = np.random.default_rng(action_seed)
    seen = [copy_of(environment.reset(seed))]
    for _ in range(steps):
        actions = random.integers(0, environment.specs.num_actions, environment.lanes)
        seen.append(copy_of(environment.step(actions)))
        environment.episode_ends()
    return seen


def equal(one: list[LaneStep], other: list[LaneStep], lanes: Any = slice(None)) -> bool:
    return all(
        np.array_equal(a.observation[name][lanes], b.observation[name][lanes])
        for a, b in zip(one, other, strict=True)
        for name in a.observation
    ) and all(
        np.array_equal(getattr(a, field)[lanes], getattr(b, field)[lanes])
        for a, b in zip(one, other, strict=True)
        for field in ("reward", "terminated", "truncated")
    )


# Boundaries


def test_truncation_is_kept_apart_from_termination(make: Make) -> None:
    environment = make(of_class("Counting"))
    environment.reset(0)
    endings = {True: 0, False: 0}
    for _ in range(40):
        was_resetting = environment.resetting
        step = environment.step(numbers(3))
        for lane in np.flatnonzero(step.terminated | step.truncated):
            assert not was_resetting[lane]
            episode = int(step.observation[""][lane, 1])
            assert bool(step.truncated[lane]) == is_truncation(episode)
            assert bool(step.terminated[lane]) != is_truncation(episode)
            endings[is_truncation(episode)] += 1
    assert min(endings.values()) > 5


def test_the_step_after_an_end_resets_its_lane_and_ignores_its_action(make: Make) -> None:
    environment = make(of_class("Counting"))
    before = environment.reset(0).observation[""].copy()
    resets = 0
    for _ in range(40):
        was_resetting = environment.resetting.copy()
        step = environment.step(numbers(3, 2))
        now = step.observation[""]
        for lane in range(3):
            if was_resetting[lane]:
                resets += 1
                assert now[lane].tolist() == [lane, before[lane, 1] + 1, 0, -1]
                assert step.reward[lane] == 0
                assert not step.terminated[lane]
                assert not step.truncated[lane]
            else:
                assert now[lane].tolist() == [lane, before[lane, 1], before[lane, 2] + 1, 2]
                assert step.reward[lane] == reward_of(lane, before[lane, 1], before[lane, 2], 2)
                ends = now[lane, 2] == episode_length(lane, int(now[lane, 1]))
                assert environment.resetting[lane] == ends
        before = now.copy()
    assert resets > 20


def test_an_environment_that_resets_within_the_last_step_is_refused(make: Make) -> None:
    with pytest.raises(UsageError, match="NEXT_STEP"):
        make(registered("SameStepForTests-v0", vectorization="vector_entry_point"))


def test_a_time_limit_truncates(make: Make) -> None:
    environment = make(EnvironmentConfig(id="MountainCar-v0"), 2)
    environment.reset(0)
    for _ in range(199):
        step = environment.step(numbers(2, 1))
        assert not (step.terminated | step.truncated).any()
    step = environment.step(numbers(2, 1))
    assert step.truncated.all()
    assert not step.terminated.any()


@pytest.mark.parametrize("vectorization", ["sync", "async", "vector_entry_point"])
def test_a_reset_begins_all_lanes_anew(make: Make, vectorization: str) -> None:
    environment = make(registered("CountingForTests-v0", vectorization=vectorization))
    first = trajectory(environment, 0, 4)
    assert equal(first, trajectory(environment, 0, 4))
    environment.reset(0)
    assert not environment.resetting.any()
    ended = {}
    for _ in range(3):
        environment.step(numbers(3))
        lanes, _, lengths = environment.episode_ends()
        ended |= dict(zip(lanes, lengths, strict=True))
    assert ended[0] == episode_length(0, 0)


# Seeds


@pytest.mark.parametrize(
    "config",
    [
        registered("NoisyForTests-v0", vectorization="sync"),
        registered("NoisyForTests-v0", vectorization="async"),
        EnvironmentConfig(id="CartPole-v1", vectorization="vector_entry_point"),
        EnvironmentConfig(id="CartPole-v1", vectorization="sync"),
    ],
    ids=["sync", "async", "CartPole vector", "CartPole sync"],
)
def test_a_seed_fixes_every_lane_and_lanes_differ(make: Make, config: EnvironmentConfig) -> None:
    one = trajectory(make(config), 7, 60)
    assert equal(one, trajectory(make(config), 7, 60))
    other = trajectory(make(config), 8, 60)
    assert not any(equal(one, other, [lane]) for lane in range(3))
    starts = one[0].observation[""]
    assert len({row.tobytes() for row in starts}) == 3


def test_sync_and_async_lanes_play_the_same(make: Make) -> None:
    one, other = (make(registered("NoisyForTests-v0", vectorization=mode)) for mode in ("sync", "async"))
    assert equal(trajectory(one, 3, 60), trajectory(other, 3, 60))


# Masks


def legal_actions(step: LaneStep) -> Any:
    assert step.mask is not None
    return step.mask.argmax(axis=1)


@pytest.mark.parametrize("form", ["array", "list"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_masks_come_from_the_info(make: Make, form: str, vectorization: str) -> None:
    config = EnvironmentConfig(
        id="", import_path="environments_for_tests:Masked", kwargs={"form": form}, vectorization=vectorization
    )
    environment = make(config)
    step = environment.reset(0)
    for _ in range(30):
        assert step.mask is not None
        assert step.mask.dtype == np.bool_
        running = ~environment.resetting
        expected = np.eye(3, dtype=bool)[step.observation[""][:, 2].astype(int) % 3]
        assert np.array_equal(step.mask[running], expected[running])
        step = environment.step(legal_actions(step))  # a forbidden action would raise
    assert environments.describe(config).masked


def test_no_mask_in_the_info_means_none(make: Make) -> None:
    environment = make(of_class("Counting"))
    assert environment.reset(0).mask is None
    assert environment.step(numbers(3)).mask is None
    assert not environments.describe(of_class("Counting")).masked


def test_a_lane_that_ends_needs_no_mask(make: Make) -> None:
    environment = make(of_class("Masked", at_end=False))
    step = environment.reset(0)
    ends = 0
    for _ in range(30):
        step = environment.step(legal_actions(step))
        assert step.mask is not None
        assert step.mask[environment.resetting].all()
        ends += int(environment.resetting.sum())
    assert ends > 5


def test_a_lane_that_ends_needs_no_mask_in_a_list(make: Make) -> None:
    environment = make(of_class("Masked", form="list", at_end=False))
    step = environment.reset(0)
    for _ in range(10):
        step = environment.step(legal_actions(step))
    assert step.mask is not None


def test_the_mask_of_a_truncated_observation_is_kept_for_the_bootstrap(make: Make) -> None:
    environment = make(of_class("Masked"))
    step = environment.reset(0)
    truncations = 0
    for _ in range(30):
        step = environment.step(legal_actions(step))
        assert step.mask is not None
        truncations += int(step.truncated.sum())
        for lane in np.flatnonzero(step.truncated):
            assert step.mask[lane].tolist() == [True, False, False]
    assert truncations > 5


@pytest.mark.parametrize("form", ["array", "list"])
@pytest.mark.parametrize("fault", ["missing", "forbids_all"])
def test_a_lane_without_an_allowed_action_is_a_fault(make: Make, form: str, fault: str) -> None:
    environment = make(of_class("Masked", form=form, fault=fault, at=2))
    message = fault_of(environment, masked=True)
    assert "lane 1" in message
    assert "action_mask" in message


@pytest.mark.parametrize("form", ["array", "list"])
def test_a_mask_of_another_length_than_the_actions_is_a_fault(make: Make, form: str) -> None:
    environment = make(of_class("Masked", form=form, fault="too_long", at=0), lanes=1)
    assert "action_mask" in fault_of(environment, masked=True, seed=1)


def test_a_mask_missing_from_all_lanes_is_a_fault(make: Make) -> None:
    environment = make(of_class("Masked", fault="missing", at=2), lanes=2)
    message = fault_of(environment, masked=True, seed=1)  # lanes of seeds 1 and 2: the first has the fault
    assert "lane 0" in message
    assert "action_mask" in message


def test_gymnasiums_own_masks_are_taken(make: Make) -> None:
    environment = make(EnvironmentConfig(id="Taxi-v4"))
    step = environment.reset(0)
    for _ in range(20):
        assert step.mask is not None
        assert step.mask.shape == (3, 6)
        assert step.mask.any(axis=1).all()
        step = environment.step(legal_actions(step))


# Faults


def fault_of(environment: LaneEnvironment, masked: bool = False, seed: int = 0) -> str:
    """The fault that 30 steps meet."""

    def play() -> None:
        step = environment.reset(seed)
        for _ in range(30):
            step = environment.step(legal_actions(step) if masked else numbers(environment.lanes))

    with pytest.raises(EnvironmentFault) as caught:
        play()
    return str(caught.value)


def steps_until_fault() -> int:
    """Vector steps until lane 1 of `Faulty` has taken two steps in an episode."""
    step = 0
    for episode in range(10):
        if episode_length(1, episode) >= 2:
            return step + 2
        step += episode_length(1, episode) + 1
    raise AssertionError


@pytest.mark.parametrize("fault", ["nan_observation", "inf_observation", "nan_reward", "huge_reward"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_what_is_not_finite_is_a_fault_of_a_lane_and_step(make: Make, fault: str, vectorization: str) -> None:
    config = EnvironmentConfig(
        id="", import_path="environments_for_tests:Faulty", kwargs={"fault": fault}, vectorization=vectorization
    )
    message = fault_of(make(config))
    assert "'Faulty'" in message
    assert f"lane 1, step {steps_until_fault()}:" in message
    assert fault.partition("_")[2] in message


def test_an_exception_of_an_environment_is_a_fault_of_a_step(make: Make) -> None:
    message = fault_of(make(of_class("Faulty", fault="raises")))
    assert "'Faulty'" in message
    assert f"step {steps_until_fault()}:" in message
    assert "the simulator crashed" in message


def test_a_first_observation_that_is_not_finite_is_a_fault(make: Make) -> None:
    class Broken(Counting):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.full(4, np.nan, np.float32), {}

    environment = LaneEnvironment(SyncVectorEnv([Broken]), "Broken-v0")
    with pytest.raises(EnvironmentFault, match=r"Broken-v0.*lane 0, step 0: observation"):
        environment.reset(0)


def play_with_faults(make: Make, config: EnvironmentConfig, steps: int) -> tuple[LaneEnvironment, list[LaneStep]]:
    """A run of three lanes in which every episode may be dropped."""
    environment = make(config, 3, 1.0)
    return environment, [copy_of(environment.reset(0)), *(copy_of(environment.step(numbers(3))) for _ in range(steps))]


@pytest.mark.parametrize("fault", ["nan_observation", "inf_observation", "nan_reward", "huge_reward", "raises"])
def test_a_fault_costs_one_lane_its_episode_and_the_others_nothing(make: Make, fault: str) -> None:
    at = steps_until_fault()
    environment, seen = play_with_faults(make, of_class("Faulty", fault=fault), 30)
    _, sound = play_with_faults(make, of_class("Counting"), 30)
    for step, (mine, reference) in enumerate(zip(seen, sound, strict=True)):
        lanes = [0, 2] if step >= at else [0, 1, 2]
        for one, other in zip(mine[1:5], reference[1:5], strict=True):
            assert one is other is None or np.array_equal(one[lanes], other[lanes])
        assert np.array_equal(mine.observation[""][lanes], reference.observation[""][lanes])
        assert (mine.cut is not None) == (step == at)
    cut = seen[at].cut
    assert cut is not None
    assert cut.tolist() == [False, True, False]
    assert (seen[at].reward[1], seen[at].terminated[1], seen[at].truncated[1]) == (0.0, False, False)
    _, episode, step, action = seen[at].observation[""][1]
    assert (episode, step, action) == (0, 0, -1), "a new episode of a new environment"
    assert seen[at + 1].observation[""][1, 2] == 1
    assert environment.faults.dropped_episodes == 1
    assert f"'Faulty', lane 1, step {at}: " in environment.faults.newest


def test_a_dropped_episode_has_no_statistics(make: Make) -> None:
    environment = make(of_class("Faulty", fault="nan_reward"), 3, 1.0)
    environment.reset(0)
    lengths = []
    for _ in range(steps_until_fault() + 12):
        step = environment.step(numbers(3))
        lane = int(step.observation[""][1, 0])
        for ended, _, length in zip(*environment.episode_ends(), strict=True):
            if ended == 1:
                episode = int(step.observation[""][1, 1])
                assert length == episode_length(lane, episode)
                lengths.append(length)
    assert len(lengths) >= 2


@pytest.mark.parametrize("how", ["async", "gymnasium's sync"])
def test_where_no_lane_can_be_renewed_alone_all_begin_anew(make: Make, how: str) -> None:
    at = steps_until_fault()
    if how == "async":
        environment = make(msgspec.structs.replace(of_class("Faulty", fault="raises"), vectorization="async"), 3, 1.0)
    else:

        def vector() -> Any:
            return SyncVectorEnv([lambda: Faulty("raises")] * 3)

        environment = LaneEnvironment(vector(), "Faulty", make=vector, faulty_episodes=1.0)
    environment.reset(0)
    for _ in range(at - 1):
        environment.step(numbers(3))
    running = ~environment.resetting
    step = environment.step(numbers(3))
    assert step.cut is not None
    assert step.cut.tolist() == running.tolist()
    assert environment.faults.dropped_episodes == np.count_nonzero(running)
    assert not environment.any_resetting
    assert (step.observation[""][:, 1:] == [0, 0, -1]).all()
    assert len(set(step.observation[""][:, 0])) == 3, "seeds of their own"
    following = environment.step(numbers(3))
    assert following.cut is None
    assert (following.observation[""][:, 2] == 1).all()
    environment.close()


def test_the_same_faults_are_followed_by_the_same_episodes(make: Make) -> None:
    one, other = (play_with_faults(make, of_class("Faulty", fault="raises"), 20)[1] for _ in range(2))
    for mine, reference in zip(one, other, strict=True):
        assert np.array_equal(mine.observation[""], reference.observation[""])


def test_an_environment_that_cannot_be_reset_is_given_up(make: Make) -> None:
    class Broken(Counting):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise RuntimeError("no licence")

    def vector() -> Any:
        return SerialVectorEnv([Broken] * 2)

    environment = LaneEnvironment(vector(), "Broken-v0", make=vector, faulty_episodes=1.0)
    with pytest.raises(EnvironmentFault, match=r"'Broken-v0'.*step 0: .*no licence.*5 resets in a row failed"):
        environment.reset(0)


def test_a_first_reset_that_fails_once_is_made_again() -> None:
    class Late(Counting):
        resets = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            Late.resets += 1
            if Late.resets == 2:
                raise RuntimeError("not yet")
            return super().reset(seed=seed, options=options)

    def vector() -> Any:
        return SerialVectorEnv([Late] * 2)

    environment = LaneEnvironment(vector(), "Late-v0", make=vector, faulty_episodes=0.001)
    assert environment.reset(0).observation[""].shape == (2, 4)
    assert "not yet" in environment.faults.newest


@pytest.mark.parametrize("kind", ["missing", "shape", "dtype", "raises", "nan"])
def test_faults_of_observations_with_parts_cost_one_lane(kind: str) -> None:
    chances = iter([0.0, 1.0, 0.0])

    def unreliable() -> Any:
        return UnreliableParts((kind,), next(chances, 0.0))

    environment = LaneEnvironment(SerialVectorEnv([unreliable] * 3), "Parts-v0", faulty_episodes=1.0)
    before = environment.reset(0).observation["all"].copy()
    step = environment.step(numbers(3))
    assert step.cut is not None
    assert step.cut.tolist() == [False, True, False]
    assert (step.observation["all"][:, 1] == [1, 0, 1]).all()
    assert (step.observation["all"][:, 0] > before[:, 0]).all()
    assert environment.step(numbers(3)).observation["all"][1, 1] == 1


@pytest.mark.parametrize(
    ("space", "observation", "wrong"),
    [
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2), ""),
        (spaces.Box(0, 1, (2,), np.float32), [0, 1], ""),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2, np.complex64), "complex64"),
        (spaces.Box(0, 1, (2,), np.float32), np.array(["0", "1"]), "<U1"),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros((2, 1), np.float32), r"(2, 1)"),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.int64), ""),
        (spaces.Box(0, 255, (2,), np.uint8), np.zeros(2, np.float32), "float32"),
        (spaces.Box(0, 1, (2,), np.bool_), np.zeros(2, np.uint8), "uint8"),
        (spaces.Discrete(3), 2, ""),
        (spaces.Discrete(3), 2.0, "float64"),
        (spaces.Discrete(3), None, "object"),
        (spaces.Dict({"a": spaces.Discrete(3)}), {"a": 1}, ""),
        (spaces.Dict({"a": spaces.Discrete(3)}), {"a": 1.5}, "a: "),
        (spaces.Dict({"a": spaces.Discrete(3)}), {}, "lacks 'a'"),
        (spaces.Tuple([spaces.Discrete(3)] * 2), (1,), "lacks 1"),
    ],
    ids=str,
)
def test_what_is_of_a_space(space: Any, observation: Any, wrong: str) -> None:
    found = misfit(space, observation)
    assert wrong in found if wrong and found else found is None and not wrong


def test_batches_of_another_dtype_or_shape_are_faults() -> None:
    class Wide(SyncVectorEnv):
        wrong: Any = None

        def step(self, actions: Any) -> Any:
            _, *rest = super().step(actions)
            return (self.wrong, *rest)

    for wrong, words in ((np.zeros((2, 5), np.float32), r"\(5,\)"), (np.full((2, 4), "x"), "<U1")):
        vector = Wide([Counting] * 2)
        vector.wrong = wrong
        environment = LaneEnvironment(vector, "Wide-v0")
        environment.reset(0)
        with pytest.raises(EnvironmentFault, match=rf"'Wide-v0', step 1: .*{words}"):
            environment.step(numbers(2))


def test_the_share_of_faulty_episodes_is_of_the_newest_thousand() -> None:
    faults = Faults("Some-v0", 0.0029)  # two of a thousand
    faults.add(0, 1, "first")
    faults.end(999)
    faults.add(0, 2, "second")  # episode 1,001: the first has left
    faults.end(10)
    faults.add(None, 3, "third")
    with pytest.raises(EnvironmentFault, match=r"'Some-v0', lane 1, step 4: fourth \(faulty episodes: 3 of the last"):
        faults.add(1, 4, "fourth")


def test_a_share_of_zero_allows_none_and_any_other_one() -> None:
    with pytest.raises(EnvironmentFault, match="allows 0 of 1,000"):
        Faults("Some-v0", 0.0).add(0, 1, "first")
    faults = Faults("Some-v0", 1e-9)
    faults.add(0, 1, "first")
    with pytest.raises(EnvironmentFault, match="allows 1 of 1,000"):
        faults.add(0, 2, "second")


def test_the_log_has_the_first_faults_and_every_hundredth(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults("Some-v0", 1.0)
    for step in range(250):
        faults.add(step % 3, step, "broken")
    numbers_ = [record.getMessage().partition("(fault ")[2].rstrip(")") for record in caplog.records]
    assert numbers_ == [*map(str, range(1, 11)), "100", "200"]
    assert "'Some-v0', lane 2, step 2: broken" in caplog.records[2].getMessage()


def test_large_finite_numbers_are_no_fault() -> None:
    class Large(Counting):
        def _observation(self, action: int) -> Any:
            return np.full(4, 3e38, np.float32)

    environment = LaneEnvironment(SyncVectorEnv([Large] * 3), "Large-v0")
    environment.reset(0)
    assert np.isfinite(environment.step(numbers(3)).observation[""]).all()


# Spaces


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [
        ("float", {"": ArraySpec((3,), "float32")}),
        ("double", {"": ArraySpec((2, 2), "float32")}),
        ("image", {"": ArraySpec((12, 12, 2), "uint8", (255,))}),
        ("bytes", {"": ArraySpec((5,), "uint8", (7,))}),
        ("discrete", {"": ArraySpec((), "int32", (3,))}),
        ("discrete_from", {"": ArraySpec((), "int32", (3,))}),
        ("binary", {"": ArraySpec((6,), "uint8", (1,))}),
        ("integers", {"": ArraySpec((2,), "float32")}),
        ("multi_discrete", {"": ArraySpec((2,), "int32", (1, 4))}),
        ("multi_discrete_from", {"": ArraySpec((2,), "int32", (1, 4))}),
        ("multi_discrete_table", {"": ArraySpec((2, 2), "int32", (1, 2, 3, 4))}),
        ("dict", {"gear": ArraySpec((), "int32", (4,)), "speed": ArraySpec((2,), "float32")}),
        ("tuple", {"0": ArraySpec((), "int32", (2,)), "1": ArraySpec((2,), "uint8", (1,))}),
        (
            "nested",
            {
                "camera": ArraySpec((4, 4, 1), "uint8", (255,)),
                "car/0": ArraySpec((), "int32", (1,)),
                "car/1/x": ArraySpec((), "float32"),
            },
        ),
    ],
)
def test_spaces_become_specs(kind: str, leaves: dict[str, ArraySpec]) -> None:
    assert environments.describe(of_class("Observing", kind=kind)).leaves() == leaves


def flat(space: Any, sample: Any, name: str = "") -> dict[str, Any]:
    """Leaves of one observation by name, the slow way."""
    if isinstance(space, gymnasium.spaces.Dict):
        parts = [(key, space[key], sample[key]) for key in space]
    elif isinstance(space, gymnasium.spaces.Tuple):
        parts = [(str(j), space[j], sample[j]) for j in range(len(space))]
    else:
        return {name: np.asarray(sample) - getattr(space, "start", 0)}
    result: dict[str, Any] = {}
    for key, part, value in parts:
        result |= flat(part, value, f"{name}/{key}".strip("/"))
    return result


@pytest.mark.parametrize("kind", [kind for kind in SPACES if kind not in ("text", "sequence")])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_observations_are_read_leaf_by_leaf_and_counted_from_zero(make: Make, kind: str, vectorization: str) -> None:
    config = EnvironmentConfig(
        id="", import_path="environments_for_tests:Observing", kwargs={"kind": kind}, vectorization=vectorization
    )
    environment = make(config, 2)
    steps = trajectory(environment, 5, 3)
    for lane in range(2):
        alone = Observing(kind)
        samples = [alone.reset(seed=5 + lane)[0], *(alone.step(0)[0] for _ in range(3))]
        for step, sample in zip(steps, samples, strict=True):
            for name, expected in flat(SPACES[kind], sample).items():
                assert np.array_equal(step.observation[name][lane], expected.astype(step.observation[name].dtype))
    for step in steps:
        for name, spec in environment.specs.leaves().items():
            array = step.observation[name]
            assert array.shape == (2, *spec.shape)
            assert array.dtype == spec.dtype
            if spec.maximum:
                assert (array >= 0).all()
                assert (array.reshape(2, -1) <= np.array(spec.maximum)).all()


@pytest.mark.parametrize("kind", ["text", "sequence"])
def test_an_unsupported_observation_is_refused_with_what_would_do(kind: str) -> None:
    message = refusal(of_class("Observing", kind=kind))
    assert "Box" in message
    assert "Discrete" in message


def test_continuous_actions_are_refused() -> None:
    assert "Discrete" in refusal(of_class("Continuous"))
    assert "Discrete" in refusal(EnvironmentConfig(id="Pendulum-v1"))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_actions_are_counted_from_zero(make: Make, vectorization: str) -> None:
    config = EnvironmentConfig(id="", import_path="environments_for_tests:ShiftedActions", vectorization=vectorization)
    environment = make(config)
    assert environment.specs.num_actions == 3
    environment.reset(0)
    step = environment.step(np.array([2, 1, 0]))
    assert step.observation[""][:, 3].tolist() == [2, 1, 0]


# What is made


def test_an_unknown_id_is_refused_with_the_nearest() -> None:
    message = refusal(EnvironmentConfig(id="Cartpole-v1"))
    assert "Cartpole" in message
    assert "CartPole" in message


@pytest.mark.parametrize("environment_id", ["CartPole-v99", "not an id", ""])
def test_an_id_that_cannot_be_is_refused(environment_id: str) -> None:
    assert repr(environment_id) in refusal(EnvironmentConfig(id=environment_id))


@pytest.mark.parametrize(
    ("environment_id", "module", "extra"),
    [
        ("LunarLander-v3", "Box2D", "box2d"),
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MinAtar/Breakout-v1", "minatar", "minatar"),
        ("highway-fast-v0", "highway_env", "driving"),
        ("Trading/Stocks-v0", "gym_anytrading", "trading"),
    ],
)
def test_a_missing_extra_is_named(environment_id: str, module: str, extra: str, run_python: Callable[..., str]) -> None:
    message = run_python(f"""
        import sys
        sys.modules[{module!r}] = None  # importing it fails as if it were not installed
        from pipeline import environments
        from pipeline.experiment.config import UsageError
        from pipeline.experiment.sections import EnvironmentConfig
        try:
            environments.describe(EnvironmentConfig(id={environment_id!r}))
        except UsageError as error:
            print(error)
    """)
    assert message.count("\n") == 1
    assert "make setup" in message
    assert f"[{extra}]" in message


def test_a_module_is_imported_for_its_registrations(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        from pipeline import environments
        from pipeline.experiment.config import UsageError
        from pipeline.experiment.sections import EnvironmentConfig
        try:
            environments.describe(EnvironmentConfig(id="CountingForTests-v0"))
        except UsageError as error:
            print(error)
        print(environments.describe(EnvironmentConfig(id="CountingForTests-v0", import_path="environments_for_tests")))
    """)
    refused, described = printed.splitlines()
    assert "CountingForTests" in refused
    assert "num_actions=3" in described


def test_a_class_by_import_path_is_called_by_its_own_name(make: Make) -> None:
    config = EnvironmentConfig(import_path="environments_for_tests:Counting")
    assert "Counting" in make(config).name


@pytest.mark.parametrize(
    "path",
    ["no_such_module", "no_such_module:Class", "environments_for_tests:Missing", ":Counting", "..relative:Class"],
)
def test_an_import_path_that_leads_nowhere_is_refused(path: str) -> None:
    assert path.partition(":")[2] in refusal(EnvironmentConfig(import_path=path))


def test_arguments_reach_the_environment(make: Make) -> None:
    environment = make(of_class("WithArguments", size=7))
    assert environment.specs.leaves()[""].shape == (7,)


def test_an_unknown_argument_is_refused() -> None:
    assert "gravitas" in refusal(of_class("WithArguments", gravitas=1))


def test_an_argument_that_the_environment_refuses_is_a_users_mistake() -> None:
    assert "size must be positive" in refusal(of_class("WithArguments", size=-1))


def test_arguments_of_one_environment_do_not_reach_the_next(make: Make) -> None:
    make(registered("WithArgumentsForTests-v0", kwargs={"size": 7}))
    assert make(registered("WithArgumentsForTests-v0")).specs.leaves()[""].shape == (2,)


def test_auto_takes_the_environments_own_vectorization(make: Make) -> None:
    assert type(make(EnvironmentConfig(id="CartPole-v1"), 2).vector.unwrapped).__name__ == "CartPoleVectorEnv"
    assert isinstance(make(EnvironmentConfig(id="Acrobot-v1"), 2).vector, SyncVectorEnv)


def test_modes_are_as_asked(make: Make) -> None:
    for mode, kind in (("sync", "SerialVectorEnv"), ("async", "AsyncVectorEnv")):
        environment = make(EnvironmentConfig(id="CartPole-v1", vectorization=mode), 2)
        assert type(environment.vector).__name__ == kind
        assert environment.vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("kind", ["box", "dict", "mask"])
def test_serial_lanes_do_what_gymnasiums_do(make: Make, kind: str) -> None:
    config = {
        "box": registered("NoisyForTests-v0", vectorization="sync"),
        "dict": of_class("Observing", kind="dict"),
        "mask": of_class("Masked"),
    }[kind]
    ours = make(config)
    theirs = LaneEnvironment(SyncVectorEnv(ours.vector.env_fns), ours.name)
    one, other = (environment.reset(5) for environment in (ours, theirs))
    random = np.random.default_rng(0)
    for _ in range(60):
        actions = random.integers(0, 2, 3) if one.mask is None else one.mask.argmax(axis=1)
        one, other = (copy_of(environment.step(actions)) for environment in (ours, theirs))
        assert all(np.array_equal(one.observation[name], other.observation[name]) for name in other.observation)
        for mine, reference in zip(one[1:], other[1:], strict=True):
            assert np.array_equal(mine, reference)
        assert ours.episode_ends() == theirs.episode_ends()
    theirs.close()


def test_an_observation_of_another_shape_is_a_fault(make: Make) -> None:
    class Shrinking(Counting):
        def _observation(self, action: int) -> Any:
            return super()._observation(action)[: 4 if action < 1 else 1]

    environment = LaneEnvironment(SerialVectorEnv([Shrinking] * 2), "Shrinking-v0")
    environment.reset(0)
    with pytest.raises(EnvironmentFault, match=r"Shrinking-v0.*lane 1.*\(1,\)"):
        environment.step(np.array([0, 1]))


def test_vectorization_that_an_environment_lacks_is_refused() -> None:
    message = refusal(EnvironmentConfig(id="Acrobot-v1", vectorization="vector_entry_point"))
    assert "Acrobot-v1" in message
    assert "vector entry point" in message


def test_an_environment_that_only_vectorises_itself_can_be_described() -> None:
    assert environments.describe(registered("VectorOnlyForTests-v0")).num_actions == 3


# Statistics


@pytest.mark.parametrize(
    "config",
    [
        registered("NoisyForTests-v0"),
        registered("NoisyForTests-v0", vectorization="async"),
        EnvironmentConfig(id="CartPole-v1", vectorization="vector_entry_point"),
    ],
    ids=["sync", "async", "vector"],
)
def test_episode_statistics_are_those_of_a_slow_reference(make: Make, config: EnvironmentConfig) -> None:
    environment = make(config)
    random = np.random.default_rng(0)
    environment.reset(1)
    rewards: list[list[float]] = [[] for _ in range(3)]
    ended = [False] * 3
    episodes = 0
    for _ in range(300):
        step = environment.step(random.integers(0, 2, 3))
        expected = []
        for lane in range(3):
            if ended[lane]:
                rewards[lane] = []
            else:
                rewards[lane].append(float(step.reward[lane]))
            ended[lane] = bool(step.terminated[lane] or step.truncated[lane])
            if ended[lane]:
                expected.append((lane, pytest.approx(sum(rewards[lane])), len(rewards[lane])))
        assert list(zip(*environment.episode_ends(), strict=True)) == expected
        episodes += len(expected)
    assert episodes > 20


def test_no_episode_has_ended_before_the_first_step(make: Make) -> None:
    environment = make(of_class("Counting"))
    environment.reset(0)
    assert environment.episode_ends().lanes == []


def test_a_reset_forgets_unfinished_episodes(make: Make) -> None:
    environment = make(of_class("Counting"))
    for _ in range(2):
        environment.reset(0)
        environment.step(numbers(3))
        environment.episode_ends()
    environment.reset(0)
    ended = {}
    for _ in range(3):
        environment.step(numbers(3))
        lanes, returns, lengths = environment.episode_ends()
        ended |= dict(zip(lanes, zip(returns, lengths, strict=True), strict=True))
    length = episode_length(0, 0)
    assert ended[0] == (sum(reward_of(0, 0, step, 0) for step in range(length)), length)


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {suite.extra for suite in environments.SUITES if suite.extra}  # one of ours needs no package
    missing = named - set(project["optional-dependencies"])
    assert not missing, f"name the packages of {missing} in pyproject.toml under [project.optional-dependencies]"
