"""Atari 2600 games (`ALE/Pong-v5`, ...) under the published protocols, stepped and preprocessed in C++ by ale-py.

Observations are single frames, uint8 [84, 84, 1]: grayscale, the pixelwise maximum of the last two of 4 that an action
is held for. `environment.frame_stack = 4` makes the stacks that the papers learn from.
"""

import functools
from typing import Any, NamedTuple

import ale_py
import gymnasium
import msgspec
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import VectorWrapper

from pipeline.environments.suite_options import options_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

gymnasium.register_envs(ale_py)

_FRAME_SKIP = 4
_FRAMES_A_SECOND = 60.0
_HEIGHT, _WIDTH = 210, 160
"""Of the screen."""


class Protocol(NamedTuple):
    """How a game is played in a published evaluation."""

    sticky: float
    """Probability that the action before is repeated instead."""
    most_noops: int
    """An episode begins with up to so many actions that do nothing."""
    life_lost_is_terminal: bool
    """To the learner a lost life ends the return; the episode goes on."""
    minimal_actions: bool
    """The game's own actions rather than all 18."""
    most_frames: int
    """Emulator frames that truncate an episode."""


PROTOCOLS = {
    # Machado et al. 2018, section 5: five minutes of play at 60 frames a second.
    "machado": Protocol(0.25, 0, life_lost_is_terminal=False, minimal_actions=False, most_frames=18_000),
    # Mnih et al. 2015, Methods; the limit of 30 minutes is DQN Zoo's. Reward clipping is agent.reward_clip = 1.0.
    "mnih": Protocol(0.0, 30, life_lost_is_terminal=True, minimal_actions=True, most_frames=108_000),
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `environment.kwargs` takes for an Atari game."""

    protocol: str = "machado"
    minimal_actions: bool | None = None
    """None is the protocol's own; true under machado is how Dopamine runs it."""
    threads: int = 0
    """That step the lanes; 0 takes one a core."""


class AtariLanes(VectorWrapper):
    """ale-py's vector environment with channels last and, where the protocol has it, `info["life_lost"]`.

    Args:
      env: the games.
      life_lost_is_terminal: see `Protocol`.
      screens: the same games as their screens show them, played along to be looked at.
    """

    def __init__(self, env: AtariVectorEnv, life_lost_is_terminal: bool, screens: AtariVectorEnv | None = None) -> None:
        super().__init__(env)
        self._screens = screens
        self._shown: Any = None
        shape: Any = env.single_observation_space.shape
        _, height, width = shape
        self.single_observation_space = spaces.Box(0, 255, (height, width, 1), np.uint8)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, env.num_envs)
        self._life_lost_is_terminal = life_lost_is_terminal
        self._lives = np.zeros(env.num_envs, np.int32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every lane; lane i has the seed `seed + i`."""
        frames, info = self.env.reset(seed=seed, options=options)
        if self._screens is not None:
            self._shown, _ = self._screens.reset(seed=seed, options=options)
        self._lives = info["lives"]
        return frames.reshape(self.observation_space.shape), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Holds each lane's action for 4 frames."""
        frames, reward, terminated, truncated, info = self.env.step(actions)
        if self._screens is not None:
            self._shown, *_ = self._screens.step(actions)
        lives, before = info["lives"], self._lives
        self._lives = lives
        more = {"life_lost": lives < before} if self._life_lost_is_terminal else {}
        return frames.reshape(self.observation_space.shape), reward, terminated, truncated, more

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """Whether there are pictures."""
        return None if self._screens is None else "rgb_array"

    def render(self) -> Any:
        """The screens of all lanes, uint8 [210, 160, 3] each: the pixelwise maximum of the last two frames."""
        return tuple(self._shown[:, 0])

    def get_action_meanings(self) -> list[str]:
        """The actions' names."""
        return [action.name.lower().replace("_", " ") for action in self.env.unwrapped.ale.get_action_set()]


def vector(config: EnvironmentConfig, lanes: int, *, render: bool = False) -> AtariLanes:
    """The game of an id under the protocol that `environment.kwargs` names.

    Raises:
      UsageError: no such game or protocol, or an argument that none has.
    """
    options = options_of(config, Options, "an Atari game")
    if options.protocol not in PROTOCOLS:
        raise UsageError(
            f"environment.kwargs.protocol={options.protocol!r} is unknown; there are {', '.join(PROTOCOLS)}"
        )
    if config.vectorization not in ("auto", "vector_entry_point"):
        raise UsageError("Atari games vectorise themselves: set environment.vectorization='auto'")
    try:
        game = gymnasium.spec(config.id).kwargs["game"]
    except gymnasium.error.Error as error:
        raise UsageError(f"no environment {config.id!r}: {error}") from None
    protocol = PROTOCOLS[options.protocol]
    minimal = protocol.minimal_actions if options.minimal_actions is None else options.minimal_actions
    skip = config.frame_skip or _FRAME_SKIP
    make_games = functools.partial(
        AtariVectorEnv,
        game,
        lanes,
        num_threads=options.threads,
        max_num_frames_per_episode=config.max_episode_steps or protocol.most_frames,
        repeat_action_probability=protocol.sticky,
        full_action_space=not minimal,
        stack_num=1,  # the replay keeps each frame once: stacks are made from these
        frameskip=skip,
        noop_max=protocol.most_noops,
        reward_clipping=False,  # returns are reported as the game has them; the agent clips what it learns from
        use_fire_reset=False,
    )
    # The same seeds and actions lead to the same play, whatever the pictures are.
    screens = make_games(grayscale=False, img_height=_HEIGHT, img_width=_WIDTH) if render else None
    made = AtariLanes(make_games(), protocol.life_lost_is_terminal, screens)
    made.metadata = {**made.metadata, "render_fps": _FRAMES_A_SECOND / skip}
    return made
