"""Whether the roles keep pace: which one the others wait for, and if the ratio asked for is kept. No TensorFlow."""

import time
from collections import deque

from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport

_WINDOW_SECONDS = 5.0
_RATIO_SECONDS = 60.0
_RATIO_TOLERANCE = 0.2
_LITTLE = 0.2
"""Share of its time that a role may wait before it is worth a word: batches and items come in lumps."""


class Waits:
    """Shares of their time that learner and collectors have waited over the last seconds."""

    def __init__(self) -> None:
        self._learner_seconds = 0.0
        self._marks: deque[tuple[float, float]] = deque()
        self._reported: dict[str, tuple[float, float]] = {}
        self._shares: dict[str, float] = {}

    def add_learner(self, seconds: float) -> None:
        """Takes how long the learner has just waited for samples."""
        self._learner_seconds += seconds

    def add_report(self, report: CollectorReport, now: float | None = None) -> None:
        """Takes how long a collector had waited in all when it reported; `now` is monotonic, in seconds."""
        now = time.monotonic() if now is None else now
        then, blocked = self._reported.get(report.process, (now, report.blocked_seconds))
        if report.last:
            self._reported.pop(report.process, None)
            self._shares.pop(report.process, None)
            return
        if (passed := now - then) > 0.0:
            self._shares[report.process] = min(1.0, max(0.0, report.blocked_seconds - blocked) / passed)
        if passed == 0.0 or passed > _WINDOW_SECONDS / 2.0:
            self._reported[report.process] = (now, report.blocked_seconds)

    def learner(self, now: float | None = None) -> float | None:
        """The learner's share; None before there are two moments to compare."""
        now = time.monotonic() if now is None else now
        self._marks.append((now, self._learner_seconds))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW_SECONDS:
            self._marks.popleft()
        then, waited = self._marks[0]
        return min(1.0, (self._learner_seconds - waited) / (now - then)) if now > then else None

    def collectors(self) -> float | None:
        """The mean share of all collectors; None before one has reported twice."""
        return sum(self._shares.values()) / len(self._shares) if self._shares else None


class RatioMonitor:
    """Compares the windows learned from for each one stored, over the last minute, with what is asked for.

    Args:
      wanted: `replay.samples_per_insert`.
      least: windows stored within that time below which nothing is said, as batches come in lumps.
    """

    def __init__(self, wanted: float, least: int) -> None:
        self._wanted, self._least = wanted, least
        self._marks: deque[tuple[float, int, int]] = deque()

    def warning(self, stored: int, learned: int, now: float | None = None) -> str:
        """What to say of the last minute; empty while the ratio is kept or a minute has not passed.

        Args:
          stored: windows since the run began.
          learned: windows learned from, counted each time.
          now: monotonic time in seconds.
        """
        now = time.monotonic() if now is None else now
        self._marks.append((now, stored, learned))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _RATIO_SECONDS:
            self._marks.popleft()
        began, stored_then, learned_then = self._marks[0]
        if now - began < _RATIO_SECONDS or stored - stored_then < self._least:
            return ""
        ratio = (learned - learned_then) / (stored - stored_then)
        if abs(ratio - self._wanted) <= _RATIO_TOLERANCE * self._wanted:
            return ""
        side = "the learner is behind" if ratio < self._wanted else "the collectors are behind"
        wanted = f"replay.samples_per_insert={self._wanted:g}"
        return f"{ratio:.3g} samples per insert over the last minute, and {wanted}: {side}"


_COLLECT_FASTER = "more collect.lanes, or collect.collectors where cores are free"


def bottleneck(experiment: Experiment, learner: float | None, collectors: float | None) -> str:
    """Which role is the bottleneck, and which settings would help; empty while it is not known.

    Args:
      experiment: the run.
      learner: share of its time that the learner waits for samples.
      collectors: share of theirs that collectors wait for the rate limiter or, on-policy, for new weights.
    """
    if experiment.is_offline:
        return "" if learner is None else f"learner: works {1.0 - learner:.0%} of its time; nothing else limits it"
    if learner is None or collectors is None:
        return ""
    waits = f"the learner waits {learner:.0%} of its time, collectors {collectors:.0%}"
    if experiment.agent.on_policy:
        slow, change = ("collectors", _COLLECT_FASTER) if learner > 0.5 else ("learner", "fewer epochs, or a GPU")
        turns = "" if experiment.agent.batches_ahead else "on-policy they take turns, "
        return f"{slow}: {turns}{waits}; to speed up: {change}"
    if max(learner, collectors) < _LITTLE:
        return f"none: {waits}; to speed up: more cores for both"
    if min(learner, collectors) >= _LITTLE:
        return f"replay: {waits}; to speed up: larger items (replay.steps_per_item, collect.lanes)"
    if learner > collectors:
        return f"collectors: {waits}; to speed up: {_COLLECT_FASTER}, or a higher replay.samples_per_insert"
    return f"learner: {waits}; to speed up: a GPU or a smaller network; a lower replay.samples_per_insert collects more"
