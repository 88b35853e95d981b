"""What a callback is: methods that a run calls in the process of whoever began it, and how one ends the run."""

import difflib
from dataclasses import dataclass
from typing import Any

from pipeline import UsageError
from pipeline.comparison.run import CheckpointInfo, Run
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation
from pipeline.records.results import Status, Summary


@dataclass(frozen=True)
class Stop:
    """What a callback returns to end the run in good order: `pipeline.STOP`, or `pipeline.STOP("why")`.

    The run's last weights are evaluated, a checkpoint and the summary are written, whose `stop_reason` is "callback"
    and whose `message` names the callback and the reason.
    """

    reason: str = ""
    """In words, for the summary; empty says no more than which callback it was."""

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise UsageError(f"the reason of a stop is text, not {self.reason!r}")

    def __call__(self, reason: str) -> "Stop":
        """A stop with a reason."""
        return Stop(reason)


STOP = Stop()
"""Return it from a callback's method, and the run ends in good order; see `Stop`."""


@dataclass(frozen=True)
class Started:
    """What a run begins with."""

    run: Run
    """Its directory as data: it has the config already."""
    experiment: Experiment
    """As it is run: of a resumed run with the values of now."""
    launcher: str
    """Such as "local"."""
    resumed: bool
    """Whether it was called with `resume=True`: there may be a checkpoint to go on from."""


class Callback:
    """Is told of a run while it goes on: derive from it, and define the methods that you need.

    All launchers call the methods alike: in the process and thread that called `pipeline.train`, one after the other,
    in the order of `callbacks`, a fraction of a second after what they tell of (with `launcher="inline"` between two
    steps). The processes of a run go on meanwhile; of the statuses that a slow method misses, it is told the newest.

    Each method but `on_end` may return `pipeline.STOP`, or `pipeline.STOP("why")`, to end the run in good order. What a
    method raises ends the run, too, with a checkpoint, and is then raised by `pipeline.train`, after `on_end`.
    """

    shows_progress = False
    """Whether it shows how the run goes on, so that `pipeline.train` shows warnings and the end alone."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in vars(cls):
            if name.startswith("on_") and name not in METHODS:
                (near,) = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)
                raise UsageError(f"{cls.__name__}.{name} is never called; the nearest method is {near}")

    def on_start(self, started: Started) -> Stop | None:
        """The run begins: all checks are done, its directory is there, and no process has been started yet.

        What it raises reaches the caller at once.
        """

    def on_status(self, status: Status) -> Stop | None:
        """The learner's process has written `status.json`, as it does about twice a second."""

    def on_evaluation(self, evaluation: Evaluation) -> Stop | None:
        """An evaluation has ended. After the restart of a learner some come again, with the steps of before."""

    def on_checkpoint(self, checkpoint: CheckpointInfo) -> Stop | None:
        """A checkpoint is complete. (It may have been replaced by a newer one.)"""

    def on_end(self, summary: Summary) -> None:
        """The run has ended, well or not, and its summary is written: nothing else is called after it."""


METHODS = ("on_start", "on_status", "on_evaluation", "on_checkpoint", "on_end")


def checked(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks as `pipeline.train` was given them.

    Raises:
      UsageError: one is none.
    """
    if isinstance(callbacks, Callback) or not isinstance(callbacks, list | tuple):
        raise UsageError(f"callbacks is a list of callbacks, not {_short(callbacks)}: such as [StopAfter(seconds=60)]")
    for position, each in enumerate(callbacks):
        if isinstance(each, type) and issubclass(each, Callback):
            raise UsageError(f"callbacks[{position}] is the class {each.__name__}: give an instance, {each.__name__}()")
        if not isinstance(each, Callback):
            raise UsageError(f"callbacks[{position}] is {_short(each)}: derive its class from pipeline.Callback")
    return tuple(callbacks)


def _short(value: Any) -> str:
    return f"{value!r:.60}"
