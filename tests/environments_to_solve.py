"""An environment whose optimal return is known, and that no untrained policy solves by luck."""

from typing import Any

import gymnasium


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
