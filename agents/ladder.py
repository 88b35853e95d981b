"""Epsilons spread over lanes or episodes, after Ape-X's over actors. Pure NumPy."""

import numpy as np
from numpy.typing import NDArray

from agents.exploration import ExplorationConfig


class Ladder:
    """Gives each lane of a collector the epsilon of its rung: epsilon^(1 + rung * alpha).

    It is Ape-X's (Horgan et al. 2018, section 4.1), with the rungs i / (N - 1) of the i-th of all N lanes in the place
    of actors, or rungs drawn uniformly from [0, 1] anew for each episode of a lane.

    Args:
      config: of the run.
      index: which of the collectors this is, from 0.
      collectors: of the run.
      lanes: of each.
    """

    def __init__(self, config: ExplorationConfig, index: int, collectors: int, lanes: int) -> None:
        self._alpha, self._by_episode = config.ladder_alpha, config.ladder_by == "episode"
        first, last = index * lanes, max(1, collectors * lanes - 1)
        self._rungs: NDArray[np.float64] = np.minimum(1.0, np.arange(first, first + lanes) / last)

    def __call__(self, epsilon: float, begins: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.float64]:
        """Each lane's probability of a uniform action, [lanes], where the lowest rung has `epsilon`.

        Args:
          epsilon: of the schedule.
          begins: bool [lanes], where an episode begins.
          random: draws the rungs of episodes.
        """
        if self._by_episode:
            self._rungs = np.where(begins, random.random(len(begins)), self._rungs)
        epsilons: NDArray[np.float64] = epsilon ** (1.0 + self._rungs * self._alpha)
        return epsilons
