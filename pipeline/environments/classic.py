"""Variants of gymnasium's classic problems."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

_POSITIONS = [0, 2]
"""Of CartPole's observation: the cart's position and the pole's angle."""


class PositionCartPole(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole-v1 without its velocities: it takes memory of earlier observations to keep the pole up."""

    metadata = CartPoleEnv.metadata  # of the class, which gymnasium reads before it makes one

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gymnasium.make("CartPole-v1", render_mode=render_mode))
        space: Any = self.env.observation_space
        self.observation_space = spaces.Box(space.low[_POSITIONS], space.high[_POSITIONS], dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        """The positions alone."""
        return observation[_POSITIONS]
