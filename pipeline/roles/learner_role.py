"""The learner's process: replay server, learner, counters, publications, checkpoints and the decision to stop."""

import logging
import math
import queue
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pipeline.experiment import config
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport, Evaluation, Report, Variables
from pipeline.records.recorder import Recorder
from pipeline.records.results import Ended, StopRequest, Summary, UnwrittenSummary
from pipeline.replay.sampling import Sample
from pipeline.roles.learner_parts import LearnerParts, Place
from pipeline.runtime.signs_of_life import RunningClock

if TYPE_CHECKING:
    from pipeline.roles.judging import Judging

log = logging.getLogger(__name__)

_STATUS_SECONDS = 0.5
_CATCH_UP_SECONDS = 10.0
"""Without a sample, after which a learner whose run has collected all its steps has learned what there is to learn."""
_CLOSE_SECONDS = 15.0
_CLOSE_UNFILLED_SECONDS = 2.0


class LearningProcess:
    """What the learner's process does, one `step` at a time.

    Args:
      experiment: the run.
      run: its directory.
      place: where its replay is.
      parts: what it is made of.
      started: wall-clock time at which the user's command started.
      life: how often the learner was started before in this run.
      recorder: says that this process is alive.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        place: Place,
        parts: LearnerParts,
        *,
        started: float,
        life: int = 0,
        recorder: Recorder | None = None,
    ) -> None:
        self._experiment, self._run, self._started, self._place = experiment, run, started, place
        self.ledger, self.replay, self.learner = parts.ledger, parts.replay, parts.learner
        self._records, self._feeder, self._on_policy = parts.records, parts.feeder, parts.on_policy
        self._recovery, self._saver = parts.recovery, parts.saver
        self._reporter, self._publisher = parts.reporter, parts.publisher
        self._recorder, self._life = recorder or Recorder(None), life
        if place.addresses:
            from pipeline.roles.separate_replay import next_life

            self._life = max(life, next_life(place.addresses))
        self._judging = None if experiment.evaluates else self._new_judging()
        self._windows_per_call = experiment.learner.batch_size * experiment.learner.steps_per_call
        self._published_at = 0.0
        self._published: Variables | None = None
        self._config_text = config.dump(experiment)
        self._is_finished, self._startup_seconds = False, 0.0
        self._reports: queue.Queue[Report] = queue.Queue()
        self._priorities = parts.priorities
        self._status_at = 0.0
        self._clock = RunningClock()
        self._sampled_at = self._clock()
        self._collected_at: float | None = None

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken."""
        return self.learner.gradient_steps

    def start(self) -> None:
        """Publishes the first weights, so that collectors begin, and compiles the learner meanwhile."""
        self._publish(wait=True)
        if self._place.blocking:  # else the roles are in this thread and hand their reports over themselves
            from pipeline.evaluator.far_roles import FarRoles

            of_run = self._experiment, self._run, lambda: self._published, self._reporter.warnings
            FarRoles(*of_run, self._reports.put, self.ledger.counters).listen(self.replay)
        self._feeder.start()
        self._reporter.phase = "compiling"
        self._write_status()
        self.learner.choose_loop()
        self._startup_seconds = time.time() - self._started
        self.ledger.start_training()
        self._sampled_at = self._clock()
        self._reporter.phase = "filling the replay"

    def step(self, timeout: float = 0.1) -> bool:
        """Waits up to `timeout` seconds for samples and learns from them; does what else is due.

        Returns:
          Whether it learned.

        Raises:
          Ended: the run has stalled or diverged.
        """
        self._recorder.beat()
        asked_at = time.monotonic()
        sample = self._feeder.next(timeout)
        self._reporter.waits.add_learner(time.monotonic() - asked_at)
        if sample is not None:
            self._learn(sample)
        elif self._feeder.is_waited_for:
            self._refuse_stall()
        self.tend()
        return sample is not None

    def stop_reason(self) -> str | None:
        """Why the run ends now, if it does: a budget of environment steps ends it once they have been learned from."""
        reason = self.ledger.stop_reason()
        return None if reason == "environment_steps" and not self._has_caught_up() else reason

    def _has_caught_up(self) -> bool:
        """Whether the learner has learned from what was collected as often as `replay.samples_per_insert` says.

        Nobody learns from the rest of an on-policy run, which fills no batch.
        """
        if self._on_policy is not None or self._experiment.is_offline:
            return True
        now = self._clock()
        self._collected_at = self._collected_at or now
        if now - max(self._sampled_at, self._collected_at) > _CATCH_UP_SECONDS:
            return True  # what is owed went with a replay, or is too little for `replay.min_size`
        is_stored = not any(counts.unconfirmed for counts in self.ledger.counters.processes.values())
        return is_stored and self.ledger.owed() < self._windows_per_call

    def tend(self) -> None:
        """Does what is due beside learning: reports, publications, status, checkpoints."""
        self._accept_reports()
        self.ledger.tick(self.learner.gradient_steps)
        if self._judging is not None:
            self._judging.tend()
        now = time.monotonic()
        if now - self._published_at >= self._experiment.learner.publish_seconds:
            self._publish(wait=self._published_at == -math.inf)  # a collector waits for it
        if now - self._status_at >= _STATUS_SECONDS:
            self._write_status()
        self._reporter.show_checkpoint(self._saver.tend(self._recovery.is_calm))

    def checkpoint(self) -> None:
        """Writes learner, counters and replay, and waits until that is done."""
        self._reporter.show_checkpoint(self._saver.save(self._recorder.beat))

    def ask_to_leave(self, evaluate_last: bool, is_finished: bool) -> None:
        """Publishes that the run ends: collectors send their last report, the evaluator may score the last weights."""
        self._is_finished = is_finished
        self._evaluate_last = evaluate_last and self.learner.gradient_steps > 0 and self._experiment.evaluates
        self._reporter.phase = "evaluating" if self._evaluate_last else "stopping"
        self._recorder.leave()
        self._write_status()
        self._feeder.leave(is_finished)
        self.ledger.await_last_reports()
        self._publish(wait=True, stopping=True)

    def drain(self, timeout: float = 0.05) -> bool:
        """Lets the roles leave: discards samples, so that the rate limiter lets the last inserts in.

        Returns:
          Whether all have left.
        """
        self._recorder.beat()
        self._records.read()
        if (sample := self._feeder.draw(timeout)) is not None:  # of several learners, a share of what a call takes
            self.ledger.counters.drained += sample.gradient_steps.shape.num_elements()
        self._accept_reports()
        return not self.awaited()

    def awaited(self) -> list[str]:
        """What the run's end waits for: the last evaluation, and collectors that have not left."""
        evaluation, steps = self.ledger.evaluation, self.learner.gradient_steps
        is_evaluated = evaluation is not None and evaluation.gradient_steps == steps
        awaits = self._evaluate_last and not (is_evaluated or self.ledger.solved)  # solved: the evaluator has left
        return [*(["the last evaluation"] if awaits else []), *self.ledger.collectors_awaited()]

    def warn(self, sentence: str) -> None:
        """Logs a warning, and shows it in the status until the end."""
        log.warning("%s", sentence)
        self._reporter.warn(sentence)

    def finish(self, stop_reason: str, message: str = "", save: bool = True) -> Summary:
        """Writes the last checkpoint and the summary.

        Raises:
          UnwrittenSummary: the disk does not take it.
        """
        self._records.read()
        if (request := self.ledger.request) is not None and request.stop_reason == stop_reason:
            message = "; ".join(filter(None, (request.message, message)))
        self.ledger.close_silent_collectors()
        if self._judging is not None or self.ledger.has_shortfalls():
            message = "; ".join(filter(None, (message, *(self._judging or self._new_judging()).end(stop_reason))))
        account = self._reporter.balance()
        if save:
            self.checkpoint()
            message = "; ".join(filter(None, (message, self._saver.warning)))
        summary = self.ledger.summary(stop_reason, self._startup_seconds, message, account)
        self._reporter.phase = "ended"
        self._write_status()
        self._reporter.show_result(summary)
        self._reporter.close()
        if self._publisher is not None and self._place.addresses:
            last = self.learner.publication(self.ledger.counters)
            told = {"life": self._life, "renewals": self._renewals, "stopping": True, "ended": True}
            told["is_finished"] = self._is_finished
            self._publisher.publish(msgspec.structs.replace(last, **told), wait_for_all=True)
        try:
            write_json(self._run.summary, summary)
        except OSError as error:
            raise UnwrittenSummary(
                f"{self._run.summary} could not be written: {error}; it would have been {summary}"
            ) from None
        return summary

    def close(self) -> None:
        """Ends threads and server of a process that goes on, as the inline launcher's does.

        A dataset that waits for its first samples cannot be interrupted: its thread stays.
        """
        self._feeder.stop_drawing()
        learned = self._reporter.outcome is not None or self._on_policy is not None
        deadline = time.monotonic() + (_CLOSE_SECONDS if learned else _CLOSE_UNFILLED_SECONDS)
        self._feeder.discard(deadline, self._on_policy.release if self._on_policy is not None else lambda: None)
        if self._priorities is not None:
            self._priorities.close()
        self._saver.close()
        if self._publisher is not None:
            self._publisher.close()
        self.replay.stop()
        self._feeder.join(deadline)

    def _learn(self, sample: Sample) -> None:
        self._sampled_at = self._clock()
        self._reporter.phase = "learning"
        before = self.learner.gradient_steps
        if self._on_policy is not None and self._on_policy.discards(sample, before):
            self._publish(wait=True)
            return
        outcome = self.learner.learn(sample)
        self.ledger.counters.learned += self._windows_per_call
        if diverged := self._recovery.judge(sample, outcome):
            raise Ended("diverged", diverged)
        if len(outcome.skipped) < self._experiment.learner.steps_per_call:  # else it has no figures
            self._reporter.outcome = outcome
        if self._on_policy is not None:
            self._publish(wait=True)  # the collectors wait for it
        if outcome.priorities is not None and self._priorities is not None:
            self._priorities.write(sample, outcome.priorities)
        if time.monotonic() - self._status_at >= _STATUS_SECONDS and not self._experiment.is_offline:
            self._reporter.data_ages = before - sample.gradient_steps.numpy().astype(np.int64)

    def _refuse_stall(self) -> None:
        waited = self._clock() - self._sampled_at
        if waited > self._experiment.learner.stall_seconds:
            if not self.replay.waits_for_collectors():
                raise RuntimeError(f"the replay has given nothing for {waited:.0f} s, though it has what was asked for")
            raise Ended("stalled", f"no experience for {waited:.0f} s: {self.replay.explain_stall()}")

    @property
    def _renewals(self) -> int:
        """How often all collectors were told to begin anew."""
        return self._on_policy.renewals if self._on_policy is not None else 0

    def _publish(self, wait: bool = False, stopping: bool = False) -> None:
        self._published = self.publication(stopping, stopping and self._evaluate_last)
        if self._publisher is not None:
            self._publisher.publish(self._published, wait)
        self._published_at = time.monotonic()

    def publication(self, stopping: bool = False, evaluate_last: bool = False) -> Variables:
        """Makes the learner's publication; if its weights are not finite it rolls back first, unless the run ends.

        Raises:
          Ended: it could not roll back.
        """
        variables = self.learner.publication(self.ledger.counters)
        if not stopping and not all(array.is_finite for array in variables.weights):
            if diverged := self._recovery.replace_weights():
                raise Ended("diverged", diverged)
            variables = self.learner.publication(self.ledger.counters)
        return msgspec.structs.replace(
            variables,
            stopping=stopping,
            evaluate_last=evaluate_last,
            life=self._life,
            renewals=self._renewals,
            allowances=self.ledger.allowances(),
            is_collected=self.ledger.is_collected,
            is_finished=stopping and self._is_finished,
            evaluated_at=self.ledger.evaluated_at,
            config=self._config_text,
        )

    def _accept_reports(self) -> None:
        while not self._reports.empty():  # nobody else takes them
            self.accept(self._reports.get())

    def accept(self, report: Report) -> None:
        """Enters a report into the ledger and TensorBoard."""
        if isinstance(report, CollectorReport):
            self.ledger.accept_collector(report)
            if self._is_held(report):
                self._published_at = -math.inf  # it waits for more steps, or for the word that there are none
        elif isinstance(report, Evaluation):
            self.ledger.accept_evaluation(report)
            for text in self._recovery.sentinel.see_evaluation(report) if self._experiment.evaluates else ():
                log.warning("%s", text)
            log.info("evaluation: %s", report)
        self._reporter.show_report(report)

    def _is_held(self, report: CollectorReport) -> bool:
        """Whether a collector that has taken so many steps may take no other one."""
        taken = report.environment_steps + self._experiment.collect.lanes
        return self._published is not None and taken > self._published.allowance(report.process)

    def _new_judging(self) -> "Judging":
        from pipeline.roles.judging import Judging

        return Judging(self._experiment, self._run, self.ledger, self.learner, self.accept)

    def _write_status(self) -> None:
        self._status_at = time.monotonic()
        if self.ledger.request is None and self._run.stop_request.is_file():
            self.ledger.request = msgspec.json.decode(self._run.stop_request.read_bytes(), type=StopRequest)
        self._records.read()
        self.ledger.see_servers(self.replay.seen())
        self._recorder.advance(self.learner.gradient_steps)
        self._reporter.show_status()
