"""Checks of a config across its fields: values that fit their types but not each other. No TensorFlow."""

from collections.abc import Iterator

from pipeline.experiment.sections import Experiment, OfflineConfig

Checks = list[tuple[bool, str]]
"""Whether something is wrong, and the sentence that says what."""


def problems(experiment: Experiment) -> Iterator[str]:
    """What is wrong with an experiment, each in a sentence that says what would do."""
    of_all = _of_all(experiment)
    if experiment.exploration.epsilon_schedule:
        from agents.extensions import wrong_with_schedule

        of_all.append((bool(sentence := wrong_with_schedule(experiment.exploration)), sentence))
    if experiment.offline != OfflineConfig() or getattr(experiment.agent, "margin", False):
        from pipeline.experiment.validation_without_table import with_dataset

        checks = with_dataset(experiment, of_all, _of_items, _of_replay)
    elif experiment.agent.on_policy:
        from pipeline.experiment.validation_without_table import of_queue

        checks = of_queue(experiment) + _of_items(experiment) + of_all
    else:
        checks = _of_items(experiment) + of_all + _of_replay(experiment)
    return (sentence for is_wrong, sentence in checks if is_wrong)


def _of_items(experiment: Experiment) -> Checks:
    collect, learner = experiment.collect, experiment.learner
    lanes, drawn = experiment.lanes_per_item, learner.batch_size * learner.steps_per_call
    return [
        (collect.lanes % lanes != 0, f"replay.lanes_per_item={lanes} does not divide collect.lanes={collect.lanes}"),
        (
            drawn % experiment.windows_per_item != 0,
            f"learner.batch_size * learner.steps_per_call = {drawn} windows are not whole {_items(experiment)}: "
            f"change learner.steps_per_call, replay.lanes_per_item or replay.steps_per_item",
        ),
        (
            experiment.agent.stride > 1 and experiment.steps_per_item > 1,
            f"sequences that begin every {experiment.agent.stride} steps have many steps each: set "
            "replay.steps_per_item=1",
        ),
    ]


def _of_all(experiment: Experiment) -> Checks:
    replay, agent, collect, explores = experiment.replay, experiment.agent, experiment.collect, experiment.exploration
    rungs = {"collector": 1, "lane": collect.lanes, "episode": 0}  # of each collector's epsilons; 0 for any number
    stop = experiment.stop
    return [
        (
            agent.offline_only and not experiment.is_offline,
            f"agent.kind={agent.kind!r} learns from a dataset alone: set offline.dataset to the directory of a run",
        ),
        (
            replay.shards > 0 and experiment.is_offline,
            "a dataset is read in the learner's process: set replay.shards=0",
        ),
        (
            stop.target not in ("return", *collect.info_keys),
            f"stop.target={stop.target!r} is none of collect.info_keys={list(collect.info_keys)}: add it there",
        ),
        (
            stop.target != "return" and stop.target_return is None,
            f"stop.target={stop.target!r}: set stop.target_return to the value of it at which the run ends",
        ),
        (
            bool({"", "return"} & set(collect.info_keys)),
            "collect.info_keys: a key is neither empty nor 'return', which is what rewards add up to",
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
            experiment.learner.precision != "float32" and not hasattr(agent, "hidden_units"),
            f"learner.precision='bfloat16' is of hidden layers, and agent.kind={agent.kind!r} has none",
        ),
        (
            explores.count_bonus > 0.0 and explores.prediction_bonus > 0.0,
            "exploration.count_bonus and exploration.prediction_bonus both pay for what is new: set one of them to 0",
        ),
        (
            explores.ladder_alpha > 0.0 and experiment.collectors * rungs[explores.ladder_by] == 1,
            f"exploration.ladder_alpha spreads the epsilons of several {explores.ladder_by}s, and there is one: raise "
            f"collect.{explores.ladder_by}s, or set exploration.ladder_by='episode' or ladder_alpha=0",
        ),
        (
            explores.ladder_alpha == 0.0 and explores.ladder_by != "collector",
            f"exploration.ladder_by={explores.ladder_by!r} spreads nothing without exploration.ladder_alpha: give both",
        ),
        (
            explores.strategy == "greedy" and not (getattr(agent, "noisy", 0) or hasattr(agent, "heads")),
            "exploration.strategy='greedy' explores by noise or heads: set agent.noisy=true, or agent.kind='boot_dqn'",
        ),
        (
            not experiment.environment.id and ":" not in experiment.environment.import_path,
            "environment.id is empty: give a gymnasium id, or environment.import_path='module:Class'",
        ),
    ]


def _of_replay(experiment: Experiment) -> Checks:
    replay, learner, windows = experiment.replay, experiment.learner, experiment.windows_per_item
    budget = experiment.stop.environment_steps
    item = _items(experiment)
    return [
        (
            learner.batch_size > replay.capacity,
            f"learner.batch_size={learner.batch_size} is larger than replay.capacity={replay.capacity}",
        ),
        (
            -(-replay.min_size // windows) > replay.capacity // windows,
            f"replay.min_size={replay.min_size} is above replay.capacity={replay.capacity}, in whole {item}: "
            "it would never be reached",
        ),
        (
            replay.capacity < windows,
            f"replay.capacity={replay.capacity} does not hold one of the {item}",
        ),
        (
            experiment.agent.priority_unit != "return" and replay.initial_priority == "td_error",
            f"replay.initial_priority='td_error' is in units of return, and priorities of agent.kind="
            f"{experiment.agent.kind!r} are not: set 'largest'",
        ),
        (
            replay.initial_priority == "td_error" and experiment.agent.targets_move,
            "replay.initial_priority='td_error' is computed by collectors, for one n and one discount: set 'largest', "
            "or leave agent.n_step_schedule and agent.discount_schedule out",
        ),
        (
            0 < budget < replay.min_size * experiment.agent.stride,
            f"stop.environment_steps={budget} is below the {replay.min_size * experiment.agent.stride} steps of "
            f"replay.min_size={replay.min_size}, without which nothing is learned: raise it, or lower replay.min_size",
        ),
    ]


def _items(experiment: Experiment) -> str:
    lanes, steps = experiment.lanes_per_item, experiment.steps_per_item
    return f"items of {lanes} lanes" + (f" and {steps} steps" if steps > 1 else "")
