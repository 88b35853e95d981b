"""All roles in one process, stepped in turn: for debugging and tests.

The ratio of samples to inserts is held by the order of the steps instead of Reverb's limiter, which would block the
only thread.
"""

import threading

from pipeline import environments
from pipeline.collector.collector import Collector
from pipeline.evaluator.evaluator import Evaluator
from pipeline.experiment.sections import Experiment
from pipeline.launchers import Launch
from pipeline.messages.ports import free_port
from pipeline.monitoring.console import Console
from pipeline.records.recorder import Recorder
from pipeline.records.results import EXIT_CODES, Ended, Summary, UnwrittenSummary
from pipeline.runtime.process import interruption, quieten_gym


def run(launch: Launch) -> int:
    """Runs all roles in this thread; returns the exit code."""
    quieten_gym()
    interrupted, terminal = interruption(), launch.asked and launch.asked.terminal
    try:
        with Console(launch.run, launch.experiment, launch.shows_progress, terminal) as console:
            code, reason = 1, ""
            try:
                code = EXIT_CODES[_Inline(launch, console).run(interrupted).stop_reason]
            except UnwrittenSummary as error:
                reason = str(error)
        if not code:
            console.say_end(code, reason)
            return code
        from pipeline.launchers.conclusion import conclude

        return conclude(console, launch.run, launch.experiment, code, reason, interrupted.by)
    finally:
        interrupted.release()


class _Inline:
    def __init__(self, launch: Launch, console: Console) -> None:
        from pipeline.roles.learner_parts import Place, learner_parts
        from pipeline.roles.learner_role import LearningProcess

        self._experiment: Experiment = launch.experiment
        self._console, self._callbacks = console, launch.callbacks
        specs = environments.described(launch.experiment.environment, launch.run.specs)
        port = launch.experiment.replay.port or free_port()
        console.say_privacy(launch.privacy, port)
        place = Place(port, blocking=False)
        parts = learner_parts(launch.experiment, specs, launch.run, place, resume=launch.resume)
        self.learning = LearningProcess(launch.experiment, launch.run, place, parts, started=launch.started)
        self.learning.start()
        self._recorders: list[Recorder] = []
        self._collectors: list[Collector] = []
        for index in range(launch.experiment.collectors):
            role = f"collector-{index}"
            incarnation = launch.run.incarnations(role)
            path = launch.run.recorder(role, incarnation)
            self._recorders.append(Recorder(path))
            address, variables = self.learning.replay.address, self.learning.publication()
            collector = Collector(launch.experiment, specs, index, path.name, address, variables, incarnation)
            self._collectors.append(collector)
        evaluated_at = self.learning.ledger.evaluated_at
        self._evaluator = None
        if launch.experiment.evaluates:
            self._evaluator = Evaluator(launch.experiment, specs, launch.run.policies, evaluated_at)
        self._filmstrips = None
        if launch.experiment.evaluates and launch.experiment.evaluation.images:
            from pipeline.evaluator.filming import Filmstrips

            self._filmstrips = Filmstrips(launch.experiment, specs)

    def run(self, interrupted: threading.Event) -> Summary:
        """Alternates the roles until the run ends."""
        message, reason = "", None
        try:
            while reason is None:
                self._collect()
                while self._experiment.agent.on_policy and not (
                    self._collectors[0].has_completed_window or self.learning.ledger.is_collected
                ):
                    self._collect()  # weights change between windows only
                self._learn()
                self._evaluate(interrupted)
                self._console.refresh()
                if self._callbacks is not None:
                    self._callbacks.tend(interrupted)
                reason = "interrupted" if interrupted.is_set() else self.learning.ledger.stop_reason()
            if reason == "interrupted":
                self._console.say_stopping()
            self._collect(last=True)
            while reason == "environment_steps" and self.learning.stop_reason() is None:
                self.learning.step()
                reason = "interrupted" if interrupted.is_set() else reason
        except Ended as ended:
            reason, message = ended.stop_reason, str(ended)
        except environments.EnvironmentFault as fault:
            reason, message = "failed", str(fault)
        except KeyboardInterrupt:  # an environment has put back Python's own handler
            reason = "interrupted"
        self._collect(last=True)
        if reason in ("environment_steps", "gradient_steps", "seconds", "callback"):
            if not self.learning.gradient_steps and reason != "callback":
                reason = "nothing_learned"
            self._evaluate(interrupted, last=True)
        try:
            return self.learning.finish(reason, message, save=reason != "diverged")
        finally:
            self.learning.close()
            if self._evaluator is not None:
                self._evaluator.close()
            if self._filmstrips is not None:
                self._filmstrips.close()

    def _collect(self, last: bool = False) -> None:
        variables = self.learning.publication(stopping=last)
        for collector, recorder in zip(self._collectors, self._recorders, strict=True):
            collector.use(variables)
            if last:
                collector.complete()
            elif collector.may_step:
                collector.step()
            # One without steps of the budget reports, too: only whom the learner has heard of is dealt the last few.
            recorder.record(collector.counts)
            collector.confirm(lambda: True, everything=True)
            recorder.record(collector.counts)
            # Counted at every step, as the ratio is steered by the counts; too often to go to TensorBoard.
            self.learning.ledger.accept_collector(collector.report(variables, last))
            if last:
                collector.close()
                recorder.mark_ended(0)
        if last:
            self._collectors, self._recorders = [], []

    def _learn(self) -> None:
        if self._experiment.agent.on_policy:  # a batch waits in the queue
            while self.learning.ledger.stop_reason() is None and not self.learning.step():
                pass
            return
        ledger, learner = self.learning.ledger, self._experiment.learner
        if self._experiment.is_offline:
            self.learning.step()
            return
        if ledger.counters.windows < self._experiment.replay.min_size:
            return
        while ledger.owed() >= learner.batch_size * learner.steps_per_call and ledger.stop_reason() is None:
            self.learning.step()
        self.learning.tend()

    def _evaluate(self, interrupted: threading.Event, last: bool = False) -> None:
        if self._evaluator is None:
            return
        variables = self.learning.publication(stopping=last, evaluate_last=last)
        if not self._evaluator.is_due(variables):
            return
        evaluation = self._evaluator.evaluate(variables, interrupted.is_set)
        if evaluation is not None:
            if self._filmstrips is not None:
                strip = self._filmstrips.draw(variables, evaluation, self._evaluator.is_last(variables))
                if strip is not None:
                    self.learning.accept(strip)
            self.learning.accept(evaluation)
