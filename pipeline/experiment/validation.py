"""What fits its type in an experiment but not the rest of it. No TensorFlow here."""

from collections.abc import Iterator

from pipeline.experiment.sections import Experiment

_Checks = list[tuple[bool, str]]


def problems(experiment: Experiment) -> Iterator[str]:
    """What is wrong with an experiment, each in a sentence that says what would do."""
    of_all = _of_all(experiment)
    if experiment.is_offline:
        checks = _of_dataset(experiment) + of_all
    elif experiment.agent.on_policy:
        checks = _of_queue(experiment) + _of_items(experiment) + of_all
    else:
        checks = _of_items(experiment) + of_all + _of_replay(experiment)
    return (sentence for is_wrong, sentence in checks if is_wrong)


def _of_items(experiment: Experiment) -> _Checks:
    collect, learner = experiment.collect, experiment.learner
    lanes, drawn = experiment.lanes_per_item, learner.batch_size * learner.steps_per_call
    return [
        (collect.lanes % lanes != 0, f"replay.lanes_per_item={lanes} does not divide collect.lanes={collect.lanes}"),
        (
            drawn % experiment.transitions_per_item != 0,
            f"learner.batch_size * learner.steps_per_call = {drawn} transitions are not whole {_items(experiment)}: "
            f"change learner.steps_per_call, replay.lanes_per_item or replay.steps_per_item",
        ),
        (
            experiment.agent.stride > 1 and experiment.steps_per_item > 1,
            f"sequences that begin every {experiment.agent.stride} steps have many steps each: set "
            "replay.steps_per_item=1",
        ),
    ]


def _of_all(experiment: Experiment) -> _Checks:
    replay, agent, collect = experiment.replay, experiment.agent, experiment.collect
    return [
        (
            agent.offline_only and not experiment.is_offline,
            f"agent.kind={agent.kind!r} imitates what a dataset holds: set offline.dataset to the directory of a run",
        ),
        (
            replay.shards > 0 and experiment.is_offline,
            "a dataset is read in the learner's process: set replay.shards=0",
        ),
        (
            0 < collect.max_collectors < collect.collectors,
            f"collect.max_collectors={collect.max_collectors} is below collect.collectors={collect.collectors}: raise "
            "it, or set it to 0",
        ),
        (
            replay.shards > 1 and agent.on_policy,
            f"agent.kind={agent.kind!r} learns from one queue: set replay.shards=1",
        ),
        (
            replay.weights_port > 0 and replay.weights_port == replay.port,
            f"replay.weights_port={replay.weights_port} is replay.port: choose another",
        ),
        (
            replay.initial_priority == "td_error" and not replay.prioritized,
            "replay.initial_priority='td_error' has no effect without replay.prioritized=true",
        ),
        (
            experiment.exploration.strategy == "greedy" and not getattr(experiment.agent, "noisy", False),
            "exploration.strategy='greedy' explores by the noise of a network: set agent.noisy=true",
        ),
        (
            not experiment.environment.id and ":" not in experiment.environment.import_path,
            "environment.id is empty: give a gymnasium id, or environment.import_path='module:Class'",
        ),
    ]


def _of_replay(experiment: Experiment) -> _Checks:
    replay, learner, transitions = experiment.replay, experiment.learner, experiment.transitions_per_item
    item = _items(experiment)
    return [
        (
            learner.batch_size > replay.capacity,
            f"learner.batch_size={learner.batch_size} is larger than replay.capacity={replay.capacity}",
        ),
        (
            -(-replay.min_size // transitions) > replay.capacity // transitions,
            f"replay.min_size={replay.min_size} is above replay.capacity={replay.capacity}, in whole {item}: "
            "it would never be reached",
        ),
        (
            replay.capacity < transitions,
            f"replay.capacity={replay.capacity} does not hold one of the {item}",
        ),
        (
            experiment.agent.state_units > 0 and replay.initial_priority == "td_error",
            "replay.initial_priority='td_error' judges transitions, and a recurrent agent learns from sequences: set "
            "'largest'",
        ),
    ]


def _of_dataset(experiment: Experiment) -> _Checks:
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


def _of_queue(experiment: Experiment) -> _Checks:
    agent, exploration, learner = experiment.agent, experiment.exploration, experiment.learner
    sequences = experiment.collect.lanes * experiment.collect.collectors
    kind = f"agent.kind={agent.kind!r}"
    return [
        (
            experiment.replay.prioritized,
            f"{kind} learns from every sequence once, in turn: set replay.prioritized=false",
        ),
        (
            exploration.strategy != "boltzmann" or exploration.temperature != 1.0,
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
            learner.batch_size % agent.batch_parts != 0,
            f"learner.batch_size={learner.batch_size} sequences do not divide into agent.minibatches="
            f"{agent.batch_parts}: change agent.minibatches or collect.lanes",
        ),
    ]


def _items(experiment: Experiment) -> str:
    lanes, steps = experiment.lanes_per_item, experiment.steps_per_item
    return f"items of {lanes} lanes" + (f" and {steps} steps" if steps > 1 else "")
