"""Callbacks that end a run: after so much of it, or when it no longer gets better."""

import math
import time
from collections.abc import Mapping
from typing import Any

from pipeline import UsageError
from pipeline.callbacks.callback import STOP, Callback, Started, Stop
from pipeline.messages.contents import Evaluation
from pipeline.records.results import Status


class StopOnNoImprovement(Callback):
    """Ends a run when none of so many evaluations in a row was better than the best before them.

    Args:
      evaluations: in a row.
      by_more_than: how much better than the best one has to be, in the units of the return.
      after_steps: environment steps (of a run without collectors gradient steps) before which no evaluation counts as
        one without improvement.

    Raises:
      UsageError: a value that cannot be.
    """

    def __init__(self, evaluations: int = 10, *, by_more_than: float = 0.0, after_steps: int = 0) -> None:
        _check({"evaluations": evaluations, "after_steps": after_steps}, whole=True)
        _check({"by_more_than": by_more_than}, whole=False)
        if not evaluations:
            raise UsageError("evaluations is at least 1, not 0")
        self._evaluations, self._by_more_than, self._after_steps = evaluations, by_more_than, after_steps

    def on_start(self, started: Started) -> None:
        """Begins to count; what was evaluated before a resume does not count."""
        self._progress = started.experiment.progress
        self._best, self._in_vain = -math.inf, 0

    def on_evaluation(self, evaluation: Evaluation) -> Stop | None:
        """Compares it with the best."""
        if not evaluation.is_whole:
            return None
        if evaluation.mean_return > self._best + self._by_more_than:
            self._best, self._in_vain = evaluation.mean_return, 0
        elif self._progress(evaluation.environment_steps, evaluation.gradient_steps) >= self._after_steps:
            self._in_vain += 1
        if self._in_vain < self._evaluations:
            return None
        return STOP(f"{self._in_vain} evaluations in a row were not better than {self._best:g}")


class StopAfter(Callback):
    """Ends a run after so much of it since `pipeline.train` was called, unlike `stop.*`, which count the whole run.

    Whatever is reached first ends it. As the run is asked to end when a status shows that, it goes on a little longer.

    Args:
      seconds: since the call, start-up included.
      environment_steps: taken since.
      gradient_steps: taken since.
      episodes: of training that have ended since.
      evaluations: made since.

    Raises:
      UsageError: a value that cannot be, or none at all.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        environment_steps: int | None = None,
        gradient_steps: int | None = None,
        episodes: int | None = None,
        evaluations: int | None = None,
    ) -> None:
        counts = {
            "environment_steps": environment_steps,
            "gradient_steps": gradient_steps,
            "episodes": episodes,
            "evaluations": evaluations,
        }
        _check(counts, whole=True)
        _check({"seconds": seconds}, whole=False)
        self._seconds = seconds
        self._counts = {name: count for name, count in counts.items() if count is not None}
        if seconds is None and not self._counts:
            raise UsageError(f"StopAfter needs one of seconds, {', '.join(counts)}")

    def on_start(self, started: Started) -> None:
        """Begins to count."""
        self._began, self._evaluated = time.monotonic(), 0
        checkpoints = started.run.checkpoints if started.resumed else []
        self._before = {
            "environment_steps": checkpoints[-1].environment_steps if checkpoints else 0,
            "gradient_steps": checkpoints[-1].gradient_steps if checkpoints else 0,
        }

    def on_evaluation(self, evaluation: Evaluation) -> Stop | None:
        """Counts it."""
        self._evaluated += 1
        return self._stop({"evaluations": self._evaluated})

    def on_status(self, status: Status) -> Stop | None:
        """Compares it with where the run began."""
        if self._seconds is not None and (passed := time.monotonic() - self._began) >= self._seconds:
            return STOP(f"after {passed:.1f} s")
        self._before.setdefault("episodes", status.episodes)
        now = {name: getattr(status, name) - before for name, before in self._before.items()}
        return self._stop(now)

    def _stop(self, now: Mapping[str, int]) -> Stop | None:
        reached = [name for name, count in self._counts.items() if now.get(name, -1) >= count]
        return STOP(f"after {now[reached[0]]:,} {reached[0].replace('_', ' ')}") if reached else None


def _check(values: Mapping[str, Any], *, whole: bool) -> None:
    """Refuses what is no number, or a negative one."""
    words = "a whole number" if whole else "a number"
    for name, value in values.items():
        if value is None:
            continue
        is_number = isinstance(value, int) or (isinstance(value, float) and not whole and math.isfinite(value))
        if isinstance(value, bool) or not is_number or value < 0:
            raise UsageError(f"{name} is {words} of at least 0, not {value!r}")
