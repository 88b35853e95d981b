"""A learner of several: it takes gradient steps together with the others, each from its share of the batches."""

import hashlib
import logging
import statistics
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
from pipeline.learner.workers.team import pays_from, share

log = logging.getLogger(__name__)

_SUMS = 6


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
        self._call = super().choose_loop()
        variables = [variable for _, variable in self.named_variables()]
        learners, steps = self._team.size, self._experiment.learner.local_steps
        state = [self._strategy.experimental_local_results(variable)[0].numpy() for variable in variables]
        started = time.perf_counter()
        with self._together():
            self._call(self._zeros()).figures.numpy()
        of_step = (time.perf_counter() - started) / self._share.learner.steps_per_call
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        travels = variables if steps > 1 else self.agent.acting_model.trainable_weights
        sum_seconds = self._seconds_of_a_sum(sum(variable.shape.num_elements() for variable in travels))
        if steps > 1:
            self._call = LocalSteps(self._team, self._strategy, variables, self._call, steps)
        else:
            of_step -= sum_seconds
        alone, least = max(0.0, of_step) * learners, pays_from(sum_seconds, learners, steps)
        log.info("a sum over the %d learners takes %.2g ms", learners, 1e3 * sum_seconds)
        if alone < least:
            self.warning = (
                f"{learners} learners pay from about {1e3 * least:.2g} ms a gradient step of one alone; this network "
                f"takes about {1e3 * alone:.2g} ms: start one, without TF_CONFIG, or raise learner.local_steps={steps}"
            )
            log.warning("%s", self.warning)
        return self._call

    def _seconds_of_a_sum(self, numbers: int) -> float:
        """What a sum of so many numbers over all learners takes; the median of some."""
        flat, seconds = tf.zeros((numbers,)), []
        for _ in range(_SUMS):
            started = time.perf_counter()
            with self._together():
                self._team.sum(flat).numpy()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])  # the first is traced

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
