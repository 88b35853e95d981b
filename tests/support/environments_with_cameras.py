"""An environment that sees: small images, a mask, and actions that do not begin at 0."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Camera(gymnasium.Env[Any, Any]):
    """Observes noise whose first pixel is the step's number; action 5 is forbidden at first.

    Args:
      size: of the image's sides.
    """

    def __init__(self, size: int = 36) -> None:
        shape = (size, size, 1)
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, shape, np.uint8), "speed": spaces.Box(-1.0, 1.0, (2,), np.float64)}
        )
        self.action_space = spaces.Discrete(3, start=5)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._step = 0
        return self._observation(), {"action_mask": np.array([0, 1, 1], np.int8)}

    def step(self, action: Any) -> Any:
        self._step += 1
        mask = np.ones(3, np.int8)
        return (
            self._observation(),
            float(action),
            self._step == 4,
            self._step == 3 and action == 7,
            {"action_mask": mask},
        )

    def _observation(self) -> Any:
        image = self.np_random.integers(0, 256, self.observation_space["image"].shape, np.uint8)
        image[0, 0] = self._step
        return {"image": image, "speed": self.np_random.uniform(-1.0, 1.0, 2)}
