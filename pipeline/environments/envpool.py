"""EnvPool: environments in C++, stepped by its own threads (`environment.engine = "envpool"`)."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from pipeline.environments.lanes.rendering import NotRendered
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime.process import quieten_gym

quieten_gym()  # EnvPool imports it
import envpool  # noqa: E402

_IMAGE_RANK = 3


class EnvPoolLanes(VectorEnv[Any, Any, Any]):
    """EnvPool's synchronous lanes as a gymnasium vector environment; images have their channels last.

    EnvPool takes its seed when it is made: a reset makes the lanes anew. Reward and end of a step that is a reset are 0
    and false, as gymnasium's are (`AutoresetMode.NEXT_STEP`).
    """

    def __init__(self, environment_id: str, lanes: int, arguments: dict[str, Any]) -> None:
        self._id, self._arguments = environment_id, {"num_envs": lanes, **arguments}
        self._pool: Any = self._make(seed=0)
        self.num_envs = lanes
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_action_space = self._pool.action_space
        space = self._pool.observation_space
        self._is_image = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == _IMAGE_RANK
        if self._is_image:
            channels, height, width = space.shape
            space = spaces.Box(0, int(space.high.max()), (height, width, channels), np.uint8)
        self.single_observation_space = space
        self.observation_space = gymnasium.vector.utils.batch_space(space, lanes)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, lanes)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every lane."""
        del options
        self._pool.close()
        self._pool = self._make(seed=seed or 0)
        observation, info = self._pool.reset()
        return self._arranged(observation), _masks(info)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every lane."""
        observation, reward, terminated, truncated, info = self._pool.step(actions)
        return self._arranged(observation), reward, terminated, truncated, _masks(info)

    def close_extras(self, **_: Any) -> None:
        """Releases the lanes."""
        self._pool.close()

    def _make(self, seed: int) -> Any:
        return envpool.make(self._id, env_type="gymnasium", seed=seed, **self._arguments)

    def _arranged(self, observation: Any) -> Any:
        return np.moveaxis(observation, 1, -1) if self._is_image else observation


def _masks(info: dict[str, Any]) -> dict[str, Any]:
    """The masks of actions in an info, where there are any."""
    return {"action_mask": info["action_mask"]} if "action_mask" in info else {}


def vector(config: EnvironmentConfig, lanes: int, *, render: bool = False) -> EnvPoolLanes:
    """EnvPool's lanes of the environment of that id; `environment.kwargs` are EnvPool's options.

    Raises:
      UsageError: it lacks the id, or a setting does not go with it.
      NotRendered: pictures are wanted.
    """
    if render:
        raise NotRendered(config.id, "EnvPool draws nothing")
    if config.import_path or config.id not in envpool.list_all_envs():
        raise UsageError(
            f"EnvPool has no environment {config.id or config.import_path!r}: set environment.engine='gymnasium'"
        )
    if config.vectorization != "auto" or config.frame_skip or config.discretize:
        raise UsageError(
            "environment.vectorization, environment.frame_skip and environment.discretize do not go with "
            "engine='envpool': leave them out (a game's own frame_skip is one of environment.kwargs)"
        )
    limit = {"max_episode_steps": config.max_episode_steps} if config.max_episode_steps else {}
    return EnvPoolLanes(config.id, lanes, {**config.kwargs, **limit})
