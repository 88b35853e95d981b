"""How few steps MountainCar can take: the optimum by dynamic programming, over all starts and over those that score.

  python -m benchmarks.learning.mountain_car_optimum

docs/results.md sets it beside what is learned. Time to the top is a function of position and velocity, found on a grid
by value iteration (Bellman 1957) with linear interpolation between its points. What is printed are means of episodes
that its policy plays in the task's own equations, so that a coarse grid can only make them longer.
"""

import sys

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.reach.tasks import SEED
from pipeline.command import run_command

Numbers = NDArray[np.float64]
LANES = 64
"""Of an evaluation: lane i begins by the seed plus i; of 100 episodes the first 36 lanes play two, the others one."""
_LOW, _GOAL, _HIGH, _FASTEST = -1.2, 0.5, 0.6, 0.07


def step(position: Numbers, velocity: Numbers, action: int) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
    """Gymnasium's equations of a step: positions and velocities after it, and which are at the top; shapes as given."""
    faster = np.clip(velocity + (action - 1) * 0.001 - 0.0025 * np.cos(3 * position), -_FASTEST, _FASTEST)
    there = np.clip(position + faster, _LOW, _HIGH)
    return there, np.where((there <= _LOW) & (faster < 0), 0.0, faster), there >= _GOAL


class Grid:
    """Times to the top at the points of a grid, float64 [P, V].

    Args:
      positions: points from the left end to the top, at least 2.
      velocities: points from full speed down to full speed up, at least 2.
    """

    def __init__(self, positions: int, velocities: int) -> None:
        self._sides = positions - 1, velocities - 1
        self.times = np.zeros((positions, velocities))
        points = np.linspace(_LOW, _GOAL, positions), np.linspace(-_FASTEST, _FASTEST, velocities)
        position, velocity = np.meshgrid(*points, indexing="ij")
        after = [step(position, velocity, action) for action in range(3)]
        ways = [(self._place(there, faster), top) for there, faster, top in after]
        for _ in range(1_000):
            times = np.min([1.0 + np.where(top, 0.0, self._at(place)) for place, top in ways], axis=0)
            change = np.abs(times - self.times).max()
            self.times = times
            if change < 1e-3:
                return
        raise ArithmeticError(f"times still change by {change:g} after 1,000 sweeps")

    def _place(
        self, position: Numbers, velocity: Numbers
    ) -> tuple[NDArray[np.int64], Numbers, NDArray[np.int64], Numbers]:
        """Between which points they lie: the lower one of each axis, and how far towards the next, 0 to 1."""
        return *_between((position - _LOW) / (_GOAL - _LOW), self._sides[0]), *_between(
            (velocity + _FASTEST) / (2 * _FASTEST), self._sides[1]
        )

    def _at(self, place: tuple[NDArray[np.int64], Numbers, NDArray[np.int64], Numbers]) -> Numbers:
        row, down, column, right = place
        near: Numbers = (1 - down) * self.times[row, column] + down * self.times[row + 1, column]
        far: Numbers = (1 - down) * self.times[row, column + 1] + down * self.times[row + 1, column + 1]
        return (1 - right) * near + right * far

    def play(self, starts: Numbers) -> Numbers:
        """Steps of episodes from these positions, at rest, by the policy that is greedy in `times`: [episodes]."""
        position, velocity = starts.copy(), np.zeros_like(starts)
        steps, playing = np.zeros_like(starts), np.ones(starts.shape, bool)
        while playing.any():
            ways = [step(position, velocity, action) for action in range(3)]
            times = [np.where(top, 0.0, self._at(self._place(after, faster))) for after, faster, top in ways]
            best = np.argmin(times, axis=0)[np.newaxis]
            position, velocity, top = (
                np.take_along_axis(np.stack(part), best, 0)[0] for part in zip(*ways, strict=True)
            )
            steps += playing
            playing &= ~top & (steps < 200)
        return steps


def _between(share: Numbers, sides: int) -> tuple[NDArray[np.int64], Numbers]:
    place = np.clip(share, 0.0, 1.0) * sides
    lower = np.minimum(place.astype(np.int64), sides - 1)
    return lower, place - lower


def starts(episodes: int, seed: int) -> Numbers:
    """Positions in which the episodes of an evaluation begin, [episodes]; see `LANES`."""
    found, environment = np.empty(episodes), gymnasium.make("MountainCar-v0")
    for lane in range(min(episodes, LANES)):
        for episode in range(lane, episodes, LANES):
            observation, _ = environment.reset(seed=seed + lane if episode == lane else None)
            found[episode] = observation[0]
    environment.close()
    return found


def main(_: list[str]) -> int:
    """Prints the means."""
    grid = Grid(801, 501)
    drawn = np.random.default_rng(0).uniform(-0.6, -0.4, 20_000)
    for name, where in (("20,000 starts at random", drawn), ("the 100 starts that score", starts(100, SEED))):
        steps = grid.play(where)
        print(f"{name}: mean return {-steps.mean():.2f}, from {-steps.max():g} to {-steps.min():g}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
