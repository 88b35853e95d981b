"""Actions drawn by a softmax of their scores. Pure NumPy."""

import numpy as np

from agents.exploration import Floats, Ints, Mask, greedy


def boltzmann(
    q_values: Floats,
    temperature: float,
    random: np.random.Generator,
    mask: Mask | None = None,
    sizes: tuple[int, ...] = (),
) -> Ints:
    """Draws in each lane an allowed action with probability softmax(Q / temperature); arguments as of `greedy`.

    Drawn by the Gumbel-max trick: argmax(Q / temperature + Gumbel noise) has that distribution.
    """
    noise = random.gumbel(size=q_values.shape)
    return greedy((q_values / temperature + noise).astype(np.float32), mask, sizes)
