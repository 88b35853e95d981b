"""A learner of several: it takes gradient steps together with the others, each from its share of the batches."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.experiment.validation_without_table import refuse_uneven
from pipeline.learner.gradient_loop import CallResult
from pipeline.learner.learner import Learner
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.local_steps import LocalSteps
from pipeline.learner.workers.team import share, warning_of

log = logging.getLogger(__name__)

_SUMS, _SUMMED = 10, 1_000_000
"""Of one program that measures a sum, at most: sums, and numbers of all of them."""
_TRIES, _TRY_SECONDS = 10, 1.0
"""Calls beyond the first one that measure one thing, and their seconds: at most."""


class TeamLearner(Learner):
    """A `Learner` whose agent all workers hold. All make one and call it in the same order: all but `publication`,
    `state`, `restore` and `roll_back` is collective.

    Args:
      experiment: the run.
      specs: of its environment.
      team: the workers; each takes all devices that it has.

    Raises:
      UsageError: as `Learner`; or the work cannot be shared among so many.
      WorkerLost: here and in all that is collective, a worker is gone.
    """

    def __init__(self, experiment: Experiment, specs: Specs, team: Team) -> None:
        self._team, part, steps = team, share(experiment, team.size), experiment.learner.local_steps
        self._specs = specs
        self.is_shared = True
        """Whether all workers have the chief's state: not after it has taken that of a checkpoint."""
        if steps == 1:
            self._workers = team
            self._assemble(experiment, part, specs, team.strategy)
            return
        # Each call of the loop takes the steps of one learner alone, on its own devices.
        loop = msgspec.structs.replace(part.learner, steps_per_call=steps)
        gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
        strategy = tf.distribute.MirroredStrategy(gpus or ["CPU:0"])
        refuse_uneven(part, strategy.num_replicas_in_sync)
        self._assemble(experiment, msgspec.structs.replace(part, learner=loop), specs, strategy)

    def choose_loop(self) -> Callable[[Any], CallResult]:
        """See `Learner.choose_loop`; warns if so many learners take fewer gradient steps than one would."""
        self._call = call = super().choose_loop()
        variables = [variable for _, variable in self.named_variables()]
        learners, steps = self._team.size, self._experiment.learner.local_steps
        state = [self._strategy.experimental_local_results(variable)[0].numpy() for variable in variables]
        of_step = self._least_seconds(call, self._zeros()) / self._share.learner.steps_per_call
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        travels = variables if steps > 1 else self.agent.acting_model.trainable_weights
        of_sum = self._seconds_of_a_sum(sum(variable.shape.num_elements() for variable in travels))
        if steps > 1:
            self._call = LocalSteps(self._team, self._strategy, variables, call, steps)
        else:
            of_step = max(0.0, of_step - of_sum)
            if self._share.learner.loop != "plain" and not warning_of(of_step * learners, of_sum, learners, steps):
                # One alone may have XLA's loop, by which fewer pay: this one has none.
                alone = _Alone(self._share, self._specs, self._zeros()).choose_loop()
                of_step = _least_seconds(alone, self._zeros()) / self._share.learner.steps_per_call
        told = "a sum over the %d learners takes %.2g ms, and a gradient step of one alone about %.2g ms or less"
        log.info(told, learners, 1e3 * of_sum, 1e3 * of_step * learners)
        if warning := warning_of(of_step * learners, of_sum, learners, steps):
            self.warning = warning
            log.warning("%s", warning)
        return self._call

    def _seconds_of_a_sum(self, numbers: int) -> float:
        """What a sum of so many numbers over all learners takes, amid a program."""
        count = max(1, min(_SUMS, _SUMMED // numbers))

        def sums(flat: tf.Tensor) -> Any:
            state = tf.constant(0), flat
            return tf.while_loop(lambda k, _: k < count, lambda k, flat: (k + 1, self._team.sum(flat)), state)[1]

        program, flat = tf.function(sums, autograph=False), tf.zeros((numbers,))
        with self._together():
            program(flat).numpy()  # is traced
        return self._least_seconds(program, flat) / count

    def _least_seconds(self, call: Callable[[Any], Any], value: Any) -> float:
        """As `_least_seconds`, of what all learners do at once: all make as many calls."""
        with self._together():
            first = _seconds(call, value)
            of_all = float(self._team.sum(tf.constant([first]))[0]) / self._team.size
            return min([first, *(_seconds(call, value) for _ in range(_tries(of_all)))])

    def share_state(self) -> None:
        """Gives all workers the chief's state; once it has taken that of a checkpoint, or has rolled back."""
        variables = [variable for _, variable in self.named_variables()]
        local = [self._strategy.experimental_local_results(variable)[0].numpy() for variable in variables]
        for variable, value in zip(variables, self._team.of_chief(local), strict=True):
            variable.assign(value)
        self._gradient_steps = int(self.agent.train_step_counter.numpy())
        self.is_shared = True

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """See `Learner.restore`; the others do not have that state yet."""
        super().restore(state)
        self.is_shared = False

    def set_support(self, low: float, high: float) -> None:
        """See `Learner.set_support`; the others do not have it yet."""
        super().set_support(low, high)
        self.is_shared = False

    def digest(self) -> str:
        """Of all that training changes, as this worker has it: the same text for all workers while all is well."""
        of_all = hashlib.blake2b(digest_size=8)
        for name, array in self.state().items():
            of_all.update(name.encode() + array.data)
        return of_all.hexdigest()

    def _together(self) -> AbstractContextManager[None]:
        return self._team.together()

    def _acting_program(self, specs: Specs) -> bytes:
        return super()._acting_program(specs) if self._team.cluster.is_chief else b""


class _Alone(Learner):
    """A learner that takes the gradient steps of a share without the others: what they take is measured.

    Args:
      share: of the run's experiment.
      specs: of its environment.
      zeros: of a call.
    """

    def __init__(self, share: Experiment, specs: Specs, zeros: Any) -> None:
        self._of_call = zeros
        super().__init__(share, specs)

    def _zeros(self) -> Any:
        return self._of_call

    def _acting_program(self, specs: Specs) -> bytes:
        return b""


def _seconds(call: Callable[[Any], Any], value: Any) -> float:
    started = time.perf_counter()
    result = call(value)
    (result.figures if isinstance(result, CallResult) else result).numpy()
    return time.perf_counter() - started


def _tries(seconds: float) -> int:
    return int(min(_TRIES, _TRY_SECONDS / seconds))


def _least_seconds(call: Callable[[Any], CallResult], batches: Any) -> float:
    """Of some calls: what else the machine has to do makes one slower, and never faster."""
    first = _seconds(call, batches)
    return min([first, *(_seconds(call, batches) for _ in range(_tries(first)))])
