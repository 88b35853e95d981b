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
        self._flat = tf.function(self._flatten, autograph=False)
        self._assign = tf.function(self._take, autograph=False)

    def __call__(self, batches: Any) -> CallResult:
        """Takes the steps of K batches, m at a time; the figures are over all learners, the rest is this one's."""
        count, results = tf.nest.flatten(batches)[-1].shape[0], []
        for first in range(0, count, self._steps):
            part = batches
            if count > self._steps:
                part = tf.nest.map_structure(lambda leaf, at=first: leaf[at : at + self._steps], batches)
                if first:
                    self._average(())
            results.append(self._call(part))
        # The figures travel with the last mean, each learner's in a place of its own: every sum waits for the network.
        own = np.stack([result.figures.numpy() for result in results])
        placed = np.zeros((self._team.size, *own.shape), np.float32)
        placed[self._team.cluster.index] = own
        figures = combined(np.reshape(self._average(placed.ravel()), placed.shape))
        written = tf.concat([r.priorities for r in results], 0) if results[0].priorities != () else ()
        return CallResult(tf.constant(figures), results[-1].td_errors, results[-1].q_values, written)

    def _average(self, more: Any) -> NDArray[np.float32]:
        """Takes the mean of all learners' states, and returns the sum of some numbers more: one vector travels."""
        flat = self._flat()
        numbers = flat.shape[0]
        summed = self._team.sum(tf.concat([flat, more], 0) if len(more) else flat)
        self._assign(summed[:numbers])
        return np.asarray(summed[numbers:]) if len(more) else np.zeros(0, np.float32)

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
