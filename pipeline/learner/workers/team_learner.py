"""A learner of several: it takes gradient steps together with the others, each from its share of the batches."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.team import share


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
        self._team = self._workers = team
        self.is_shared = True
        """Whether all workers have the chief's state: not after it has taken that of a checkpoint."""
        self._assemble(experiment, share(experiment, team.size), specs, team.strategy)

    def share_state(self) -> None:
        """Gives all workers the chief's state; once it has taken that of a checkpoint, or has rolled back."""
        variables = [variable for _, variable in self._named_variables()]
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
