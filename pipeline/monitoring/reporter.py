"""What the learner's process tells of the run: `status.json` for the terminal, scalars for TensorBoard."""

import logging
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.learner.checkpointing import Saved, Saver
from pipeline.learner.learner import Learner, Outcome
from pipeline.learner.recovery import Recovery
from pipeline.messages.contents import CollectorReport, Evaluation, Report
from pipeline.monitoring import dashboards, metrics
from pipeline.monitoring.pace import RatioMonitor, Waits, bottleneck
from pipeline.records.counters import Account, Tally, account, reconcile
from pipeline.records.ledger import Ledger
from pipeline.records.results import Status, Summary

if TYPE_CHECKING:
    from pipeline.learner.priorities import PriorityWriter
    from pipeline.replay.replay import Replay

log = logging.getLogger(__name__)

_HISTOGRAM_SECONDS = 5.0
_LUMPS = 8
"""Calls of the learner within a minute below which the ratio of samples to inserts says nothing."""


class Reporter:
    """Writes the status and the scalars of all roles.

    Args:
      experiment: the run.
      run: its directory.
      ledger: whose counts are shown.
      learner: whose step size is shown.
      replay: whose size is shown.
      recovery: whose warnings are shown, as are the saver's.
      saver: of the checkpoints.
      priorities: that are written back; None of a uniform replay.
      alone: whether this process is the whole run; else its parent is the supervisor.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        ledger: Ledger,
        learner: Learner,
        replay: "Replay",
        recovery: Recovery,
        saver: Saver,
        priorities: "PriorityWriter | None",
        alone: bool,
    ) -> None:
        self._experiment, self._run, self._ledger, self._learner = experiment, run, ledger, learner
        self._replay, self._recovery, self._saver, self._priorities = replay, recovery, saver, priorities
        self.metrics = metrics.MetricsWriter(run.tensorboard)
        self.phase = "starting"
        self.status: Status | None = None  # the newest
        self.outcome: Outcome | None = None
        """Of the newest call."""
        self.data_ages: NDArray[np.int64] | None = None
        """Gradient steps between acting and learning, of that call's samples."""
        self._histograms_at = -_HISTOGRAM_SECONDS
        self.waits = Waits()
        self.warnings: list[str] = []
        self._unwritten = ""
        call = experiment.learner.batch_size * experiment.learner.steps_per_call
        ratio = experiment.replay.samples_per_insert
        self._ratio = RatioMonitor(ratio, least=_LUMPS * call) if not experiment.is_offline else None
        self._processes = {"learner": psutil.Process()}
        if not alone and (parent := psutil.Process().parent()) is not None:
            self._processes["supervisor"] = parent
        command_line = shlex.join(self._processes.get("supervisor", self._processes["learner"]).cmdline())
        self._last_tally: Tally | None = None  # of the run's end
        self._refused_before = ledger.counters.refused_draws
        self._collectors: dict[int, CollectorReport] = {}  # the newest report of each
        self.metrics.show(dashboards.beginning(experiment, command_line, run.path), self._progress)

    def warn(self, sentence: str) -> None:
        """Shows a warning until the end of this process."""
        self.warnings.append(sentence)

    def account(self) -> Account | None:
        """Where every window is; None offline, where none is collected."""
        experiment, counters = self._experiment, self._ledger.counters
        return (
            None if experiment.is_offline else account(experiment, counters, self._last_tally or self._replay.tally())
        )

    def balance(self) -> Account | None:
        """The account, put right by what only the end tells; it stays, whatever servers still take of collectors."""
        asked, seen = time.monotonic(), None
        self._replay.refresh()
        while seen != (now := self._replay.seen()):  # a server may be followed by another between two questions
            seen, tally = now, self._replay.tally()
        self._ledger.see_servers(now, asked)
        self._last_tally = tally
        if not self._experiment.is_offline and reconcile(self._experiment, self._ledger.counters, tally):
            log.error("windows are unaccounted for: %s", self.account())
        return self.account()

    def show_report(self, report: Report) -> None:
        """Writes what a collector or the evaluator has reported."""
        of: Any = self._ledger.counters if isinstance(report, CollectorReport) else report
        progress = self._experiment.progress(of.environment_steps, of.gradient_steps)
        if isinstance(report, CollectorReport):
            self.waits.add_report(report)
            self._collectors[report.index] = report
            of_all = metrics.collector_scalars(self._collectors.values()) | metrics.episode_scalars(report)
            self.metrics.write(of_all, progress)
            if self._experiment.collectors > 1:
                from pipeline.monitoring import seldom

                self.metrics.write(seldom.collectors_own(report), progress, seldom.COLLECTORS)
        elif isinstance(report, Evaluation):
            self.metrics.write(metrics.evaluation_scalars(report), progress)
            self._keep(report)
        else:
            self.metrics.show([metrics.episode_image(report)], progress)

    def _keep(self, evaluation: Evaluation) -> None:
        """Appends an evaluation to `evaluations.jsonl`, a line each."""
        try:
            with self._run.evaluations.open("ab") as file:
                file.write(msgspec.json.encode(evaluation) + b"\n")
        except OSError as error:
            log.error("%s could not be written: %s", self._run.evaluations, error)

    def show_checkpoint(self, saved: Saved | None) -> None:
        """Writes what a checkpoint took, if one has been written."""
        if saved is not None:
            self._write(metrics.checkpoint_scalars(saved.seconds, saved.pause_seconds, saved.size))

    def show_status(self) -> None:
        """Writes the status of now."""
        resident = {role: process.memory_info().rss for role, process in self._processes.items()}
        size = self._replay.size() * self._experiment.windows_per_item
        loss = self.outcome.loss if self.outcome else None
        waits = self.waits.learner(), self.waits.collectors()
        slowest = bottleneck(self._experiment, *waits) if self.phase == "learning" else ""
        self._ledger.counters.refused_draws = self._refused_before + self._replay.refused.count
        warnings, mirrored = self._warnings_now(), dict[str, float]()
        if self._experiment.checkpoint.mirror:
            from pipeline.monitoring.seldom import mirrored_now

            mirrored = mirrored_now(self._run, self._ledger.counters, warnings)
        status = self._ledger.status(self.phase, size, loss, dict(resident), self.account(), warnings, slowest)
        self.status = status
        try:
            write_json(self._run.status, status)
            self._unwritten = ""
        except OSError as error:  # a full disk does not end the run
            if not self._unwritten:
                self._unwritten = f"{self._run.status} could not be written: {error}"
                log.error("%s", self._unwritten)
        wanted = self._experiment.replay.samples_per_insert
        age = 0.0 if self.data_ages is None else float(self.data_ages.mean())
        scalars = metrics.status_scalars(status, wanted, age) | metrics.waiting_scalars(*waits)
        for role, size in resident.items():
            scalars |= metrics.memory_scalars(role, size)
        self._write(scalars | mirrored | self._learner_scalars())
        self._show_histograms()

    def show_result(self, summary: Summary) -> None:
        """Writes how the run ended, for TensorBoard to sort runs by."""
        self._write(dashboards.results(summary))
        self.metrics.show(dashboards.ending(summary), self._progress)

    def close(self) -> None:
        """Writes what was handed over and closes all files."""
        self.metrics.close()

    def _warnings_now(self) -> list[str]:
        ratio, counters = "", self._ledger.counters
        if self._ratio is not None and self.phase == "learning":
            ratio = self._ratio.warning(counters.windows, counters.learned)
        now = [*self._ledger.warnings(), ratio, self._saver.warning, self.metrics.warning, self._unwritten]
        now += [*self._recovery.warnings, self._replay.warning, self._replay.refused.warning, self._learner.warning]
        return [*self.warnings, *filter(None, now)]

    def _learner_scalars(self) -> dict[str, float]:
        counters = self._ledger.counters
        scalars = metrics.divergence_scalars(counters, self._recovery.sentinel.q_max_over_bound)
        if self.outcome is None:
            return scalars
        scalars |= metrics.learner_scalars(self.outcome, float(self._learner.agent.learning_rate))
        if (priorities := self.outcome.priorities) is not None and self._priorities is not None:
            from pipeline.monitoring.seldom import priorities_now

            of_run = self._experiment, counters, self._learner, self._replay, self._priorities
            scalars |= priorities_now(priorities, *of_run)
        return scalars

    def _show_histograms(self) -> None:
        if self.outcome is None or time.monotonic() - self._histograms_at < _HISTOGRAM_SECONDS:
            return
        self._histograms_at = time.monotonic()
        values = {"learner/td_errors": self.outcome.td_errors, "learner/q_values": self.outcome.q_values}
        found = {tag: tensor.numpy() for tag, tensor in values.items()}
        if self.data_ages is not None:
            found["replay/data_ages_gradient_steps"] = self.data_ages
        self.metrics.show(dashboards.histograms(found), self._progress)

    def _write(self, scalars: Mapping[str, float]) -> None:
        self.metrics.write(scalars, self._progress)

    @property
    def _progress(self) -> int:
        counters = self._ledger.counters
        return self._experiment.progress(counters.environment_steps, counters.gradient_steps)
