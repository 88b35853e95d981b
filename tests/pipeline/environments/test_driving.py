"""highway-env: observations by name, episodes' ends, and the shields."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents import ArraySpec
from pipeline import environments
from pipeline.environments import LaneEnvironment
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

pytest.importorskip("highway_env", reason="the extra driving is not installed")
from pipeline.environments import driving
from pipeline.environments.driving_shield import (
    FASTER,
    IDLE,
    LANE_LEFT,
    LANE_RIGHT,
    SLOWER,
    no_occupied_lane_change,
    safe_manoeuvres,
)

pytestmark = pytest.mark.xdist_group("driving")
SHIELDS = (no_occupied_lane_change, safe_manoeuvres)
IDS = ("highway-fast-v0", "merge-v0", "intersection-v0", "roundabout-v0", "exit-v0", "two-way-v0", "u-turn-v0")
FEW = {"vehicles_count": 5}
"""Of highway-env's settings: its step takes as long as there are vehicles."""


def task(environment_id: str = "highway-fast-v0", observation: str = "surroundings", **fields: Any) -> Any:
    config = fields.pop("config", {})
    kwargs = {"observation": observation, "config": config}
    return EnvironmentConfig(id=environment_id, kwargs=kwargs, **fields)


@pytest.fixture
def make() -> Iterator[Callable[..., LaneEnvironment]]:
    """`environments.make`, closed at the end."""
    made: list[LaneEnvironment] = []

    def make_one(config: EnvironmentConfig, lanes: int = 1) -> LaneEnvironment:
        made.append(environments.make(config, lanes))
        return made[-1]

    yield make_one
    for environment in made:
        environment.close()


def inner(environment: LaneEnvironment, lane: int = 0) -> Any:
    """highway-env's own."""
    vector: Any = environment.vector
    return vector.envs[lane].unwrapped


def refusal(config: EnvironmentConfig) -> str:
    with pytest.raises(UsageError) as caught:
        environments.make(config, 1).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Tasks and observations


@pytest.mark.parametrize("environment_id", IDS)
def test_a_task_steps_with_its_own_observation(make: Any, environment_id: str) -> None:
    environment = make(EnvironmentConfig(id=environment_id), 2)
    own = gymnasium.make(environment_id)
    assert environment.specs.observation == ArraySpec(own.observation_space.shape, "float32")
    assert environment.specs.num_actions == own.action_space.n
    seen = environment.reset(0)
    random = np.random.default_rng(0)
    for _ in range(6):
        assert seen.observation[""].shape == (2, *own.observation_space.shape)
        seen = environment.step(random.integers(0, environment.specs.num_actions, 2))


def test_surroundings_are_all_around_and_in_metres(make: Any) -> None:
    environment = make(task(config=FEW))
    rows = environment.reset(4).observation[""][0]
    assert rows.shape == (driving.VEHICLES, 5)
    ego, road = inner(environment).vehicle, inner(environment).road
    scale = np.array(list(driving.RANGES.values()))
    nearest = sorted((v for v in road.vehicles if v is not ego), key=lambda v: abs(ego.lane_distance_to(v)))
    assert rows[0, 2:] * scale[1:] == pytest.approx([ego.position[1], *ego.velocity], abs=1e-4)
    for row, other in zip(rows[1:], nearest, strict=False):
        relative = np.array([*(other.position - ego.position), *(other.velocity - ego.velocity)])
        assert row[0] == 1.0
        assert row[1:] * scale == pytest.approx(np.clip(relative, -scale, scale), abs=1e-4)
    assert not rows[1 + len(nearest) :].any()


def test_who_is_behind_is_seen(make: Any) -> None:
    environment = make(task(config={"vehicles_count": 1}))
    environment.reset(0)
    own = inner(environment)
    own.road.vehicles[1].position = own.vehicle.position - [40.0, 0.0]
    assert own.observation_type.observe()[1, :2] == pytest.approx([1.0, -40.0 / driving.RANGES["x"]])


def test_an_image_is_the_one_that_is_drawn_with_channels_last(make: Any) -> None:
    environment = make(task(observation="image", config=FEW), 2)
    assert environment.specs.observation == ArraySpec((64, 128, 1), "uint8", (255,))
    seen = environment.reset(0)
    for _ in range(3):
        for lane in range(2):
            own = inner(environment, lane).observation_type.obs
            assert own.shape == (1, 128, 64)
            assert np.array_equal(seen.observation[""][lane, :, :, 0], own[0].T)
            assert len(np.unique(own)) > 3, "a road with lines and vehicles"
        seen = environment.step(np.array([IDLE, SLOWER]))


def test_images_are_drawn_where_the_machine_asks_for_the_dummy_driver(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import os
        os.environ["SDL_VIDEODRIVER"] = "dummy"
        from pipeline import environments
        from pipeline.experiment.sections import EnvironmentConfig
        environment = environments.make(EnvironmentConfig(id="merge-v0", kwargs={"observation": "image"}), 1)
        print(environment.reset(0).observation[""].max() > 0)
    """)
    assert printed.split() == ["True"]


def test_images_of_ones_own_have_channels_last_too(make: Any) -> None:
    settings = {**driving.OBSERVATIONS["image"], "observation_shape": [40, 20], "stack_size": 2}
    environment = make(task(observation="kinematics", config={"observation": settings, **FEW}))
    assert environment.specs.observation.shape == (20, 40, 2)
    assert environment.reset(0).observation[""].shape == (1, 20, 40, 2)


def test_lanes_in_processes_of_their_own_give_the_same(make: Any) -> None:
    config = task(observation="image", config=FEW)
    serial = make(config, 2)
    parallel = make(task(observation="image", config=FEW, vectorization="async"), 2)
    assert isinstance(parallel.vector, AsyncVectorEnv)
    assert np.array_equal(serial.reset(3).observation[""], parallel.reset(3).observation[""])
    actions = np.array([LANE_LEFT, FASTER])
    assert np.array_equal(serial.step(actions).observation[""], parallel.step(actions).observation[""])


def test_frames_are_skipped_and_episodes_cut(make: Any) -> None:
    environment = make(task(frame_skip=2, max_episode_steps=4, config={"vehicles_count": 0}))
    environment.reset(0)
    first = environment.step(np.array([IDLE]))
    assert not first.truncated
    assert first.reward > 1.0, "two rewards"
    assert environment.step(np.array([IDLE])).truncated
    assert environment.episode_ends().lengths == [2]


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (task(observation="lidar"), "surroundings"),
        (EnvironmentConfig(id="highway-fast-v0", kwargs={"lanes": 3}), "lanes"),
        (task(observation="image", config={"observation": {"type": "Kinematics"}}), "leave one of them out"),
        (EnvironmentConfig(id="highway-v99"), "highway-v99"),
        (EnvironmentConfig(id="racetrack-v0"), "Discrete"),
    ],
)
def test_what_is_not_there_is_refused(config: EnvironmentConfig, part: str) -> None:
    assert part in refusal(config)


# Ends


def test_a_crash_terminates_and_time_truncates(make: Any) -> None:
    crash = make(task())
    crash.reset(0)
    for _ in range(30):
        step = crash.step(np.array([FASTER]))
        if crash.any_resetting:
            break
    assert inner(crash).vehicle.crashed
    assert step.terminated
    alone = make(task(config={"vehicles_count": 0, "duration": 5}))
    alone.reset(0)
    ends = [alone.step(np.array([IDLE])) for _ in range(5)]
    assert [bool(end.truncated[0]) for end in ends[-1:]] == [True]
    assert not any(end.terminated for end in ends)
    assert alone.episode_ends().lengths == [5]


def test_the_end_of_the_merge_terminates(make: Any) -> None:
    environment = make(EnvironmentConfig(id="merge-v0"))
    environment.reset(0)
    del inner(environment).road.vehicles[1:]  # the driver's own is the first
    for _ in range(25):
        step = environment.step(np.array([IDLE]))
        if environment.any_resetting:
            break
    assert step.terminated
    assert inner(environment).vehicle.position[0] > 370
    assert not inner(environment).vehicle.crashed


# Shields, by hand


def surroundings(*others: tuple[float, float, float, float], y: float = 4.0, vx: float = 25.0, vy: float = 0.0) -> Any:
    """One observation of a driver, on the middle one of three lanes, and of others by x, y, vx, vy relative to it."""
    rows = np.zeros((1, driving.VEHICLES, 5), np.float32)
    rows[0, 0] = [1.0, 100.0, y, vx, vy]
    for row, other in enumerate(others, start=1):
        rows[0, row] = [1.0, *other]
    return rows / np.array([1.0, *driving.RANGES.values()], np.float32)


def forbidden(shield: Any, *others: tuple[float, float, float, float], **own: float) -> set[int]:
    return set(np.flatnonzero(~shield(surroundings(*others, **own))[0]).tolist())


@pytest.mark.parametrize("shield", SHIELDS)
def test_on_a_free_road_all_is_allowed(shield: Any) -> None:
    assert forbidden(shield) == set()
    assert forbidden(shield, (90.0, 0.0, 0.0, 0.0), (90.0, 4.0, 0.0, 0.0), (-90.0, -4.0, 0.0, 0.0)) == set()


@pytest.mark.parametrize("shield", SHIELDS)
@pytest.mark.parametrize(("y", "action"), [(-4.0, LANE_LEFT), (4.0, LANE_RIGHT)])
@pytest.mark.parametrize(
    ("x", "vx", "occupied"),
    [
        (0.0, 0.0, True),
        (9.0, 0.0, True),
        (-9.0, 0.0, True),
        (25.0, 0.0, False),
        (-25.0, 0.0, False),
        (-25.0, 9.0, True),  # comes up from behind: 20 m between bumpers, 18 m closer in two seconds
        (-25.0, -9.0, False),
        (25.0, -9.0, True),  # is caught up with
        (25.0, 9.0, False),
    ],
)
def test_a_lane_is_occupied_by_who_is_or_will_be_near(
    shield: Any, y: float, action: int, x: float, vx: float, occupied: bool
) -> None:
    assert forbidden(shield, (x, y, vx, 0.0)) == ({action} if occupied else set())


def test_who_steers_into_the_lane_occupies_it() -> None:
    beyond = {"y": 0.0}  # the driver is on the left lane, the other on the right one
    assert forbidden(no_occupied_lane_change, (0.0, 8.0, 0.0, 0.0), **beyond) == set()
    assert forbidden(no_occupied_lane_change, (0.0, 7.0, 0.0, -5.0), **beyond) == {LANE_RIGHT}


def test_the_lane_steered_to_counts_as_the_own() -> None:
    # On the way from the left lane to the middle one: the next to the right is the right one.
    other = (0.0, 8.0 - 1.5, 0.0, -4.0)
    assert forbidden(no_occupied_lane_change, other, y=1.5, vy=4.0) == {LANE_RIGHT}


def test_absent_vehicles_are_nowhere() -> None:
    observation = surroundings((0.0, 4.0, 0.0, 0.0))
    observation[0, 1, 0] = 0.0
    assert no_occupied_lane_change(observation).all()


@pytest.mark.parametrize(
    ("x", "vx", "wanted"),
    [
        (60.0, 0.0, set()),
        (19.0, 0.0, {FASTER}),  # 14 m between bumpers, 4 m if 5 m/s faster
        (19.0, -5.0, {LANE_LEFT, IDLE, LANE_RIGHT, FASTER}),
        (10.0, 0.0, {LANE_LEFT, IDLE, LANE_RIGHT, FASTER}),
        (-10.0, 9.0, set()),  # who is behind brakes for himself
    ],
)
def test_distance_is_kept_to_who_is_ahead(x: float, vx: float, wanted: set[int]) -> None:
    other = (x, 0.0, vx, 0.0)
    assert forbidden(safe_manoeuvres, other) == wanted
    assert forbidden(no_occupied_lane_change, other) == set()


def test_at_the_lowest_speed_a_free_lane_is_the_way_out() -> None:
    slow, left = (10.0, 0.0, -3.0, 0.0), (0.0, -4.0, 0.0, 0.0)
    assert forbidden(safe_manoeuvres, slow, vx=20.0) == {IDLE, FASTER}
    assert forbidden(safe_manoeuvres, slow, left, vx=20.0) == {IDLE, FASTER, LANE_LEFT}


@given(arrays(np.float32, (3, driving.VEHICLES, 5), elements=st.floats(-1.0, 1.0, width=32)))
def test_slower_is_always_allowed_and_lanes_are_judged_alone(observation: Any) -> None:
    for shield in SHIELDS:
        allowed = shield(observation)
        assert allowed.dtype == np.bool_
        assert allowed[:, SLOWER].all()
        assert np.array_equal(allowed[1:2], shield(observation[1:2]))
    assert not (safe_manoeuvres(observation) & ~no_occupied_lane_change(observation)).any()


@pytest.mark.parametrize("shield", SHIELDS, ids=lambda shield: shield.__name__)
def test_a_graph_of_a_shield_allows_the_same(shield: Any) -> None:
    import tensorflow as tf

    random = np.random.default_rng(0)
    observation = random.uniform(-0.4, 0.6, (2_000, 10, 5)).astype(np.float32)
    allowed = tf.function(shield, autograph=False)(tf.constant(observation)).numpy()
    assert np.array_equal(allowed, shield(observation))
    assert 0.1 < allowed[:, LANE_LEFT].mean() < 0.9


def test_another_observation_is_refused_in_one_line() -> None:
    config = EnvironmentConfig(id="highway-fast-v0", shield=f"{no_occupied_lane_change.__module__}:safe_manoeuvres")
    with pytest.raises(UsageError, match="observation='surroundings'"):
        environments.describe(config)


# Shields, on the road


@pytest.mark.parametrize("shield", SHIELDS, ids=lambda shield: shield.__name__)
def test_nobody_drives_into_an_occupied_lane(make: Any, shield: Any) -> None:
    crowded = {"vehicles_count": 10, "vehicles_density": 1.5}
    environment = make(task(shield=f"{shield.__module__}:{shield.__name__}", config=crowded), 2)
    seen = environment.reset(0)
    random = np.random.default_rng(0)
    changes = refused = 0
    for _ in range(40):
        scores = random.random((2, 5), np.float32)
        scores[:, [LANE_LEFT, LANE_RIGHT]] += 0.5
        refused += environment.overruled(scores)
        actions = np.where(seen.mask, scores, -1.0).argmax(axis=1)
        for lane in np.flatnonzero(~environment.resetting):
            lane_of, beside = inner(environment, lane).vehicle.target_lane_index[2], neighbours(environment, lane)
            target = lane_of + {LANE_LEFT: -1, LANE_RIGHT: 1}.get(int(actions[lane]), 0)
            changes += target != lane_of
            assert target == lane_of or target not in beside
        seen = environment.step(actions)  # raises ForbiddenAction if one is sent
        environment.episode_ends()
    assert changes > 10
    assert refused > 10


def neighbours(environment: LaneEnvironment, lane: int) -> set[int]:
    """The lanes in which a vehicle overlaps the driver's along the road, by highway-env's own account."""
    ego, road = inner(environment, lane).vehicle, inner(environment, lane).road
    others = [other for other in road.vehicles if other is not ego]
    return {other.lane_index[2] for other in others if abs(other.position[0] - ego.position[0]) < ego.LENGTH}


def test_a_forbidden_action_does_not_reach_the_road(make: Any) -> None:
    environment = make(task(shield=f"{safe_manoeuvres.__module__}:safe_manoeuvres"))
    seen = environment.reset(0)
    for _ in range(30):
        if not seen.mask[0, FASTER]:
            with pytest.raises(Exception, match="is forbidden"):
                environment.step(np.array([FASTER]))
            return
        seen = environment.step(np.array([FASTER]))
    pytest.fail("nobody was ever in the way")
