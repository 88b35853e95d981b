"""Shares a budget of environment steps out among the collectors, which together keep it. No TensorFlow."""

import time
from collections.abc import Collection

from pipeline.experiment.sections import Experiment
from pipeline.records.counters import Counters

NEWCOMER = ""
"""Stands for every collector process that the learner has not heard of."""
_ARRIVAL_SECONDS = 60.0
"""After the learner's start, within which every collector that began beside it is heard of."""


class StepBudget:
    """Deals environment steps out to collectors, which take no more of them than they have been dealt.

    Steps are dealt out again once a process has reported that it did not take them, never while it may: whatever the
    collectors have not reported yet, together they exceed the budget by less than one vector step.

    Args:
      experiment: its budget is `stop.environment_steps`.
      counters: of the run.
    """

    def __init__(self, experiment: Experiment, counters: Counters) -> None:
        self._experiment, self._counters, self._lanes = experiment, counters, experiment.collect.lanes
        # Who begins while the learner compiles has steps of its own already.
        self._newcomer = self._unspent // max(1, experiment.collectors) // self._lanes * self._lanes
        self._arrive_until = float("inf")
        self._arrived: set[str] = set()
        self._left_before = len(counters.left)
        self._dealt = {process: counts.environment_steps for process, counts in counters.processes.items()}
        self._dealt = {process: taken + self._newcomer for process, taken in self._dealt.items()}

    def start_training(self) -> None:
        """Is told that the learner hears reports from now on."""
        self._arrive_until = time.monotonic() + _ARRIVAL_SECONDS

    def allowances(self, heard: Collection[str]) -> dict[str, int]:
        """How many environment steps each collector process may have taken in all, by its name.

        Args:
          heard: processes that have given a sign of life of late: nothing is kept for the others.
        """
        processes, lanes = self._counters.processes, self._lanes
        self._arrived.update(self._counters.left[self._left_before :])
        self._end_arrival()
        self._dealt = {process: self._dealt.get(process, self._newcomer) for process in processes}
        self._arrived.update(processes)
        awaited = self._end_arrival()
        untaken = {process: self._untaken(process) for process in processes}
        free = self._unspent - awaited * self._newcomer - sum(untaken[name] for name in processes if name in heard)
        share = max(lanes, self._unspent // max(1, len(processes), self._experiment.collectors) // lanes * lanes)
        for process in sorted(processes, key=lambda name: (name not in heard, untaken[name], name)):
            more = min(share - untaken[process], -(-free // lanes) * lanes)
            if more > 0:
                self._dealt[process] = processes[process].environment_steps + untaken[process] + more
                free -= more
        return {**self._dealt, NEWCOMER: self._newcomer}

    def _end_arrival(self) -> int:
        """How many collectors are awaited; once none is, who comes has to be heard of before it gets steps."""
        awaited = max(0, self._experiment.collectors - len(self._arrived))
        if not awaited or time.monotonic() > self._arrive_until:
            self._newcomer = 0
        return awaited

    @property
    def _unspent(self) -> int:
        return max(0, self._experiment.stop.environment_steps - self._counters.environment_steps)

    def _untaken(self, process: str) -> int:
        """Steps that a process may still take of those it was dealt: too few for all its lanes are none."""
        untaken = self._dealt[process] - self._counters.processes[process].environment_steps
        return untaken if untaken >= self._lanes else 0
