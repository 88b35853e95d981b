"""How a collector waits for the learner: on-policy for new weights, and for steps that it may take. No TensorFlow."""

from collections.abc import Callable

from pipeline.collector.collector import Collector
from pipeline.collector.turns import Version
from pipeline.messages.variables_reader import VariablesReader
from pipeline.runtime.signs_of_life import RunningClock


def renew(
    collector: Collector,
    reader: VariablesReader,
    keep_waiting: Callable[[], bool],
    away_seconds: float,
    awaited: Version | None = None,
) -> None:
    """Waits for newer weights, and has a collector act with them from the next step on.

    Args:
      collector: whose window is complete.
      reader: of publications.
      keep_waiting: asked again and again; False gives up and keeps the weights.
      away_seconds: after which it gives up, too.
      awaited: the version that they have to be newer than (see `Turns`); None: that of the weights acting.

    Raises:
      TimeoutError: there were none for `away_seconds`.
    """
    version, clock = awaited or collector.version, RunningClock()
    begun = clock()

    def go_on() -> bool:
        if (waited := clock() - begun) > away_seconds:
            raise TimeoutError(
                f"collector {collector.index} has handed over its sequences and waited {waited:.0f} s for the "
                f"learner's weights of gradient step {version[-1] + 1}"
            )
        return keep_waiting()

    with collector.waiting():
        newer = reader.newer_than(version, go_on)
    if newer is not None:
        collector.use(newer)


def hold(collector: Collector, reader: VariablesReader, keep_waiting: Callable[[], bool]) -> None:
    """Waits for the learner's next word, which may allow more steps; see `Collector.may_step`."""
    with collector.waiting():
        reader.await_fetch(keep_waiting)
