"""The learner: gradient steps, many to a call, on all replicas of a MirroredStrategy."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs, build, losses
from agents.builder import LearningAgent
from agents.priorities import LARGEST
from pipeline import acting
from pipeline.checkpoint import Counters
from pipeline.collector import seed_of
from pipeline.config import UsageError
from pipeline.frames import FrameLayout
from pipeline.messages import Array, Variables
from pipeline.replay import Sample, decode
from pipeline.sections import Experiment

log = logging.getLogger(__name__)

_DISPATCH_SECONDS = 200e-6
"""The plain loop's gradient step takes longer than this by the dispatch of its operations alone."""

_ONE_CORE = 0.85
"""The compiled loop runs on one core and leaves the others to replay: it is chosen if no more than this much slower."""

_LAYER_NUMBER = re.compile(r"_\d+(?=/|$)")


class Outcome(NamedTuple):
    """What the gradient steps of one call said."""

    loss: float
    """Mean over the steps that were applied, as in all figures here; 0 if none was."""
    td_error: float
    """Mean absolute TD error."""
    q_mean: float
    q_max: float
    gradient_norm: float
    """Mean norm before clipping."""
    skipped: tuple[int, ...] = ()
    """Positions in the call, from 0, of the steps that were not applied, as their loss or gradient was not finite."""
    priorities: NDArray[np.float32] | None = None
    """float32 [K, B], of the transitions learned from; None of a uniform replay. In a skipped step, 0 for those whose
    error is not finite or larger than any priority: they made it one, and are not to be drawn again and again."""


class Learner:
    """Owns the agent: weights, optimizer, target network and the count of gradient steps.

    Args:
      experiment: the run.
      specs: of its environment.
      devices: to mirror the agent on, such as `["CPU:0", "CPU:1"]`; None takes every GPU, or the CPU.

    Raises:
      UsageError: the global batch does not divide among the replicas, or a replica's share into minibatches.
    """

    def __init__(self, experiment: Experiment, specs: Specs, devices: list[str] | None = None) -> None:
        self._experiment, self._layout = experiment, FrameLayout.of(experiment, specs)
        specs = self._layout.agent_specs
        if devices is None:
            devices = [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU:0"]
        self._strategy = tf.distribute.MirroredStrategy(devices)
        self._replicas = self._strategy.num_replicas_in_sync
        if experiment.learner.batch_size % self._replicas:
            raise UsageError(
                f"learner.batch_size={experiment.learner.batch_size} does not divide among {self._replicas} replicas"
            )
        if (share := experiment.learner.batch_size // self._replicas) % experiment.agent.batch_parts:
            raise UsageError(
                f"agent.minibatches={experiment.agent.batch_parts} does not divide the {share} sequences of each of "
                f"{self._replicas} replicas: change it, collect.lanes or collect.collectors"
            )
        with self._strategy.scope():
            self.agent: LearningAgent = build(
                experiment.agent.kind, specs, experiment.agent, seed=seed_of(experiment, 0)
            )
        self._program = self._acting_program(specs)
        self._gradient_steps = 0
        self._call: Callable[[Any], Any] | None = None
        self.loop = ""
        """The form of the loop, "compiled" or "plain"; empty until it is chosen."""

    def _acting_program(self, specs: Specs) -> bytes:
        """What actors run; empty where they run the network through TensorFlow."""
        model = self.agent.acting_model
        if acting.convolves_much(model):
            log.info("actors run these convolutions through TensorFlow, which is faster at them than TFLite")
            return b""
        program = acting.convert(model, specs, self.agent.noise_units + self._experiment.agent.state_units)
        if not program:
            log.warning("TFLite cannot take this network: actors run it through TensorFlow, more slowly")
        return program

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken, those before a resume included."""
        return self._gradient_steps

    def importance_exponent(self) -> tf.Tensor:
        """float32 []: beta at the next gradient step."""
        replay = self._experiment.replay
        return losses.linear_schedule(
            replay.importance_exponent,
            replay.importance_exponent_final,
            replay.importance_exponent_steps,
            self.agent.train_step_counter,
        )

    def choose_loop(self) -> None:
        """Compiles the loop around the gradient steps as configured.

        `auto` measures both forms and takes the faster, but for convolutions on a CPU; a compiled step that is faster
        than dispatching a plain one needs no comparison. Trains on a batch of zeros meanwhile and puts the agent's
        state back.
        """
        wanted = self._experiment.learner.loop
        if wanted == "compiled" and self._replicas > 1:
            raise UsageError("learner.loop='compiled' needs one replica: XLA refuses variables on two devices")
        candidates: tuple[str, ...] = (wanted,)
        if wanted == "auto":  # XLA has no fast convolution on a CPU: Nature's ran 20 times slower, MinAtar's 6 times
            candidates = ("plain",) if self._convolves_on_cpu() else ("compiled", "plain")
        _set_compiler_flags()
        state = [variable.numpy() for variable in self.agent.variables]
        batch = self._zeros()
        seconds: dict[str, float] = {}
        loops: dict[str, Callable[[Any], Any]] = {}
        for name in candidates:
            if name == "compiled" and self._replicas > 1:
                continue
            loops[name] = self._loop(compiled=name == "compiled")
            try:
                loops[name](batch)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                if name != "compiled":
                    raise
                log.warning("XLA does not compile this agent's gradient step; the plain loop runs it: %s", error)
                continue
            seconds[name] = min(_seconds(loops[name], batch) for _ in range(3)) if len(candidates) > 1 else 0.0
            if 0.0 < seconds[name] < _DISPATCH_SECONDS * self._experiment.learner.steps_per_call:
                break  # tracing the plain loop would take half a second to lose
        if not seconds:
            loops["plain"], seconds["plain"] = self._loop(compiled=False), 0.0
        self.loop = min(seconds, key=lambda name: seconds[name] * (_ONE_CORE if name == "compiled" else 1.0))
        self._call = loops[self.loop]
        for variable, value in zip(self.agent.variables, state, strict=True):
            variable.assign(value)
        steps = self._experiment.learner.steps_per_call
        log.info(
            "%s loop of %d gradient steps; %s",
            self.loop,
            steps,
            ", ".join(f"{name} {steps / value:.0f} steps/s" for name, value in seconds.items() if value)
            or "not measured",
        )

    def learn(self, sample: Sample) -> Outcome:
        """Runs the gradient steps of one call on a `Sample` of K batches; chooses the loop first if that is to do."""
        if self._call is None:
            self.choose_loop()
        assert self._call is not None
        summary, *priorities = self._call((sample.trajectory, sample.relative_probability))
        loss, td_error, q_mean, q_max, norm, *applied = summary.numpy().tolist()
        # Skipped steps are counted too: collectors and evaluator compare versions, and on-policy wait for a new one.
        self._gradient_steps += self._experiment.learner.steps_per_call
        skipped = () if all(applied) else tuple(k for k, was_applied in enumerate(applied) if not was_applied)
        of_transitions = priorities[0].numpy() if priorities else None
        return Outcome(loss, td_error, q_mean, q_max, norm, skipped, of_transitions)

    def publication(self, counters: Counters) -> Variables:
        """A copy of the weights, to be published with what else acting needs of the counters."""
        # Of the first replica, as all are equal: asking the mirrored variable itself takes three times as long.
        local = (self._strategy.experimental_local_results(weight)[0] for weight in self.agent.acting_model.weights)
        weights = tuple(Array.of(weight.numpy()) for weight in local)
        return Variables(
            gradient_steps=self.gradient_steps,
            environment_steps=counters.environment_steps,
            program=self._program,
            weights=weights,
            initial_priority=counters.largest_priority,
        )

    def roll_back(self, state: Mapping[str, NDArray[Any]], learning_rate_factor: float) -> None:
        """Takes weights, optimizer and target network from what `state` gave, and lowers the step size.

        The count of gradient steps goes on: collectors and evaluator take newer weights by it, on-policy experience is
        matched by it, and the budget is of work done. The lowered step size is part of the agent's state: it is saved
        and resumed, and lowered further by another rollback to the same checkpoint.
        """
        taken, scale = self._gradient_steps, float(self.agent.learning_rate_scale.numpy())
        self.restore(state)
        self._gradient_steps = taken
        self.agent.train_step_counter.assign(taken)
        self.agent.learning_rate_scale.assign(scale * learning_rate_factor)

    def state(self) -> dict[str, Array]:
        """A copy of everything that training changes: weights, target, optimizer, normalisation and counters, by name.

        Names are the same in every process that builds this agent.
        """
        return {
            name: Array.of(self._strategy.experimental_local_results(variable)[0].numpy())
            for name, variable in self._named_variables()
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `state` gave.

        Raises:
          UsageError: the agent has other variables; nothing has been changed.
        """
        variables = dict(self._named_variables())
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
        self._gradient_steps = int(self.agent.train_step_counter.numpy())

    def _named_variables(self) -> Iterator[tuple[str, tf.Variable]]:
        # TensorFlow numbers the layers of a process, whichever agent they are of: the order of the agent's is its own.
        for index, variable in enumerate(self.agent.variables):
            yield f"{index:03d} {_LAYER_NUMBER.sub('', variable.name.partition(':')[0])}", variable

    def _loop(self, compiled: bool) -> Callable[[Any], Any]:
        learner, replay, strategy, agent = self._experiment.learner, self._experiment.replay, self._strategy, self.agent
        share = learner.batch_size // self._replicas

        def gradient_step(batch: Any) -> Any:
            trajectory, relative = batch
            weights = None
            if replay.prioritized:  # over the global batch, before the replicas take their shares
                weights = losses.importance_weights(relative, self.importance_exponent())
            if self._replicas > 1:
                start = tf.distribute.get_replica_context().replica_id_in_sync_group * share

                def part(leaf: tf.Tensor) -> tf.Tensor:
                    return tf.ensure_shape(leaf[start : start + share], (share, *leaf.shape[1:]))

                trajectory = tf.nest.map_structure(part, trajectory)
                weights = None if weights is None else part(weights)
            loss, extra = agent.train(trajectory, weights=weights)
            td_error = tf.reduce_mean(tf.abs(extra.td_error))
            priority = (extra.priority,) if replay.prioritized else ()
            return loss, td_error, extra.q_mean, extra.q_max, extra.gradient_norm, extra.applied, *priority

        def step(k: tf.Tensor, totals: tuple[tf.Tensor, ...], flags: Any, batches: Any, priorities: Any) -> Any:
            position = k + self._pointers_first() if compiled else k
            batch = tf.nest.map_structure(lambda leaf: tf.gather(leaf, position), batches)
            results = [
                tf.stack(strategy.experimental_local_results(result))
                for result in strategy.run(gradient_step, args=(batch,))
            ]
            loss, td_error, q_mean = tf.reduce_sum(results[0]), tf.reduce_mean(results[1]), tf.reduce_mean(results[2])
            norm, applied = tf.reduce_mean(results[4]), tf.reduce_all(results[5])
            means = (loss, td_error, q_mean, norm)
            sums = [total + tf.where(applied, mean, 0.0) for total, mean in zip(totals, means, strict=False)]
            q_max = tf.maximum(totals[-1], tf.where(applied, tf.reduce_max(results[3]), -np.inf))
            written = []
            for array in priorities:
                priority = tf.reshape(results[6], [-1])
                written.append(array.write(k, tf.where(applied | (priority <= LARGEST), priority, 0.0)))
            return k + 1, (*sums, q_max), flags.write(k, tf.cast(applied, tf.float32)), batches, written

        def steps(*leaves: tf.Tensor) -> Any:
            batches = tf.nest.pack_sequence_as(zeros, leaves)
            zero, count = tf.zeros(()), learner.steps_per_call
            totals = (zero, zero, zero, zero, tf.constant(-np.inf))
            flags, shape = tf.TensorArray(tf.float32, count, element_shape=()), (learner.batch_size,)
            priorities = [tf.TensorArray(tf.float32, count, element_shape=shape)] if replay.prioritized else []
            start = (tf.constant(0), totals, flags, batches, priorities)
            _, totals, flags, _, priorities = tf.while_loop(
                lambda k, *_: k < count, step, start, maximum_iterations=count
            )
            applied = flags.stack()
            number = tf.maximum(tf.reduce_sum(applied), 1.0)
            loss, td_error, q_mean, norm = (total / number for total in totals[:-1])
            q_max = tf.where(tf.math.is_finite(totals[-1]), totals[-1], 0.0)
            figures = tf.stack([loss, td_error, q_mean, q_max, norm])
            return tf.concat([figures, applied], axis=0), *[array.stack() for array in priorities]

        # Nothing here is Python control flow on tensors: without autograph's rewriting, tracing is twice as fast.
        # A concrete function of flat tensors is called in half the time: no structure is matched against a signature.
        zeros = self._zeros()
        flat = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(zeros)]
        function = tf.function(steps, jit_compile=compiled, autograph=False)
        traced = function.get_concrete_function(*flat)

        def call(batches: Any) -> Any:
            return traced(*tf.nest.flatten(batches))

        return call

    def _convolves_on_cpu(self) -> bool:
        on_cpu = not tf.config.list_logical_devices("GPU")
        return on_cpu and bool(acting.convolutions(self.agent.acting_model))

    def _pointers_first(self) -> tf.Tensor:
        """0, computed from every variable that a gradient step changes; a batch's position needs it.

        XLA on a CPU loads the address of a loop's variable where the variable is first read. After a call (a matrix
        product) LLVM no longer knows this address to be the one that is written, and the update in place stays scalar.
        Read before all else, the addresses are known and the updates are vector loops: a tenth of the loop's time.
        """
        firsts = [tf.reshape(variable, [-1])[0] for variable in self.agent.variables if variable.dtype == tf.float32]
        return tf.cast(tf.math.is_nan(tf.add_n(firsts)), tf.int32)  # an addend of 0 that XLA cannot fold away

    def _zeros(self) -> Any:
        learner, layout = self._experiment.learner, self._layout
        shape = (learner.steps_per_call, learner.batch_size, self._experiment.window, layout.num_bytes)
        trajectory, _ = decode(tf.zeros(shape, tf.uint8), layout)
        return trajectory, tf.ones(shape[:2])


def _form(shape: Any, dtype: Any) -> str:
    return f"{tf.as_dtype(dtype).name} {list(shape)}"


def _set_compiler_flags() -> None:
    """Puts the flags that suit small networks before the user's own; XLA reads them when it first compiles.

    One thread: the products of small networks take less time than handing parts of them to other threads does, and
    replay has use for these.
    No tree reductions: for norms, biases and means of this size they take longer than the sums that they replace.
    """
    ours = "--xla_cpu_multi_thread_eigen=false --xla_disable_hlo_passes=tree_reduction_rewriter"
    given = os.environ.get("XLA_FLAGS", "")
    if ours not in given:
        os.environ["XLA_FLAGS"] = f"{ours} {given}".rstrip()


def _seconds(call: Callable[[Any], Any], batch: Any) -> float:
    started = time.perf_counter()
    call(batch)[0].numpy()
    return time.perf_counter() - started
