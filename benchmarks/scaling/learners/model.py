"""What a gradient step of several learners costs each of them: its share of the batch, and sums over the network.

Fixed costs are fitted to the smallest network measured and the costs of a number to the largest; others are predicted.
"""

from typing import NamedTuple

BYTES = 4
"""Of a number that travels."""
STATE = 4
"""Numbers of a state for each weight: the weight, Adam's two moments, the target network's."""


class Cost(NamedTuple):
    """Milliseconds of CPU, of each learner."""

    fixed: float
    of_peer: float
    """For each other learner: a ring of n passes everything on n - 1 times, twice."""
    of_million: float
    """Numbers that each sends."""

    def of(self, learners: int, numbers: float) -> float:
        """Of a sum of so many numbers over so many learners."""
        return self.fixed + self.of_peer * (learners - 1) + self.of_million * passed(learners, numbers) / 1e6


SUM = Cost(1.3, 0.5, 4.8)
"""Of the gradients, amid TensorFlow's loop, with what this loop takes beyond XLA's."""
MEAN = Cost(2.5, 0.5, 9.0)
"""Of whole states, after local steps, between XLA's loops."""


def passed(learners: int, numbers: float) -> float:
    """Numbers that each of n learners sends for a sum: all but its n-th part in each of a ring's two rounds."""
    return 2 * (learners - 1) / learners * numbers


def cpu(share: float, learners: int, local_steps: int, weights: float) -> float:
    """Milliseconds of CPU of each learner for a gradient step.

    Args:
      share: what a lone learner takes for a step with one learner's share of the batch.
      learners: n.
      local_steps: m.
      weights: of the network.
    """
    if local_steps == 1:
        return share + SUM.of(learners, weights)
    return share + MEAN.of(learners, STATE * weights) / local_steps


def sent(learners: int, local_steps: int, weights: float) -> float:
    """Bytes that each learner sends for a gradient step, without headers."""
    numbers = weights if local_steps == 1 else STATE * weights
    return BYTES * passed(learners, numbers) / local_steps


def on_link(sent_bytes: float, gbits: float) -> float:
    """Milliseconds of a step on a link, both ways at once; 0 without a limit."""
    return 8e3 * sent_bytes / (gbits * 1e9) if gbits else 0.0
