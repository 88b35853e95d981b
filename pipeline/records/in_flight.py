"""How much a collector may have on its way to the replay: what it loses at most when it is killed."""

from pipeline.experiment.sections import Experiment

MOST_ITEMS = 48
"""So many of a writer are on their way at most: Reverb prints a warning from 50 on."""
BURST_ITEMS = 16
"""A writer creates items of one step in bursts of at least so many, larger ones in bursts of as many steps. Created one
by one, each wakes Reverb's writer thread and makes a gRPC message of its own: three times the CPU."""


def most_unconfirmed(experiment: Experiment) -> int:
    """Transitions that a collector's writer may have begun and the replay has not confirmed, at most."""
    lanes, groups = experiment.collect.lanes, experiment.collect.lanes // experiment.lanes_per_item
    items = MOST_ITEMS + 2 * BURST_ITEMS + groups
    steps = experiment.window + experiment.steps_per_item * experiment.agent.stride
    return items * experiment.transitions_per_item + steps * lanes
