"""Learners that take some gradient steps each by itself, and then all take the mean of their states (local SGD)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipeline.learner.gradient_loop import CallResult
from pipeline.learner.workers.collectives import Team

_FIGURES, _LARGEST = 5, 3
"""Of a call's figures, which one is the largest Q-value; the others are means."""
_CHUNKS = 4
"""Numbers of 16 bits that an int64 travels as: a float32 holds each exactly."""


class LocalSteps:
    """Takes the mean of several learners' states after every m gradient steps.

    With w_i the state of learner i of n after its m steps, each goes on from (w_1 + ... + w_n) / n (Stich 2019, "Local
    SGD Converges Fast and Communicates Little", algorithm 1, which has the mean of the weights). Here the optimizer's
    moments, the target network and the normalisation are averaged, too, so that all learners have one state. Counts,
    which skipped steps may make differ, are the chief's.

    Args:
      team: all learners.
      strategy: of the replicas of this process.
      variables: all that training changes, on these replicas.
      call: takes m steps of this learner.
      steps: m.
    """

    def __init__(
        self,
        team: Team,
        strategy: tf.distribute.Strategy,
        variables: Sequence[tf.Variable],
        call: Callable[[Any], CallResult],
        steps: int,
    ) -> None:
        self._team, self._strategy, self._variables = team, strategy, variables
        self._call, self._steps = call, steps
        # All parts and means of a call are one program: a mean that Python makes takes several times as long.
        self._program = tf.function(self._steps_of_call, autograph=False)

    def __call__(self, batches: Any) -> CallResult:
        """Takes the steps of K batches, m at a time; the figures are over all learners, the rest is this one's."""
        figures, *others = self._program(*tf.nest.flatten(batches))
        return CallResult(tf.constant(combined(figures.numpy())), *others)

    def _steps_of_call(self, *leaves: tf.Tensor) -> CallResult:
        """As `__call__`, with the figures as each learner has them, float32 [learners, parts, 5 + m]."""
        steps, batch = self._steps, leaves[-1].shape[1]
        count = leaves[-1].shape[0] // steps
        parts = [tf.reshape(leaf, (count, steps, *leaf.shape[1:])) for leaf in leaves]
        own, is_prioritized = _FIGURES + steps, False
        is_mine = tf.constant([[index == self._team.cluster.index] for index in range(self._team.size)])

        def take(index: tf.Tensor, figures: Any, _: tf.Tensor, __: tf.Tensor, priorities: Any) -> Any:
            nonlocal is_prioritized
            result = self._call([tf.gather(part, index) for part in parts])
            # Figures travel with the mean, each learner's in a place of its own: every sum waits for the network.
            mine = tf.where(is_mine, result.figures, 0.0)
            summed = self._team.sum(tf.concat([self._flatten(), tf.reshape(mine, [-1])], 0))
            numbers = summed.shape[0] - self._team.size * own
            self._take(summed[:numbers])
            if is_prioritized := not isinstance(result.priorities, tuple):
                priorities = priorities.write(index, result.priorities)
            everyones = tf.reshape(summed[numbers:], (self._team.size, own))
            return index + 1, figures.write(index, everyones), result.td_errors, result.q_values, priorities

        arrays = [
            tf.TensorArray(tf.float32, count, element_shape=shape) for shape in ((self._team.size, own), (steps, batch))
        ]
        state: Any = (tf.constant(0), arrays[0], tf.zeros((batch,)), tf.zeros((batch,)), arrays[1])
        done = tf.while_loop(lambda index, *_: index < count, take, state, maximum_iterations=count)
        _, figures, td_errors, q_values, priorities = done
        of_learners = tf.transpose(figures.stack(), (1, 0, 2))
        return CallResult(of_learners, td_errors, q_values, priorities.concat() if is_prioritized else ())

    def _flatten(self) -> tf.Tensor:
        """This learner's share of the sum, float32 [numbers]: floats divided by n, counts as the chief has them."""
        parts = []
        for variable in self._local():
            if variable.dtype.is_floating:
                parts.append(tf.reshape(tf.cast(variable, tf.float32), [-1]) / self._team.size)
            else:
                chunks = tf.bitcast(tf.reshape(tf.cast(variable, tf.int64), [-1]), tf.uint16)
                is_chief = 1.0 if self._team.cluster.is_chief else 0.0
                parts.append(tf.reshape(tf.cast(chunks, tf.float32), [-1]) * is_chief)
        return tf.concat(parts, 0)

    def _take(self, summed: tf.Tensor) -> None:
        sizes = [v.shape.num_elements() * (1 if v.dtype.is_floating else _CHUNKS) for v in self._variables]
        for variable, part in zip(self._variables, tf.split(summed, sizes), strict=True):
            if variable.dtype.is_floating:
                value = tf.cast(part, variable.dtype)
            else:
                chunks = tf.cast(tf.reshape(part, (-1, _CHUNKS)), tf.uint16)
                value = tf.cast(tf.bitcast(chunks, tf.int64), variable.dtype)
            variable.assign(tf.reshape(value, variable.shape))

    def _local(self) -> list[tf.Variable]:
        return [self._strategy.experimental_local_results(variable)[0] for variable in self._variables]


def combined(figures: NDArray[np.float32]) -> NDArray[np.float32]:
    """The figures of a call, float32 [5 + K] as in `CallResult`, of several learners that took them by parts.

    Means are over the steps that were applied, by whichever learner; a step counts as applied if all learners have.

    Args:
      figures: float32 [learners, parts, 5 + m], of the m steps of each part.
    """
    applied = figures[..., _FIGURES:]
    weights = applied.sum(-1, keepdims=True)
    means = (figures[..., :_FIGURES] * weights).sum((0, 1)) / max(float(weights.sum()), 1.0)
    means[_LARGEST] = figures[..., _LARGEST].max()
    return np.asarray(np.concatenate([means, applied.min(0).ravel()]), np.float32)
