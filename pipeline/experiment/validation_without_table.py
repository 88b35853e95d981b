"""Checks of a config whose experience is not in a table: on-policy kinds have a queue, offline runs a dataset."""

from pipeline.experiment.sections import Experiment
from pipeline.experiment.validation import Checks


def of_dataset(experiment: Experiment) -> Checks:
    """What a dataset asks of the other fields."""
    agent, stop = experiment.agent, experiment.stop
    kind = f"agent.kind={agent.kind!r}"
    return [
        (
            agent.on_policy,
            f"{kind} learns from what its present policy did, and a dataset is of others: choose another kind, or set "
            "offline.dataset=''",
        ),
        (
            not stop.gradient_steps and not stop.seconds,
            "a run from offline.dataset takes no environment steps to stop at: set stop.gradient_steps or stop.seconds",
        ),
        (
            getattr(agent, "stored_state", False),
            "agent.stored_state=true would start sequences from states of another run's network: set "
            "agent.stored_state=false",
        ),
    ]


def of_queue(experiment: Experiment) -> Checks:
    """What an on-policy kind asks of the other fields."""
    agent, exploration, learner = experiment.agent, experiment.exploration, experiment.learner
    sequences = experiment.collect.lanes * experiment.collect.collectors
    kind = f"agent.kind={agent.kind!r}"
    budget, steps = experiment.stop.environment_steps, agent.window_length - 1
    return [
        (
            experiment.replay.prioritized,
            f"{kind} learns from every sequence once, in turn: set replay.prioritized=false",
        ),
        (
            agent.learns_policy and (exploration.strategy, exploration.temperature) != ("boltzmann", 1.0),
            f"{kind} learns from what its policy itself draws: set exploration.strategy='boltzmann' and "
            "exploration.temperature=1.0",
        ),
        (
            learner.steps_per_call != 1,
            f"{kind} acts with new weights after every gradient step: set learner.steps_per_call=1",
        ),
        (
            experiment.collectors != experiment.collect.collectors,
            f"{kind} waits for a sequence of every collector: set collect.max_collectors=0",
        ),
        (
            learner.batch_size != sequences,
            f"{kind} learns from one sequence of each lane at once: set learner.batch_size={sequences}, collect.lanes "
            "times collect.collectors",
        ),
        (
            experiment.replay.samples_per_insert != 1.0,
            f"{kind} learns from every sequence once: set replay.samples_per_insert=1.0",
        ),
        (
            0 < budget < sequences * steps,
            f"stop.environment_steps={budget} is below the {sequences * steps} steps of the first batch, without which "
            f"nothing is learned: raise it, or lower collect.lanes",
        ),
        (
            learner.batch_size % agent.batch_parts != 0,
            f"learner.batch_size={learner.batch_size} sequences do not divide into agent.minibatches="
            f"{getattr(agent, 'minibatches', 1)}: change agent.minibatches or collect.lanes",
        ),
    ]
