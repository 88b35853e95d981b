"""Checks that few configs need: of experience that is in no table (on-policy kinds have a queue, offline runs a
dataset), and of batches that are learned from in parts."""

from collections.abc import Callable

import msgspec

from pipeline import UsageError
from pipeline.experiment.sections import Experiment, OfflineConfig
from pipeline.experiment.validation import Checks


def windows_of(share: float, batch_size: int) -> int:
    """Windows of a batch that are of the dataset: its share, rounded to whole windows."""
    return int(share * batch_size + 0.5)


def collected(experiment: Experiment) -> Experiment:
    """See `Experiment.collected`."""
    whole, replay = experiment.learner.batch_size, experiment.replay
    drawn = whole - windows_of(experiment.offline.least_share, whole)
    return msgspec.structs.replace(
        experiment,
        offline=OfflineConfig(),
        learner=msgspec.structs.replace(experiment.learner, batch_size=drawn),
        replay=msgspec.structs.replace(replay, samples_per_insert=replay.samples_per_insert * drawn / whole),
    )


def with_dataset(
    experiment: Experiment,
    of_all: Checks,
    of_items: Callable[[Experiment], Checks],
    of_replay: Callable[[Experiment], Checks],
) -> Checks:
    """Checks of an experiment with a dataset, or with fields that say something of one.

    Args:
      experiment: whose agent may learn from demonstrations.
      of_all: checks of every experiment.
      of_items: checks of those that have a table.
      of_replay: likewise.
    """
    if experiment.is_offline:
        return of_dataset(experiment) + of_all
    if experiment.mixes:
        return of_share(experiment, of_all, of_items, of_replay)
    if experiment.offline != OfflineConfig():
        return [(True, "offline.share is the share of a dataset in each batch: set offline.dataset, too")]
    return [
        (True, "agent.margin is of demonstrated actions: set offline.dataset to what demonstrates them, or margin=0")
    ]


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
            experiment.collect.inference != "local",
            "a run from offline.dataset has no collectors whose actions a server could compute: set "
            "collect.inference='local'",
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


def of_share(
    experiment: Experiment,
    of_all: Checks,
    of_items: Callable[[Experiment], Checks],
    of_replay: Callable[[Experiment], Checks],
) -> Checks:
    """What a dataset beside collectors asks of the other fields; see `with_dataset`."""
    agent, offline, whole = experiment.agent, experiment.offline, experiment.learner.batch_size
    kind = f"agent.kind={agent.kind!r}"
    largest = max(offline.share, offline.share_final) if offline.share_decay_steps else offline.share
    checks: Checks = [
        (
            agent.on_policy,
            f"{kind} learns from what its present policy did, and a dataset is of others: choose another kind, or set "
            "offline.dataset=''",
        ),
        (agent.offline_only, f"{kind} learns from a dataset alone: set offline.share=1.0"),
        (
            getattr(agent, "stored_state", False),
            "agent.stored_state=true would start sequences from states of another run's network: set "
            "agent.stored_state=false",
        ),
        (
            offline.share_final != 1.0 and not offline.share_decay_steps,
            "offline.share_final is where the share goes in so many gradient steps: set offline.share_decay_steps, too",
        ),
        (
            windows_of(largest, whole) == 0,
            f"offline.share={offline.share} is no window of learner.batch_size={whole}: raise one of them",
        ),
        (
            windows_of(offline.least_share, whole) == whole,
            f"offline.share={offline.share} leaves no window of learner.batch_size={whole} to collectors: lower it, or "
            "set it to 1.0",
        ),
    ]
    if any(is_wrong for is_wrong, _ in checks):
        return checks
    part = experiment.collected
    return [
        *checks,
        (
            experiment.replay.prioritized and part.windows_per_item > 1,
            "offline.share draws single windows by priority: leave replay.lanes_per_item and replay.steps_per_item out",
        ),
        (
            getattr(agent, "demonstrates", False) and (agent.redo_period or agent.reset_period) > 0,  # type: ignore[attr-defined]
            "layers are not renewed beside a margin for demonstrations: set agent.redo_period=0 and "
            "agent.reset_period=0",
        ),
        *of_items(part),
        *of_all,
        *of_replay(part),
    ]


def of_queue(experiment: Experiment) -> Checks:
    """What an on-policy kind asks of the other fields."""
    agent, exploration, learner = experiment.agent, experiment.exploration, experiment.learner
    sequences = experiment.collect.lanes * experiment.collect.collectors
    kind = f"agent.kind={agent.kind!r}"
    budget, steps = experiment.stop.environment_steps, agent.window_length - 1
    return [
        (
            experiment.collect.inference != "local",
            f"{kind} keeps its weights for a whole sequence, and an acting server has the newest: set "
            "collect.inference='local'",
        ),
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


def refuse_uneven(experiment: Experiment, replicas: int) -> None:
    """Refuses a batch that does not divide among so many replicas, or their shares into minibatches.

    Raises:
      UsageError: says which.
    """
    if experiment.learner.batch_size % replicas:
        raise UsageError(
            f"learner.batch_size={experiment.learner.batch_size} does not divide among {replicas} replicas"
        )
    if (share := experiment.learner.batch_size // replicas) % experiment.agent.batch_parts:
        raise UsageError(
            f"agent.minibatches={getattr(experiment.agent, 'minibatches', 1)} does not divide the {share} sequences of "
            f"each of {replicas} replicas: change it, collect.lanes or collect.collectors"
        )
