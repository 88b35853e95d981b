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
