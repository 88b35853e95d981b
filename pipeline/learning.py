"""The learner's process: replay server, learner, counters, publications, checkpoints and the decision to stop."""

import contextlib
import logging
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import tensorflow as tf
from numpy.typing import NDArray

from agents import Specs
from agents.priorities import bounded
from pipeline import checkpoint, metrics, native, offline
from pipeline.learner import Learner, Outcome
from pipeline.ledger import Ledger, Summary
from pipeline.replay import ReplayServer, Sample
from pipeline.run_directory import RunDirectory, write_json
from pipeline.sections import Experiment
from pipeline.variables import REPORTS_TABLE, VARIABLES_TABLE, CollectorReport, Evaluation, Report, Sender, take

log = logging.getLogger(__name__)

_STATUS_SECONDS = 0.5
_CLOSE_SECONDS = 15.0
_CLOSE_UNFILLED_SECONDS = 2.0
_LEAVE_SECONDS = 20.0
"""How long a stopping run waits for the last reports."""
_LAST_EVALUATIONS = 3.0
"""And how many times as long as an evaluation took: one may be under way, the last follows, and it may be slower."""


class Ended(Exception):
    """The run cannot go on; carries the stop reason and what to tell the user."""

    def __init__(self, stop_reason: str, message: str) -> None:
        super().__init__(message)
        self.stop_reason = stop_reason


class LearningProcess:
    """What the learner's process does, one `step` at a time.

    Args:
      experiment: the run.
      specs: of its environment.
      run: its directory.
      port: of the replay server.
      started: wall-clock time at which the user's command started.
      blocking: let Reverb's rate limiter hold collectors and learner to the ratio (not where they share a thread).
      resume: go on from the newest checkpoint, if there is one.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        run: RunDirectory,
        port: int,
        *,
        started: float,
        blocking: bool = True,
        resume: bool = False,
    ) -> None:
        self._experiment, self._run, self._started, self._blocking = experiment, run, started, blocking
        restored = checkpoint.newest(run.checkpoints) if resume else None
        self.ledger = Ledger(experiment, restored.counters if restored else checkpoint.Counters())
        dataset = None if restored else offline.stored_replay(experiment)
        self.replay = ReplayServer(
            experiment,
            specs,
            port,
            checkpoint.reverb_folder(run.checkpoints),
            restored.replay if restored else None,
            blocking,
            dataset,
        )
        if dataset:  # once: from here on the run's own checkpoints hold it, with the priorities that it has got
            self.ledger.counters.transitions = self.replay.info().current_size * experiment.transitions_per_item
            log.info("%d transitions of %s", self.ledger.counters.transitions, dataset)
        self.learner = Learner(experiment, specs)
        if restored:
            self.learner.read(restored.learner_prefix)
            log.info("resumed from %s", restored.path)
        self._metrics = metrics.MetricsWriter(run.tensorboard)
        self._reports: queue.Queue[Report] = queue.Queue()
        self._samples: queue.Queue[Sample | Exception] = queue.Queue(maxsize=1)
        self._feeding = threading.Thread(target=self._feed, name="samples", daemon=True)
        self._closing, self._fed = False, threading.Event()
        self._publisher = Sender(self.replay.weights_address, VARIABLES_TABLE)
        self._background = ThreadPoolExecutor(2, "background")  # a publication and priorities, one of each at most
        self._publishing: Future[bool] | None = None
        self._prioritizing: Future[None] | None = None
        self._published_at = self._status_at = 0.0
        self._checkpoint_at = self._sampled_at = time.monotonic()
        self._outcome: Outcome | None = None
        self._data_age = 0.0
        self._phase = "starting"
        self._startup_seconds = 0.0
        self._processes = {"learner": psutil.Process()}
        if blocking and (parent := psutil.Process().parent()) is not None:  # roles in processes of their own have one
            self._processes["supervisor"] = parent

    @property
    def gradient_steps(self) -> int:
        """Gradient steps taken."""
        return self.learner.gradient_steps

    def start(self) -> None:
        """Publishes the first weights, so that collectors begin, and compiles the learner meanwhile."""
        self._publish(wait=True)
        if self._blocking:  # else the roles are in this thread and hand their reports over themselves
            threading.Thread(target=self._receive, name="reports", daemon=True).start()
        self._feeding.start()
        self._write_status()
        self.learner.choose_loop()
        self._startup_seconds = time.time() - self._started
        self.ledger.start_training()
        self._sampled_at = time.monotonic()
        self._phase = "filling the replay"

    def step(self, timeout: float = 0.1) -> bool:
        """Waits up to `timeout` seconds for samples and learns from them; does what else is due.

        Returns:
          Whether it learned.

        Raises:
          Ended: the run has stalled or diverged.
        """
        learned = False
        try:
            sample = self._samples.get(timeout=timeout)
        except queue.Empty:
            self._refuse_stall()
        else:
            if isinstance(sample, Exception):
                raise sample
            self._learn(sample)
            learned = True
        self.tend()
        return learned

    def tend(self) -> None:
        """Does what is due beside learning: reports, publications, status, checkpoints."""
        self._accept_reports()
        self.ledger.tick(self.learner.gradient_steps)
        now = time.monotonic()
        if now - self._published_at >= self._experiment.learner.publish_seconds:
            self._publish()
        if now - self._status_at >= _STATUS_SECONDS:
            self._write_status()
        if now - self._checkpoint_at >= self._experiment.checkpoint.every_seconds:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Writes learner, counters and replay."""
        started = time.monotonic()
        self.ledger.tick(self.learner.gradient_steps)
        folder, keep = self._run.checkpoints, self._experiment.checkpoint.keep
        written = checkpoint.write(folder, self.ledger.counters, self.learner.write, self.replay.checkpoint, keep)
        self._checkpoint_at = time.monotonic()
        log.info("checkpoint %s in %.2f s", written.path, self._checkpoint_at - started)

    def ask_to_leave(self, evaluate_last: bool) -> None:
        """Publishes that the run ends: collectors send their last report, the evaluator may score the last weights."""
        self._phase = "stopping"
        self._write_status()
        self._evaluate_last = evaluate_last and self.learner.gradient_steps > 0
        self.ledger.await_last_reports()
        self._publish(wait=True, stopping=True)

    def drain(self, timeout: float = 0.05) -> bool:
        """Lets the roles leave: discards samples, so that the rate limiter lets the last inserts in.

        Returns:
          Whether all have left.
        """
        with contextlib.suppress(queue.Empty):
            self._samples.get(timeout=timeout)
        self._accept_reports()
        evaluated = not self._evaluate_last or (
            self.ledger.evaluation is not None and self.ledger.evaluation.gradient_steps == self.learner.gradient_steps
        )
        return evaluated and self.ledger.collectors_left()

    def finish(self, stop_reason: str, message: str = "", save: bool = True) -> Summary:
        """Writes the last checkpoint and the summary."""
        summary = self.ledger.summary(stop_reason, self._startup_seconds, message)
        if save:
            self.checkpoint()
        write_json(self._run.summary, summary)
        self._phase = "ended"
        self._write_status()
        self._metrics.close()
        return summary

    def close(self) -> None:
        """Ends threads and server of a process that goes on, as the inline launcher's does.

        A dataset that waits for its first samples cannot be interrupted: its thread stays.
        """
        self._closing = True
        self.replay.release()
        learned = self._outcome is not None or self._experiment.agent.on_policy
        deadline = time.monotonic() + (_CLOSE_SECONDS if learned else _CLOSE_UNFILLED_SECONDS)
        while not self._fed.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                self._samples.get(timeout=0.05)
        self._background.shutdown()
        self._publisher.close()
        self.replay.stop()
        self._feeding.join(max(0.0, deadline - time.monotonic()))  # the iterator of a queue ends when its server does

    def _learn(self, sample: Sample) -> None:
        self._sampled_at = time.monotonic()
        self._phase = "learning"
        on_policy = self._experiment.agent.on_policy
        if on_policy:
            self._refuse_other_weights(sample)
        before = self.learner.gradient_steps
        outcome = self.learner.learn(sample)
        if not outcome.finite:
            raise Ended(
                "diverged",
                f"loss or gradient was not finite within gradient steps up to {self.learner.gradient_steps}: "
                "lower agent.learning_rate, clip rewards (agent.reward_clip) or gradients (agent.gradient_clip_norm)",
            )
        self._outcome = outcome
        if on_policy:
            self._publish(wait=True)  # the collectors wait for it
        if outcome.priorities is not None:
            self._prioritize(sample, outcome.priorities)
        if time.monotonic() - self._status_at >= _STATUS_SECONDS and not self._experiment.is_offline:
            self._data_age = before - float(np.mean(sample.gradient_steps.numpy()))

    def _refuse_other_weights(self, sample: Sample) -> None:
        """Ends a run in which experience reached the learner that its present weights did not act in."""
        acted, present = sample.gradient_steps.numpy(), self.learner.gradient_steps
        if (acted != present).any():
            raise Ended(
                "failed",
                f"on-policy experience of the weights of gradient steps {acted.min()} to {acted.max()} reached the "
                f"learner at those of {present}: collectors must wait for new weights between sequences",
            )

    def _prioritize(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """Writes priorities back beside the next call's gradient steps; one write is on its way at most."""
        counters = self.ledger.counters
        counters.largest_priority = max(counters.largest_priority, float(bounded(priorities).max()))
        if self._prioritizing is not None:
            self._prioritizing.result()
        write = self.replay.update_priorities
        self._prioritizing = self._background.submit(write, sample.keys.numpy(), priorities)

    def _refuse_stall(self) -> None:
        waited = time.monotonic() - self._sampled_at
        if waited > self._experiment.learner.stall_seconds:
            raise Ended("stalled", f"no experience for {waited:.0f} s: {self.replay.explain_stall()}")

    def _publish(self, wait: bool = False, stopping: bool = False) -> None:
        if self._publishing is not None:
            if not wait and not self._publishing.done():
                return  # the last one is still on its way
            self._publishing.result()
        evaluate_last = stopping and self._evaluate_last
        variables = self.learner.publication(self.ledger.counters, stopping, evaluate_last)
        self._publishing = self._background.submit(self._publisher.send, variables, 10.0)
        self._published_at = time.monotonic()
        if wait:
            self._publishing.result()

    def _receive(self) -> None:
        take(native.reverb_client(self.replay.address), REPORTS_TABLE, Report, 2**31 - 1, self._reports.put)

    def _feed(self) -> None:
        # A dataset that waits cannot be interrupted: it waits in a thread of its own, the process ends without it.
        samples = iter(self.replay.dataset())
        try:
            for sample in samples:
                self._samples.put(sample)
                if self._closing:
                    return
        except tf.errors.OpError as error:
            self._samples.put(error)
        finally:
            self._fed.set()

    def _accept_reports(self) -> None:
        while True:
            try:
                report = self._reports.get_nowait()
            except queue.Empty:
                return
            self.accept(report)

    def accept(self, report: Report) -> None:
        """Enters a report into the ledger and TensorBoard."""
        if isinstance(report, CollectorReport):
            self.ledger.accept_collector(report)
            role, scalars = f"collector-{report.index}", metrics.collector_scalars(report)
        else:
            self.ledger.accept_evaluation(report)
            log.info("evaluation: %s", report)
            role, scalars = "evaluator", metrics.evaluation_scalars(report)
        of: Evaluation | checkpoint.Counters = report if isinstance(report, Evaluation) else self.ledger.counters
        self._metrics.write(role, scalars, self._experiment.progress(of.environment_steps, of.gradient_steps))

    def _write_status(self) -> None:
        self._status_at = time.monotonic()
        resident = {role: process.memory_info().rss for role, process in self._processes.items()}
        size = self.replay.info().current_size * self._experiment.transitions_per_item
        loss = self._outcome.loss if self._outcome else None
        status = self.ledger.status(self._phase, size, loss, dict(resident))
        write_json(self._run.status, status)
        scalars: dict[str, Any] = metrics.speed_scalars(
            status.environment_steps_per_second, status.gradient_steps_per_second, resident["learner"]
        )
        scalars |= metrics.data_scalars(
            replay_size=size,
            samples_per_insert=status.samples_per_insert,
            samples_per_insert_wanted=self._experiment.replay.samples_per_insert,
            data_age=self._data_age,
        )
        if self._outcome is not None:
            scalars |= metrics.learner_scalars(self._outcome, float(self.learner.agent.learning_rate))
        counters = self.ledger.counters
        if self._outcome is not None and (priorities := self._outcome.priorities) is not None:
            beta = float(self.learner.importance_exponent())
            scalars |= metrics.priority_scalars(priorities, counters.largest_priority, beta)
        progress = self._experiment.progress(counters.environment_steps, counters.gradient_steps)
        self._metrics.write("learner", scalars, progress)
        if "supervisor" in resident:
            self._metrics.write("supervisor", metrics.memory_scalars(resident["supervisor"]), progress)


def run_to_its_end(process: LearningProcess, interrupted: threading.Event) -> Summary:
    """Trains until a stop condition holds or `interrupted` is set, lets the roles leave, and saves everything."""
    message = ""
    process.start()
    try:
        reason = None
        while reason is None:
            process.step()
            reason = process.ledger.stop_reason() or ("interrupted" if interrupted.is_set() else None)
        message = process.ledger.fault
    except Ended as ended:
        reason, message = ended.stop_reason, str(ended)
        log.error("%s: %s", reason, message)
    # After a divergence the weights are not worth keeping: the last checkpoint before it stays the newest.
    evaluate_last = reason in ("environment_steps", "gradient_steps", "seconds")
    process.ask_to_leave(evaluate_last)
    patience = _LEAVE_SECONDS if reason != "stalled" else 1.0
    if evaluate_last and (evaluation := process.ledger.evaluation) is not None:
        patience += _LAST_EVALUATIONS * evaluation.seconds
    deadline = time.monotonic() + patience
    while not process.drain():
        if time.monotonic() > deadline:
            log.warning("roles did not leave within %.0f s of the end", patience)
            break
    return process.finish(reason, message, save=reason != "diverged")
