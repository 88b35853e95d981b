"""Environments whose optimal return is known, and that no untrained policy solves by luck."""

from typing import Any

import gymnasium
import numpy as np


class CombinationLock(gymnasium.Env[Any, Any]):
    """Six dials: the right number (of four) at each gives 1 and shows the next dial, a wrong one ends the episode.

    The optimal return is 6; a uniform policy gets 1/3 on average.
    """

    CODE = (2, 0, 3, 1, 1, 3)
    observation_space = gymnasium.spaces.Discrete(len(CODE) + 1)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._dial = 0
        return self._dial, {}

    def step(self, action: Any) -> Any:
        if action != self.CODE[self._dial]:
            return self._dial, 0.0, True, False, {}
        self._dial += 1
        return self._dial, 1.0, self._dial == len(self.CODE), False, {}


class Catch(gymnasium.Env[Any, Any]):
    """A ball falls from a random column of the top row; a paddle in the bottom row moves to catch it: 1, or -1.

    The optimal return is 1; a uniform policy gets about -0.5. Seen are row and column of the ball and the paddle's
    column, as categories.
    """

    ROWS, COLUMNS = 6, 5
    observation_space = gymnasium.spaces.MultiDiscrete([ROWS, COLUMNS, COLUMNS])
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._ball, self._row, self._paddle = int(self.np_random.integers(self.COLUMNS)), 0, self.COLUMNS // 2
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.COLUMNS - 1)
        self._row += 1
        over = self._row == self.ROWS - 1
        return self._seen(), (1.0 if self._paddle == self._ball else -1.0) if over else 0.0, over, False, {}

    def _seen(self) -> Any:
        return np.array([self._row, self._ball, self._paddle])


class Echo(gymnasium.Env[Any, Any]):
    """Shows one of three symbols a step; the action is to name the one before. 19 of 20 steps can earn 1.

    Who sees one observation at a time earns a third of them on average.
    """

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps, self._before, self._now = 0, -1, int(self.np_random.integers(3))
        return self._now, {}

    def step(self, action: Any) -> Any:
        reward = float(action == self._before)
        self._steps += 1
        self._before, self._now = self._now, int(self.np_random.integers(3))
        return self._now, reward, False, self._steps == 20, {}


class TwoArms(gymnasium.Env[Any, Any]):
    """One of two arms pays 1 a pull, the other nothing; which one does is drawn for each episode of ten.

    Nothing is observed. Who remembers what was pulled and what it paid earns 9.5 on average, anybody else 5.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._pulls, self._arm = 0, int(self.np_random.integers(2))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self._pulls += 1
        return np.zeros(1, np.float32), float(action == self._arm), self._pulls == 10, False, {}


class Lopsided(gymnasium.Env[Any, Any]):
    """The best action is where the first feature lies, left or right of 1,000 by 0.01; the second one is large noise.

    Unscaled, a network sees two numbers that never seem to change beside the noise.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> Any:
        reward = float(action == self._side)
        self._steps += 1
        return self._draw(), reward, False, self._steps == 20, {}

    def _draw(self) -> Any:
        self._side = int(self.np_random.integers(2))
        return np.array([1_000.0 + 0.01 * (2 * self._side - 1), 500.0 * self.np_random.normal()], np.float32)
