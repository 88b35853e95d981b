"""The learner: gradient steps, many to a call, on all replicas of a MirroredStrategy."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs, build
from agents.builder import LearningAgent
from pipeline.acting import network_program
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.learner.gradient_loop import CallResult, GradientLoop, Workers
from pipeline.messages.contents import Array, Variables
from pipeline.records.counters import Counters
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample, decode, is_packed, item_shape
from pipeline.runtime.process import set_compiler_flags

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
    td_errors: tf.Tensor
    """float32 [B], of the last step's windows: `LossExtra.td_error`; of several workers, this one's share."""
    q_values: tf.Tensor
    """float32 [B], of the same: `LossExtra.q`."""
    skipped: tuple[int, ...] = ()
    """Positions in the call, from 0, of the steps that were not applied, as their loss or gradient was not finite."""
    priorities: NDArray[np.float32] | None = None
    """float32 [K, B], of the windows learned from; None of a uniform replay. In a skipped step, 0 for those whose
    error is not finite or larger than any priority: they made it one, and would be drawn again and again."""


class Learner:
    """Owns the agent: weights, optimizer, target network and the count of gradient steps.

    Args:
      experiment: the run.
      specs: of its environment.
      devices: to mirror the agent on, such as `["CPU:0", "CPU:1"]`; None takes every GPU, or the CPU.

    Raises:
      UsageError: batch or minibatches do not divide among the replicas, or `agent.torso` names what there is not.
    """

    warning = ""  # to the user, for as long as it learns
    _workers: Workers | None = None  # all of them, where several learn together

    def __init__(self, experiment: Experiment, specs: Specs, devices: list[str] | None = None) -> None:
        if devices is None:
            devices = [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU:0"]
        self._assemble(experiment, experiment, specs, tf.distribute.MirroredStrategy(devices))

    def _assemble(
        self, experiment: Experiment, share: Experiment, specs: Specs, strategy: tf.distribute.Strategy
    ) -> None:
        """Builds the agent in a strategy's scope.

        Args:
          experiment: the run.
          share: the same with what this process draws of a batch.
          specs: of its environment.
          strategy: of all replicas that hold the agent.
        """
        self._experiment, self._share, self._layout = experiment, share, FrameLayout.of(experiment, specs)
        self._strategy, self._replicas = strategy, strategy.num_replicas_in_sync
        if self._replicas > 1 or experiment.agent.batch_parts > 1:
            from pipeline.experiment.validation_without_table import refuse_uneven

            refuse_uneven(experiment, self._replicas)
        try:
            with self._together(), strategy.scope():
                self.agent = self._built(experiment.learner.precision)
        except ImportError as error:  # of `agent.torso`
            raise UsageError(str(error)) from None
        self._unpack: Callable[..., Any] | None = None
        if is_packed(share) and not experiment.mixes:
            from pipeline.acting.frame_stacks import unpacked

            of_call = share.window, share.learner.batch_size
            self._unpack = partial(unpacked, lambda windows: decode(windows, self._layout)[0], *of_call)
        self._program = self._acting_program(self._layout.agent_specs)
        self._gradient_steps = 0
        self._call: Callable[[Any], CallResult] | None = None
        self.loop = ""
        """The form of the loop, "compiled" or "plain"; empty until it is chosen."""

    def _built(self, precision: str) -> LearningAgent:
        of = self._experiment
        make = partial(build, of.agent.kind, self._layout.agent_specs, of.agent, seed=of.seed_of(0), open_fields=True)
        if precision == "float32":
            return make()
        from agents import mixed_precision

        if reason := mixed_precision.idle(agent := mixed_precision.in_bfloat16(make)):
            raise UsageError(f"learner.precision={precision!r} {reason}")
        return agent

    def _acting_program(self, specs: Specs) -> bytes:
        """What actors run; empty where they run the network through TensorFlow."""
        model = self.agent.acting_model
        if network_program.convolves_much(model):
            log.info("actors run these convolutions through TensorFlow, which is faster at them than TFLite")
            return b""
        exact = model if self._experiment.learner.precision == "float32" else self._built("float32").acting_model
        program = network_program.convert(exact, specs, self.agent.noise_units + self._experiment.agent.state_units)
        if not program:
            log.warning("TFLite cannot take this network: actors run it through TensorFlow, more slowly")
        return program

    def _together(self) -> AbstractContextManager[None]:
        """Surrounds what all workers do at once, where there are several."""
        return nullcontext()

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken, those before a resume included."""
        return self._gradient_steps

    def choose_loop(self) -> Callable[[Any], CallResult]:
        """Compiles the loop around the gradient steps as configured, and returns it.

        `auto` measures both forms and takes the faster, but for convolutions on a CPU; a compiled step that is faster
        than dispatching a plain one needs no comparison. They train on zeros; the agent's state is put back.
        """
        wanted = self._experiment.learner.loop
        if wanted == "compiled" and self._replicas > 1:
            raise UsageError("learner.loop='compiled' needs one replica: XLA refuses variables on two devices")
        candidates: tuple[str, ...] = (wanted,)
        if wanted == "auto":  # XLA has no fast convolution on a CPU: Nature's ran 20 times slower, MinAtar's 6 times
            slow = network_program.convolutions(self.agent.acting_model) and not tf.config.list_logical_devices("GPU")
            candidates = ("plain",) if self._replicas > 1 or slow else ("compiled", "plain")
        set_compiler_flags()
        state = [variable.numpy() for variable in self.agent.variables]
        batch = self._zeros()
        seconds: dict[str, float] = {}
        loops: dict[str, GradientLoop] = {}
        for name in candidates:
            loops[name] = self._loop(compiled=name == "compiled")
            try:
                with self._together():
                    loops[name](batch)
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                if name != "compiled":
                    raise
                log.warning("XLA does not compile this agent's gradient step; the plain loop runs it: %s", error)
                continue
            seconds[name] = min(_seconds(loops[name], batch) for _ in range(3)) if len(candidates) > 1 else 0.0
            if 0.0 < seconds[name] < _DISPATCH_SECONDS * self._share.learner.steps_per_call:
                break  # tracing the plain loop would take half a second to lose
        if not seconds:
            loops["plain"], seconds["plain"] = self._loop(compiled=False), 0.0
        self.loop = min(seconds, key=lambda name: seconds[name] * (_ONE_CORE if name == "compiled" else 1.0))
        self._call = loops[self.loop]
        for variable, value in zip(self.agent.variables, state, strict=True):
            variable.assign(value)
        steps = self._share.learner.steps_per_call
        rates = ", ".join(f"{name} {steps / value:.0f} steps/s" for name, value in seconds.items() if value)
        log.info("%s loop of %d gradient steps; %s", self.loop, steps, rates or "not measured")
        return self._call

    def learn(self, sample: Sample) -> Outcome:
        """Runs the gradient steps of one call on a `Sample` of K batches; chooses the loop first if none is chosen.

        Of several workers each gives its share; all have the same `Outcome`, but for that share's priorities.
        """
        call = self._call or self.choose_loop()
        with self._together():
            result = call((sample.trajectory, sample.relative_probability))
            loss, td_error, q_mean, q_max, norm, *applied = result.figures.numpy().tolist()
        # Skipped steps are counted too: collectors and evaluator compare versions, and on-policy wait for a new one.
        self._gradient_steps += self._experiment.learner.steps_per_call
        skipped = () if all(applied) else tuple(k for k, was_applied in enumerate(applied) if not was_applied)
        priorities = result.priorities.numpy() if self._experiment.replay.prioritized else None
        return Outcome(loss, td_error, q_mean, q_max, norm, result.td_errors, result.q_values, skipped, priorities)

    def publication(self, counters: Counters) -> Variables:
        """Copies the weights, and of the counters what acting needs, to be published."""
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

    def set_support(self, low: float, high: float) -> None:
        """Decides the ends of a categorical agent's support that the config leaves open."""
        self.agent.set_support(low, high)  # type: ignore[attr-defined]  # of no other kind

    def state(self) -> dict[str, Array]:
        """A copy of everything that training changes: weights, target, optimizer, normalisation and counters, by name.

        Names are the same in every process that builds this agent.
        """
        return {
            name: Array.of(self._strategy.experimental_local_results(variable)[0].numpy())
            for name, variable in self.named_variables()
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `state` gave.

        Raises:
          UsageError: the agent has other variables; nothing has been changed.
        """
        from pipeline.learner.stored_state import assign

        assign(dict(self.named_variables()), state)
        self._gradient_steps = int(self.agent.train_step_counter.numpy())

    def named_variables(self) -> Iterator[tuple[str, tf.Variable]]:
        """The variables of `state`."""
        # TensorFlow numbers the layers of a process, whichever agent they are of: the order of the agent's is its own.
        for index, variable in enumerate(self.agent.variables):
            yield f"{index:03d} {_LAYER_NUMBER.sub('', variable.name.partition(':')[0])}", variable

    def _loop(self, compiled: bool) -> GradientLoop:
        return GradientLoop(
            self._share, self.agent, self._strategy, self._workers, self._zeros(), compiled, self._unpack
        )

    def trajectory(self, sample: Sample) -> Any:
        """The `Trajectory` [K, B, T, ...] of a sample, which may be packed."""
        return sample.trajectory if self._unpack is None else self._unpack(sample.trajectory)

    def _zeros(self) -> Any:
        learner, layout = self._share.learner, self._layout
        shape = (learner.steps_per_call, learner.batch_size, self._experiment.window, layout.num_bytes)
        if self._unpack is not None:
            items = (self._share.items_per_call, *item_shape(self._share, layout))
            return tf.zeros(items, tf.uint8), tf.ones(shape[:2])
        return decode(tf.zeros(shape, tf.uint8), layout)[0], tf.ones(shape[:2])


def _seconds(call: GradientLoop, batch: Any) -> float:
    started = time.perf_counter()
    call(batch).figures.numpy()
    return time.perf_counter() - started
