"""Puts the arrays of a checkpoint into an agent: of a run that goes on, or is rolled back. Imported when one is."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from numpy.typing import NDArray

from agents.builder import LearningAgent
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records.checkpoint import Checkpoint, restore
from pipeline.records.counters import Counters

if TYPE_CHECKING:
    from pipeline.learner.learner import Learner

log = logging.getLogger(__name__)


def assign(variables: Mapping[str, tf.Variable], state: Mapping[str, NDArray[Any]]) -> None:
    """Gives variables their stored values, by name.

    Raises:
      UsageError: the agent has other variables; nothing has been changed.
    """
    problems = [f"it has no {name}, which this agent has" for name in variables if name not in state]
    problems += [f"it has {name}, which this agent does not have" for name in state if name not in variables]
    for name, value in state.items():
        if name in variables:
            stored, wanted = _form(value.shape, value.dtype), _form(variables[name].shape, variables[name].dtype)
            if stored != wanted:
                problems.append(f"its {name} is {stored}, and this agent's is {wanted}")
    if problems:
        raise UsageError(
            f"the checkpoint is of another agent: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + ": resume with the [agent] section and environment that the run was started with"
        )
    for name, variable in variables.items():
        variable.assign(state[name])


def roll_back(
    agent: LearningAgent,
    variables: Mapping[str, tf.Variable],
    state: Mapping[str, NDArray[Any]],
    learning_rate_factor: float,
) -> None:
    """`assign`, with the step size lowered and the count of gradient steps as it is.

    The count goes on: collectors and evaluator take newer weights by it, on-policy experience is matched by it, and the
    budget is of work done. The lowered step size is part of the agent's state: it is saved and resumed, and lowered
    further by another rollback to the same checkpoint.
    """
    taken, scale = agent.train_step_counter.numpy(), float(agent.learning_rate_scale.numpy())
    assign(variables, state)
    agent.train_step_counter.assign(taken)
    agent.learning_rate_scale.assign(scale * learning_rate_factor)


def roll_back_to_newest(
    experiment: Experiment, run: RunDirectory, learner: "Learner", counters: Counters, why: str
) -> bool:
    """Rolls a learner back to the newest checkpoint of its run that can be used, and counts that.

    Args:
      experiment: the run, which says what becomes of the learning rate.
      run: its directory.
      learner: whose state is replaced.
      counters: of the run.
      why: in words, for the log.

    Returns:
      Whether there was one. The first weights are no better place: what is learned from them led here.
    """

    def use(found: Checkpoint) -> None:
        factor = experiment.learner.rollback_learning_rate_factor
        roll_back(learner.agent, dict(learner.named_variables()), found.learner_state(), factor)
        if (support := counters.support) is not None:  # the checkpoint may be older
            learner.set_support(*support)

    good = restore(run.checkpoints, use)
    if good is None:
        return False
    counters.rollbacks += 1
    rate = float(learner.agent.learning_rate)
    log.warning("%s again and again: rolled back to %s, with a learning rate of %g", why, good.path, rate)
    return True


def _form(shape: Any, dtype: Any) -> str:
    return f"{tf.as_dtype(dtype).name} {list(shape)}"
