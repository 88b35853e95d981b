"""One task by several interfaces: choose the side of a picture that its spot is on, 20 times, for a reward of 1."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE, STEPS = 20, 20


def picture(random: np.random.Generator, channels_first: bool) -> tuple[Any, int]:
    """A float picture with a spot at a random place, and the side that it is on."""
    row, column = random.integers(0, SIZE - 3, 2)
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    image[row : row + 3, column : column + 3, random.integers(3)] = 1.0
    return (np.moveaxis(image, -1, 0) if channels_first else image), int(column + 1 >= SIZE // 2)


class OldSpot(gymnasium.Env[Any, Any]):
    """Converted by half: no options, and four values a step."""

    action_space = spaces.Discrete(2)

    def __init__(self, channels_first: bool = True) -> None:
        self.channels_first = channels_first
        shape = (3, SIZE, SIZE) if channels_first else (SIZE, SIZE, 3)
        self.observation_space = spaces.Box(0.0, 1.0, shape, np.float32)

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        super().reset(seed=seed)
        self.step_number = 0
        image, self.side = picture(self.np_random, self.channels_first)
        return image, {}

    def step(self, action: Any) -> Any:
        self.step_number += 1
        reward = float(action == self.side)
        image, self.side = picture(self.np_random, self.channels_first)
        return image, reward, self.step_number == STEPS, {}


gymnasium.register("OldSpotForTests-v0", entry_point=OldSpot)


def tf_agents_spot() -> Any:
    """The same as a `PyEnvironment` with a mask, of three actions of which the last is forbidden."""
    from tf_agents.environments import py_environment
    from tf_agents.specs import array_spec
    from tf_agents.trajectories import time_step

    class Spot(py_environment.PyEnvironment):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.random = np.random.default_rng()

        def seed(self, seed: Any) -> None:
            self.random = np.random.default_rng(seed)

        def action_spec(self) -> Any:
            return array_spec.BoundedArraySpec((), np.int32, 0, 2)

        def observation_spec(self) -> Any:
            image = array_spec.BoundedArraySpec((3, SIZE, SIZE), np.float32, 0.0, 1.0)
            return {"network_input": image, "constraint": array_spec.BoundedArraySpec((3,), np.int32, 0, 1)}

        def seen(self) -> Any:
            image, self.side = picture(self.random, True)
            return {"network_input": image, "constraint": np.array([1, 1, 0], np.int32)}

        def _reset(self) -> Any:
            self.step_number = 0
            return time_step.restart(self.seen())

        def _step(self, action: Any) -> Any:
            assert action != 2
            self.step_number += 1
            reward = float(action == self.side)
            if self.step_number == STEPS:
                return time_step.termination(self.seen(), reward)
            return time_step.transition(self.seen(), reward)

    return Spot()
