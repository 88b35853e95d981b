"""Seeds: one number for each purpose of a run, all from the seed of its config."""

import numpy as np

from pipeline.experiment.sections import Experiment


def seed_of(experiment: Experiment, *stream: int) -> int:
    """A seed for one purpose, independent of those for other purposes.

    Args:
      experiment: the run.
      *stream: numbers that name the purpose: 0 the network's first weights, 2 a collector's environments, 4 a
        collector's bonus for novelty; after them come the collector's index and how often it was started before.
    """
    return int(np.random.SeedSequence([experiment.seed, *stream]).generate_state(1)[0] >> 1)
