"""What a run has not come to - episodes that end, gradient steps, evaluations - and what to set. No TensorFlow."""

import math
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation
from pipeline.records.counters import ENDLESS_STEPS, Counters

_SET_LIMIT = "where the task has no end of its own, set environment.max_episode_steps"


MANY_EPISODES = 20
"""So many of training should have had each of `collect.info_keys` once."""


def endless(
    experiment: Experiment,
    counters: Counters,
    evaluation: Evaluation | None,
    info: Collection[str] | None = None,
) -> list[str]:
    """Warnings about episodes that do not end, or lack what they should end with, in words that stay while they hold.

    Args:
      experiment: the run.
      counters: of the run.
      evaluation: the newest.
      info: those of `collect.info_keys` that training episodes have had; None while few have ended.
    """
    lanes = experiment.collect.lanes * max(1, experiment.collectors)
    steps, found = ENDLESS_STEPS * lanes, []
    if not counters.episodes and counters.environment_steps >= steps:
        found.append(f"no episode has ended in {steps:,} environment steps, {ENDLESS_STEPS:,} a lane: {_SET_LIMIT}")
    if evaluation is not None and evaluation.unfinished and evaluation.is_whole:
        found.append(
            f"episodes of the newest evaluation had not ended after {experiment.evaluation.max_episode_steps:,} steps, "
            f"and are scored as they stood: {_SET_LIMIT}, or raise evaluation.max_episode_steps"
        )
    if info is not None:
        found += [
            f"collect.info_keys: no training episode has ended with a number info[{key!r}] or info['episode'][{key!r}]"
            for key in experiment.collect.info_keys
            if key not in info
        ]
    return found


def shortfalls(experiment: Experiment, counters: Counters, evaluation: Evaluation | None) -> Iterator[str]:
    """What a run that ends has not come to, each in a sentence."""
    collected, lacks = counters.environment_steps, []
    if not counters.gradient_steps:
        lacks.append("nothing was learned: no gradient step was taken")
        if experiment.agent.on_policy:
            lacks.append("no batch was complete: give the run more time or steps, or lower agent.rollout")
        elif not experiment.is_offline and counters.windows < experiment.replay.min_size:
            wanted = f"replay.min_size={experiment.replay.min_size:,}"
            lacks.append(f"{counters.windows:,} windows were stored, and {wanted}: give it more time, or lower that")
        else:
            lacks.append("raise the budgets of [stop]")
        yield "; ".join(lacks)
        return
    if evaluation is None:
        yield (
            "there has been no evaluation; policies/latest has the last weights: logs/evaluator.log says what happened"
            if experiment.evaluates
            else "no training episode has ended, so nothing says how good the policy in policies/latest is"
        )
    elif not evaluation.is_whole:
        yield (
            f"the last evaluation was cut short by the run's end: of {evaluation.episodes} episodes, "
            f"{evaluation.unfinished} had not ended and are scored as they stood"
            if experiment.evaluates
            else f"the policy is judged by {evaluation.episodes} training episodes alone: no more have ended"
        )
    if evaluation is not None and counters.dataset_returns and experiment.evaluates:
        yield from _worse_than_data(experiment, counters, evaluation)
    if collected and not counters.episodes:
        yield f"no episode has ended in {collected:,} environment steps: {_SET_LIMIT}"
    elif evaluation is not None and evaluation.unfinished and evaluation.is_whole:
        yield endless(experiment, counters, evaluation)[-1]


def _worse_than_data(experiment: Experiment, counters: Counters, evaluation: Evaluation) -> Iterator[str]:
    """That a policy is worse than those that made its dataset, by more than the error of its own mean."""
    data, own = counters.dataset_returns, evaluation.mean_return
    error = evaluation.std_return / math.sqrt(max(1, evaluation.episodes))
    if not evaluation.is_whole or own >= data["mean"] - error:
        return
    text = f"the policy is worse than its data: it returns {own:,.4g}, the dataset's episodes {data['mean']:,.4g}"
    best = counters.best
    if best is not None and best.mean_return >= data["mean"]:
        text += f" (policies/best {best.mean_return:,.4g}, after {best.gradient_steps:,} gradient steps)"
    yield f"{text}: {_remedy(experiment.agent)}"


def _remedy(agent: Any) -> str:
    """What keeps an agent to what its dataset does."""
    alpha = getattr(agent, "cql_alpha", None)
    if agent.kind == "behaviour_cloning":
        return (
            "raise stop.gradient_steps; to leave out what was bad in the data, agent.kind='iql' or cql_alpha of 'dqn'"
        )
    if agent.kind == "iql":
        return "raise stop.gradient_steps, lower agent.expectile or agent.inverse_temperature"
    if alpha is None:
        return "agent.kind='dqn' with agent.cql_alpha, or 'iql', keeps to what the data does"
    return f"set agent.cql_alpha={2 * alpha or 1.0:g}, or raise stop.gradient_steps"
