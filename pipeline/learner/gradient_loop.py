"""The gradient steps of one call of the learner as one TensorFlow program."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
from tf_agents.trajectories import StepType

from agents.builder import LearningAgent
from pipeline.experiment.sections import Experiment


class Workers(Protocol):
    """Processes that take gradient steps together."""

    @property
    def size(self) -> int:
        """Workers."""

    def everyones(self, value: tf.Tensor) -> tf.Tensor:
        """All workers' values float32 [...] by index, [workers, ...]; for a `tf.function`, outside of replicas."""


class CallResult(NamedTuple):
    """What the gradient steps of one call give."""

    figures: tf.Tensor
    """float32 [5 + K], the same on all workers: mean loss, mean absolute TD error, mean and largest Q-value and mean
    gradient norm of the steps that were applied, and behind them for each step 1 if it was, else 0."""
    td_errors: tf.Tensor
    """float32 [B], of the last step's windows (`LossExtra.td_error`)."""
    q_values: tf.Tensor
    """float32 [B], of the same."""
    priorities: Any
    """float32 [K, B], of all steps' windows; empty of a uniform replay."""


class _StepResult(NamedTuple):
    """What one gradient step gives on one replica; with all replicas' beside each other, one dimension more."""

    loss: tf.Tensor
    td_error: tf.Tensor
    q: tf.Tensor
    has_q: tf.Tensor
    q_max: tf.Tensor
    gradient_norm: tf.Tensor
    applied: tf.Tensor
    priority: Any
    """Empty of a uniform replay."""


class GradientLoop:
    """K gradient steps on the replicas of this process, and of all other workers' where there are some.

    Args:
      experiment: with this worker's share of the batch.
      agent: that takes the steps.
      strategy: in whose scope the agent was built.
      workers: that take them together; None takes them alone.
      zeros: a trajectory [K, B, T, ...] and relative probabilities [K, B], of the shapes and dtypes to come.
      compiled: by XLA; it takes one replica.
      unpack: makes trajectories [K, B, T, ...] of what `zeros` has in their place, or with a position that of its
        batch, [B, T, ...]; None where `zeros` has trajectories.
    """

    def __init__(
        self,
        experiment: Experiment,
        agent: LearningAgent,
        strategy: tf.distribute.Strategy,
        workers: Workers | None,
        zeros: Any,
        compiled: bool,
        unpack: Callable[..., Any] | None = None,
    ) -> None:
        self._learner, self._is_prioritized = experiment.learner, experiment.replay.prioritized
        self._learned_frames = experiment.agent.learned_frames
        self._agent, self._strategy, self._workers, self._unpack = agent, strategy, workers, unpack
        self._replay, self._zeros, self._compiled = experiment.replay, zeros, compiled
        self._replicas = strategy.num_replicas_in_sync // (workers.size if workers else 1)  # of this process
        # Nothing here is Python control flow on tensors: without autograph's rewriting, tracing is twice as fast.
        # A concrete function of flat tensors is called in half the time: no structure is matched against a signature.
        flat = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(zeros)]
        function = tf.function(self._steps, jit_compile=compiled, autograph=False)
        self._traced = function.get_concrete_function(*flat)

    def __call__(self, batches: Any) -> CallResult:
        """Takes the steps on batches of the form of `zeros`."""
        result: CallResult = self._traced(*tf.nest.flatten(batches))
        return result

    def _steps(self, *leaves: tf.Tensor) -> CallResult:
        batches, workers = tf.nest.pack_sequence_as(self._zeros, leaves), self._workers
        if workers and self._is_prioritized:  # once a call, as in every step workers would wait for each other
            from agents import importance

            trajectories = self._unpack(batches[0]) if self._unpack else batches[0]
            smallest = importance.smallest_learned(batches[1], self._is_learned(trajectories))
            batches = *batches, tf.reduce_min(workers.everyones(smallest), axis=0)
        zero, count = tf.zeros(()), self._learner.steps_per_call
        totals: Any = zero, zero, zero, zero, zero, tf.constant(-np.inf)
        flags, shape = tf.TensorArray(tf.float32, count, element_shape=()), (self._learner.batch_size,)
        priorities = [tf.TensorArray(tf.float32, count, element_shape=shape)] if self._is_prioritized else []
        newest = tf.zeros(shape), tf.zeros(shape)
        state: Any = (tf.constant(0), totals, flags, newest, batches, priorities)
        state = tf.while_loop(lambda k, *_: k < count, self._step, state, maximum_iterations=count)
        _, totals, flags, newest, _, priorities = state
        if workers:
            of_workers = tf.unstack(workers.everyones(tf.stack(totals)), axis=1)
            combined = (*[tf.reduce_sum] * 3, *[tf.reduce_mean] * 2, tf.reduce_max)
            totals = [combine(values) for combine, values in zip(combined, of_workers, strict=True)]
        applied = flags.stack()
        number = tf.maximum(tf.reduce_sum(applied), 1.0)
        q_mean = totals[1] / tf.maximum(totals[2], 1.0)
        loss, td_error, norm = totals[0] / number, totals[3] / number, totals[4] / number
        q_max = tf.where(tf.math.is_finite(totals[-1]), totals[-1], 0.0)
        figures = tf.stack([loss, td_error, q_mean, q_max, norm])
        written = priorities[0].stack() if priorities else ()
        return CallResult(tf.concat([figures, applied], axis=0), *newest, written)

    def _step(
        self, k: tf.Tensor, totals: tuple[tf.Tensor, ...], flags: Any, _: Any, batches: Any, priorities: Any
    ) -> Any:
        position = k + self._pointers_first() if self._compiled else k
        batch = self._batch(batches, position)
        of_replicas = self._strategy.run(self._gradient_step, args=(batch,))
        step = _StepResult(*(self._of_all_replicas(result) for result in of_replicas))
        newest = tf.reshape(step.td_error, [-1]), tf.reshape(step.q, [-1])
        applied = tf.reduce_all(step.applied)
        loss, td_error = tf.reduce_sum(step.loss), tf.reduce_mean(tf.abs(step.td_error))
        has_q = tf.reshape(step.has_q, [-1])
        q_sum, q_count = tf.reduce_sum(tf.where(has_q > 0.0, newest[1], 0.0)), tf.reduce_sum(has_q)
        parts = (loss, q_sum, q_count, td_error, tf.reduce_mean(step.gradient_norm))
        sums = [total + tf.where(applied, part, 0.0) for total, part in zip(totals, parts, strict=False)]
        q_max = tf.maximum(totals[-1], tf.where(applied, tf.reduce_max(step.q_max), -np.inf))
        written = []
        for array in priorities:
            from agents.priorities import writable

            written.append(array.write(k, writable(tf.reshape(step.priority, [-1]), applied)))
        return k + 1, (*sums, q_max), flags.write(k, tf.cast(applied, tf.float32)), newest, batches, written

    def _batch(self, batches: Any, position: tf.Tensor) -> Any:
        if not self._unpack:
            return tf.nest.map_structure(lambda leaf: tf.gather(leaf, position), batches)
        packed, *others = batches
        return self._unpack(packed, position), *(tf.gather(leaf, position) for leaf in others)

    def _of_all_replicas(self, result: Any) -> Any:
        """A result of each replica, beside each other in a first dimension; what is empty stays so."""
        return () if isinstance(result, tuple) else tf.stack(self._strategy.experimental_local_results(result))

    def _gradient_step(self, batch: Any) -> _StepResult:
        """One gradient step on one replica."""
        (trajectory, relative, *smallest), weights = batch, None
        if self._is_prioritized:  # over the global batch, before the replicas take their shares
            from agents import importance

            learned = self._is_learned(trajectory)
            exponent = importance.exponent(self._replay, self._agent.train_step_counter)
            weights = importance.weights_of(relative, exponent, learned, *smallest)
        if self._replicas > 1:
            share = self._learner.batch_size // self._replicas
            start = tf.distribute.get_replica_context().replica_id_in_sync_group % self._replicas * share

            def part(leaf: tf.Tensor) -> tf.Tensor:
                return tf.ensure_shape(leaf[start : start + share], (share, *leaf.shape[1:]))

            trajectory = tf.nest.map_structure(part, trajectory)
            weights = None if weights is None else part(weights)
        loss, extra = self._agent.train(trajectory, weights=weights)
        priority = extra.priority if self._is_prioritized else ()
        return _StepResult(
            loss, extra.td_error, extra.q, extra.has_q, extra.q_max, extra.gradient_norm, extra.applied, priority
        )

    def _is_learned(self, trajectory: Any) -> tf.Tensor:
        """Whether anything is learned from each window, bool [..., B] of a trajectory [..., B, T]."""
        begins = trajectory.step_type[..., self._learned_frames]
        return tf.reduce_any(begins != StepType.LAST, axis=-1)

    def _pointers_first(self) -> tf.Tensor:
        """0, computed from every variable that a gradient step changes; a batch's position needs it.

        XLA on a CPU loads the address of a loop's variable where the variable is first read. After a call (a matrix
        product) LLVM no longer knows this address to be the one that is written, and the update in place stays scalar.
        Read before all else, the addresses are known and the updates are vector loops: a tenth of the loop's time.
        """
        firsts = [tf.reshape(variable, [-1])[0] for variable in self._agent.variables if variable.dtype == tf.float32]
        return tf.cast(tf.math.is_nan(tf.add_n(firsts)), tf.int32)  # an addend of 0 that XLA cannot fold away
