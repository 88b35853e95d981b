"""An environment of one's own, with actions that are forbidden at times: Nim, against an opponent at random.

python examples/own_environment.py [folder]
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import pipeline

STONES = 15


class Nim(gymnasium.Env[Any, Any]):
    """Take one to three stones in turn; who takes the last one wins. The mask forbids more than there are."""

    observation_space = spaces.Discrete(STONES + 1)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """All stones, or one less: then the opponent has begun."""
        super().reset(seed=seed)
        self.stones = int(STONES - self.np_random.integers(2))
        return self.stones, self.info()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Our move, and the opponent's."""
        self.stones -= int(action) + 1
        if self.stones == 0:
            return 0, 1.0, True, False, self.info()
        self.stones -= int(self.np_random.integers(1, min(3, self.stones) + 1))
        return self.stones, -1.0 if self.stones == 0 else 0.0, self.stones == 0, False, self.info()

    def info(self) -> dict[str, Any]:
        """The mask of what may be done next, read by collecting, learning and evaluating."""
        return {"action_mask": np.arange(1, 4) <= max(self.stones, 1)}


CONFIG = """
[environment]
id = ""
import_path = "own_environment:Nim" # module:Class; the module is found as in any program of Python

[agent]
kind = "q_learning"
discount = 1.0
learning_rate = 0.2

[exploration]
epsilon_decay_steps = 20_000
epsilon_final = 0.1

[stop]
environment_steps = 40_000
"""


def main(folder: Path) -> None:
    """Trains, and shows what was learned: to leave a multiple of four."""
    (folder / "nim.toml").write_text(CONFIG)
    pipeline.train(pipeline.load(folder / "nim.toml", seed=1), folder / "nim", launcher="inline")
    policy = pipeline.load_policy(folder / "nim")
    for stones in range(1, STONES + 1):
        taken = policy.act(stones, mask=np.arange(1, 4) <= stones)
        print(f"{stones:2d} stones: take {taken + 1}, leave {stones - taken - 1}")
    print(f"won: {(pipeline.evaluate(folder / 'nim', episodes=500).returns > 0).mean():.0%} of 500 games")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
