"""A collector whose actions an acting server computes. No TensorFlow.

It steps, explores, writes and counts as others do; only the scores come from elsewhere, with the version of the weights
that made them. Imported where `collect.inference` is "central".
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import Specs
from pipeline.acting.central_actor import CentralActor, Unanswered
from pipeline.collector.collector import Collector
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Variables


class CentralCollector(Collector):
    """See `Collector`.

    Args:
      inference: address of the acting server.
      keep_waiting: asked again and again while the server does not answer; False gives up.
      experiment: see `Collector`, as for the others.
      specs: of its environment.
      index: which of the run's collectors this is.
      process: identifies this process.
      address: of the replay server.
      variables: the learner's first publication; its weights are not looked at.
      **others: of `Collector`.

    Raises:
      TimeoutError: the server has not answered for `collect.away_seconds`.
      UsageError: it is of another experiment's run.
    """

    def __init__(
        self,
        inference: str,
        keep_waiting: Callable[[], bool],
        experiment: Experiment,
        specs: Specs,
        index: int,
        process: str,
        address: str,
        variables: Variables,
        **others: Any,
    ) -> None:
        def make(_: Any, seen: Specs, *__: Any) -> CentralActor:
            self._central = CentralActor(inference, experiment, seen, process, keep_waiting)
            return self._central

        super().__init__(experiment, specs, index, process, address, variables, **others, make=make)

    def step(self) -> None:
        """See `Collector`; no step is taken where the run ends and the server has not answered."""
        try:
            super().step()
        except Unanswered:
            return

    def use(self, variables: Variables) -> None:
        """Takes the counters of a newer publication; the version of what acts is the server's to say."""
        super().use(_of_version(variables, self._variables.version))

    def complete(self) -> None:
        """See `Collector`; the last priorities are the writer's own where the server has not answered."""
        try:
            super().complete()
        except Unanswered:
            self._td_errors = None
            super().complete()

    def close(self) -> None:
        """See `Collector`."""
        self._central.close()
        super().close()

    def _scores(self, random: np.random.Generator | None) -> NDArray[np.float32]:
        scores = super()._scores(random)
        if (version := self._central.version) != self._variables.version:
            self._variables = _of_version(self._variables, version)
            self._variables_since = time.monotonic()
        self._fields["gradient_steps"][:] = version[-1]
        return scores


def _of_version(variables: Variables, version: tuple[int, int, int]) -> Variables:
    """A publication as if its weights were of another version."""
    if variables.version == version:
        return variables
    life, renewals, gradient_steps = version
    return msgspec.structs.replace(variables, life=life, renewals=renewals, gradient_steps=gradient_steps)
