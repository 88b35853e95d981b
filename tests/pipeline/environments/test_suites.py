"""The optional suites: games by their published protocols, EnvPool's engine, dm_env's interface, skipped frames."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs as dm_specs
from gymnasium.envs.classic_control import CartPoleEnv

from agents import ArraySpec
from agents.exploration import greedy
from pipeline import environments
from pipeline.environments import LaneEnvironment
from pipeline.environments.lanes.rendering import NotRendered
from pipeline.environments.lanes.wrappers import FrameSkip
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig


def numbers(lanes: int, value: int = 0) -> Any:
    return np.full(lanes, value, np.int64)


def refusal(config: EnvironmentConfig) -> str:
    with pytest.raises(UsageError) as caught:
        environments.make(config, 1)
    message = str(caught.value)
    assert "\n" not in message
    return message


def breakout(lanes: int = 2, **kwargs: Any) -> LaneEnvironment:
    return environments.make(EnvironmentConfig(id="ALE/Breakout-v5", kwargs=kwargs), lanes)


# All of them


@pytest.mark.parametrize(
    "suite", [suite for suite in environments.SUITES if suite.starts], ids=lambda suite: suite[1][0]
)
def test_every_suite_has_environments_that_step_and_refuses_options_that_there_are_not(
    suite: environments.Suite,
) -> None:
    if suite.module:
        importlib.import_module(suite.module)
    first = next(name for name in gymnasium.registry if name.startswith(suite.starts))
    environment = environments.make(EnvironmentConfig(id=first), 2)
    seen = environment.reset(0)
    for _ in range(3):
        actions = greedy(np.zeros((2, environment.specs.num_actions)), seen.mask, environment.specs.action_sizes)
        seen = environment.step(actions)
    assert {name: values.shape[1:] for name, values in seen.observation.items()} == {
        name: spec.shape for name, spec in environment.specs.leaves().items()
    }
    environment.close()
    message = refusal(EnvironmentConfig(id=first, kwargs={"no_such_option": 1}))
    assert "no_such_option" in message


def test_options_of_a_suite_are_named_where_one_is_unknown() -> None:
    config = EnvironmentConfig(id="highway-fast-v0", kwargs={"observatoin": "image"})
    assert refusal(config).endswith("unknown field `observatoin`; there are observation, config")


# Atari


def test_games_are_seen_as_single_gray_frames_of_bytes() -> None:
    environment = breakout()
    assert environment.specs.observation == ArraySpec((84, 84, 1), "uint8", (255,))
    seen = environment.reset(0).observation[""]
    assert (seen.shape, seen.dtype) == ((2, 84, 84, 1), np.uint8)
    assert seen.max() > 0


@pytest.mark.parametrize(
    ("kwargs", "actions"),
    [
        ({}, 18),
        ({"protocol": "machado"}, 18),
        ({"protocol": "machado", "minimal_actions": True}, 4),
        ({"protocol": "mnih"}, 4),
        ({"protocol": "mnih", "minimal_actions": False}, 18),
    ],
)
def test_protocols_have_their_action_sets(kwargs: dict[str, Any], actions: int) -> None:
    assert breakout(**kwargs).specs.num_actions == actions


def frames_after(environment: LaneEnvironment, seed: int, actions: list[int]) -> Any:
    environment.reset(seed)
    return np.stack([environment.step(numbers(environment.lanes, a)).observation[""].copy() for a in actions])


def test_sticky_actions_make_the_same_actions_lead_elsewhere() -> None:
    moves = [1, 2, 2, 2, 3, 3, 3, 3, 2, 2, 1] * 3
    sticky = frames_after(breakout(8, minimal_actions=True), 0, moves)
    assert any(not np.array_equal(sticky[:, 0], sticky[:, lane]) for lane in range(1, 8))


def test_mnih_begins_with_a_random_number_of_noops_and_is_deterministic_then() -> None:
    environment = breakout(8, protocol="mnih")
    seen = [environment.reset(seed).observation[""].copy() for seed in (0, 0)]
    np.testing.assert_array_equal(*seen)
    moves = [1, 2, 2, 3, 3] * 4
    np.testing.assert_array_equal(frames_after(environment, 3, moves), frames_after(environment, 3, moves))


def test_a_lost_life_ends_the_return_but_not_the_episode_under_mnih_alone() -> None:
    lost, over = {}, {}
    for protocol in ("mnih", "machado"):
        environment = breakout(4, protocol=protocol)
        environment.reset(1)
        lost[protocol] = over[protocol] = 0
        for step in range(600):
            ended = environment.step(numbers(4, 1 + 2 * (step % 2)))  # fire, then aside: lives are lost soon
            lost[protocol] += int((ended.terminated & ~environment.resetting).sum())
            over[protocol] += int((ended.terminated & environment.resetting).sum())
            if environment.any_resetting and not ended.truncated.any():
                assert ended.terminated[environment.resetting].all()
            environment.episode_ends()
    assert lost["machado"] == 0
    assert over["machado"] > 0
    assert over["mnih"] > 0
    assert lost["mnih"] == pytest.approx(4 * over["mnih"], abs=4 * 4)  # of five lives the last is the end itself


def test_rewards_are_the_games_own() -> None:
    """Bricks further up give 4 and 7; the papers' clipping is the agent's, so that returns are true."""
    environment = environments.make(EnvironmentConfig(id="ALE/MsPacman-v5", kwargs={"minimal_actions": True}), 4)
    environment.reset(0)
    random, rewards = np.random.default_rng(0), set()
    for _ in range(200):
        rewards |= set(environment.step(random.integers(0, 9, 4)).reward.tolist())
    assert max(rewards) >= 10.0


def test_an_episode_is_cut_after_so_many_frames() -> None:
    environment = environments.make(EnvironmentConfig(id="ALE/Pong-v5", max_episode_steps=100), 1)
    environment.reset(0)
    steps = [environment.step(numbers(1)) for _ in range(25)]
    assert [bool(step.truncated[0]) for step in steps[:-1]] == [False] * 24
    assert environment.resetting[0]
    assert not steps[-1].terminated[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EnvironmentConfig(id="ALE/Pong-v5", kwargs={"protocol": "mnih2015"}), "there are machado, mnih"),
        (EnvironmentConfig(id="ALE/Pong-v5", kwargs={"protcol": "mnih"}), "protcol"),
        (EnvironmentConfig(id="ALE/Pong-v5", vectorization="async"), "vectorization='auto'"),
        (EnvironmentConfig(id="ALE/Pongg-v5"), "no environment 'ALE/Pongg-v5'"),
    ],
)
def test_what_no_game_has_is_refused(config: EnvironmentConfig, said: str) -> None:
    assert said in refusal(config)


# MinAtar


@pytest.mark.parametrize(
    ("game", "channels"), [("Breakout", 4), ("Asterix", 4), ("Freeway", 7), ("Seaquest", 10), ("SpaceInvaders", 6)]
)
def test_the_games_of_minatar(game: str, channels: int) -> None:
    environment = environments.make(EnvironmentConfig(id=f"MinAtar/{game}-v0"), 3)
    assert environment.specs.observation == ArraySpec((10, 10, channels), "uint8", (1,))
    assert environment.specs.num_actions == 6
    environment.reset(0)
    random, ends = np.random.default_rng(0), 0
    for _ in range(2_600):  # one of Freeway's episodes takes 2,500 frames
        environment.step(random.integers(0, 6, 3))
        ends += len(environment.episode_ends().returns)
    assert ends > 0


def test_minatars_published_settings_are_the_defaults() -> None:
    environment = environments.make(EnvironmentConfig(id="MinAtar/Breakout-v0"), 1)
    game = environment.vector.envs[0].unwrapped.game
    assert game.sticky_action_prob == 0.1
    assert game.env_name == "breakout"
    assert environments.make(EnvironmentConfig(id="MinAtar/Breakout-v1"), 1).specs.num_actions == 3


# EnvPool


def test_envpool_plays_cartpole_as_gymnasium_does() -> None:
    """From each of EnvPool's own starts gymnasium's CartPole is stepped by the same actions, to the episode's end."""
    lanes, random = 5, np.random.default_rng(0)
    environment = environments.make(EnvironmentConfig(id="CartPole-v1", engine="envpool"), lanes)
    references = [CartPoleEnv() for _ in range(lanes)]
    seen, begun, ended, lengths = environment.reset(7).observation[""].copy(), np.ones(lanes, bool), 0, numbers(lanes)
    for _ in range(1_500):
        for lane in np.flatnonzero(begun):
            references[lane].reset()
            references[lane].state = seen[lane].astype(float)
            lengths[lane] = 0
        actions = random.integers(0, 2, lanes)
        resetting = environment.resetting.copy()
        step = environment.step(actions)
        for lane in np.flatnonzero(~resetting):
            expected, reward, terminated, _, _ = references[lane].step(int(actions[lane]))
            lengths[lane] += 1
            np.testing.assert_allclose(step.observation[""][lane], expected, rtol=1e-4, atol=1e-4)
            assert (step.reward[lane], step.terminated[lane]) == (reward, terminated)
            ended += terminated
        assert not step.terminated[resetting].any()
        assert not step.reward[resetting].any()
        for lane, episode_return, length in zip(*environment.episode_ends(), strict=True):
            assert episode_return == length == lengths[lane]
        seen, begun = step.observation[""].copy(), resetting
    assert ended > 100


def test_envpools_time_limit_truncates() -> None:
    environment = environments.make(EnvironmentConfig(id="CartPole-v1", engine="envpool", max_episode_steps=5), 1)
    environment.reset(0)
    last = [environment.step(numbers(1, step % 2)) for step in range(5)][-1]
    assert (bool(last.truncated[0]), bool(last.terminated[0])) == (True, False)


def test_envpools_lanes_differ_and_a_seed_fixes_them() -> None:
    environment = environments.make(EnvironmentConfig(id="CartPole-v1", engine="envpool"), 3)
    first, second, other = (environment.reset(seed).observation[""].copy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert len(np.unique(first[:, 0])) == 3


def test_envpools_images_have_their_channels_last() -> None:
    config = EnvironmentConfig(id="Pong-v5", engine="envpool", kwargs={"stack_num": 1})
    environment = environments.make(config, 2)
    assert environment.specs.observation == ArraySpec((84, 84, 1), "uint8", (255,))
    assert environment.reset(0).observation[""].shape == (2, 84, 84, 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EnvironmentConfig(id="Missing-v0", engine="envpool"), "engine='gymnasium'"),
        (EnvironmentConfig(id="", import_path="module:Class", engine="envpool"), "engine='gymnasium'"),
        (EnvironmentConfig(id="CartPole-v1", engine="envpool", frame_skip=2), "frame_skip"),
        (EnvironmentConfig(id="CartPole-v1", engine="envpool", vectorization="sync"), "vectorization"),
    ],
)
def test_what_envpool_lacks_is_refused(config: EnvironmentConfig, said: str) -> None:
    assert said in refusal(config)


def test_a_missing_envpool_is_named(run_python: Callable[..., str]) -> None:
    assert "[envpool]" in run_python("""
        import sys
        sys.modules["envpool"] = None
        from pipeline import environments
        from pipeline.experiment.config import UsageError
        from pipeline.experiment.sections import EnvironmentConfig
        try:
            environments.describe(EnvironmentConfig(engine="envpool"))
        except UsageError as error:
            print(error)
    """)


# dm_env


class Corridor(dm_env.Environment):
    """Walk right to the end (reward 1, the episode terminates) within 10 steps (else it is cut off).

    Actions are counted from 5, so that an adapter that forgets where they begin walks off.
    """

    def __init__(self, length: int = 3) -> None:
        self.length = length

    def reset(self) -> dm_env.TimeStep:
        self.place = self.steps = 0
        return dm_env.restart(self._observation())

    def step(self, action: int) -> dm_env.TimeStep:
        assert action in (5, 6)
        self.place = max(0, self.place + (1 if action == 6 else -1))
        self.steps += 1
        if self.place == self.length:
            return dm_env.termination(1.0, self._observation())
        if self.steps == 10:
            return dm_env.truncation(0.0, self._observation())
        return dm_env.transition(0.0, self._observation())

    def observation_spec(self) -> Any:
        return {
            "place": dm_specs.DiscreteArray(self.length + 1),
            "share": dm_specs.Array((2,), np.float64),
            "map": dm_specs.BoundedArray((4,), np.uint8, 0, 9),
        }

    def action_spec(self) -> Any:
        return dm_specs.BoundedArray((), np.int64, 5, 6)

    def _observation(self) -> Any:
        return {
            "place": self.place,
            "share": np.array([self.place / self.length, 0.5]),
            "map": np.full(4, self.place, np.uint8),
        }


class Steering(Corridor):
    """Corridor with a continuous action."""

    def action_spec(self) -> Any:
        return dm_specs.BoundedArray((1,), np.float32, 0.0, 1.0)


def corridor(name: str = "Corridor", lanes: int = 2, **kwargs: Any) -> LaneEnvironment:
    import sys

    path = f"{sys.modules[__name__].__name__}:{name}"
    return environments.make(EnvironmentConfig(id="", import_path=path, kwargs=kwargs), lanes)


def test_a_dm_env_is_adapted_by_its_import_path() -> None:
    environment = corridor(length=3)
    assert environment.specs.leaves() == {
        "map": ArraySpec((4,), "uint8", (9,)),
        "place": ArraySpec((), "int32", (3,)),
        "share": ArraySpec((2,), "float32"),
    }
    assert environment.specs.num_actions == 2
    environment.reset(0)
    steps = [environment.step(np.array([1, 0])) for _ in range(3)]
    assert (steps[-1].reward.tolist(), steps[-1].terminated.tolist()) == ([1.0, 0.0], [True, False])
    for _ in range(7):
        last = environment.step(np.array([1, 0]))
    assert (last.truncated.tolist()[1], last.terminated.tolist()[1]) == (True, False)


def test_a_dm_env_draws_nothing() -> None:
    path = f"{Corridor.__module__}:Corridor"
    with pytest.raises(NotRendered, match="cannot be rendered"):
        environments.make(EnvironmentConfig(id="", import_path=path), 1, render=True)


def test_a_continuous_dm_env_is_refused() -> None:
    with pytest.raises(UsageError, match="one bounded integer"):
        corridor("Steering")


# Frame skip


class Ramp(gymnasium.Env[Any, Any]):
    """Rewards 1, 2, 3, ...; the episode terminates after 7 steps."""

    observation_space = gymnasium.spaces.Box(-math.inf, math.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full(1, self.steps, np.float32), float(self.steps), self.steps == 7, False, {"step": self.steps}


def test_a_skip_adds_up_rewards_and_ends_with_the_episode() -> None:
    environment = FrameSkip(Ramp(), 3)
    environment.reset()
    steps = [environment.step(0) for _ in range(3)]
    assert [(step[0].tolist(), step[1], step[2]) for step in steps] == [
        ([3.0], 6.0, False),
        ([6.0], 15.0, False),
        ([7.0], 7.0, True),
    ]
    assert steps[-1][4] == {"step": 7}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_skipping_is_configured(vectorization: Any) -> None:
    config = EnvironmentConfig(id="MountainCar-v0", frame_skip=4, vectorization=vectorization)
    environment = environments.make(config, 2)
    environment.reset(0)
    lengths = []
    for _ in range(60):
        step = environment.step(numbers(2, 1))
        assert step.reward.tolist() in ([-4.0, -4.0], [0.0, 0.0])
        lengths += environment.episode_ends().lengths
    environment.close()
    assert lengths == [50, 50]  # of 200 frames


def test_an_environment_that_vectorises_itself_cannot_skip() -> None:
    config = EnvironmentConfig(id="CartPole-v1", frame_skip=2, vectorization="vector_entry_point")
    assert "vectorization='sync'" in refusal(config)
    assert environments.make(EnvironmentConfig(id="CartPole-v1", frame_skip=2), 4).lanes == 4


def test_a_configured_limit_cuts_episodes() -> None:
    environment = environments.make(EnvironmentConfig(id="MountainCar-v0", max_episode_steps=7), 2)
    environment.reset(0)
    last = [environment.step(numbers(2, 1)) for _ in range(7)][-1]
    assert last.truncated.all()
