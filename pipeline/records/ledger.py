"""The ledger: adds up the roles' reports exactly, keeps recent results and decides when to stop. No TensorFlow."""

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import CollectorReport, Counts, Evaluation
from pipeline.records.counters import (
    ENDLESS_STEPS,
    FAILED,
    KILLED,
    SILENT,
    UNCONFIRMED,
    Account,
    BestEvaluation,
    Counters,
    Seen,
    Tally,
)
from pipeline.records.results import Status, StopRequest, Summary

if TYPE_CHECKING:
    from pipeline.records.step_budget import StepBudget

_RECENT_EPISODES = 100
_RECENT_EVALUATIONS = 60
_RATE_SECONDS = 5.0
_SILENT_REPORTS = 20
"""A collector that has missed so many reports was killed."""
_GONE_SECONDS = 60.0
"""Without a report, after which the steps that a collector has been dealt are dealt to others."""


class Ledger:
    """Adds up what collectors and evaluator report.

    Args:
      experiment: its stop conditions and batch size.
      counters: of the checkpoint that the run goes on from, or zeros.
    """

    def __init__(self, experiment: Experiment, counters: Counters) -> None:
        self._experiment = experiment
        self.counters = counters
        self._first_gradient_steps, self._first_environment_steps = counters.gradient_steps, counters.environment_steps
        self._first_train_seconds, self._first_windows = counters.train_seconds, counters.windows
        self._seen: dict[str, CollectorReport] = {}  # of processes that have not left
        self._heard: dict[str, float] = {}
        self._most_begun, self._told = 0, dict[str, int]()  # windows: between two reports of any; in each one's first
        self._epsilon, self._credit = 1.0, 0.0
        self.fault = ""
        """What ended a collector, if something did."""
        self.request: StopRequest | None = None
        """By which whoever began the run has asked to end it."""
        self.newest_fault = ""
        """The newest one that cost an episode, of any collector's environments."""
        self.recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        """Of training episodes."""
        self.recent_lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self.recent_info: dict[str, deque[float]] = {}
        self._evaluations: deque[tuple[float, float]] = deque(maxlen=_RECENT_EVALUATIONS)
        self.evaluation = counters.evaluation
        self._train_started: float | None = None
        self._step_budget = _step_budget(experiment, counters)
        self._filling_seconds: float | None = None
        self._marks: deque[tuple[float, int, int]] = deque()

    def start_training(self) -> None:
        """Starts the clock of `train_seconds`."""
        self._train_started = time.monotonic()
        if self._step_budget is not None:
            self._step_budget.start_training()
        # A resumed run may hold another ratio than before, and gets no more to learn at once than a new one does.
        replay, learned = self._experiment.replay, self.counters.learned
        most = min(self._first_windows, replay.min_size) * replay.samples_per_insert
        self._credit = learned + min(max(0.0, self._first_windows * replay.samples_per_insert - learned), most)

    def owed(self) -> float:
        """Windows that the learner has still to learn from, each time counted, to hold `replay.samples_per_insert`."""
        counters = self.counters
        collected = (counters.windows - self._first_windows) * self._experiment.replay.samples_per_insert
        return self._credit + collected - counters.learned

    def allowances(self) -> dict[str, int] | None:
        """How many environment steps each collector may have taken; None without a budget of them."""
        return None if self._step_budget is None else self._step_budget.allowances(self._heard_within(_GONE_SECONDS))

    @property
    def is_collected(self) -> bool:
        """Whether the budget of environment steps is spent."""
        return 0 < self._experiment.stop.environment_steps <= self.counters.environment_steps

    def accept_collector(self, report: CollectorReport) -> None:
        """Adds what is new in a report; its counts are cumulative, so a repeated one adds nothing."""
        self.recent_returns.extend(report.returns)
        self.recent_lengths.extend(report.lengths)
        for key, numbers in report.info.items():
            self.recent_info.setdefault(key, deque(maxlen=_RECENT_EPISODES)).extend(numbers)
        self._epsilon = report.epsilon
        if report.fault:
            self.fault = report.fault
        self.counters.largest_reward = max(self.counters.largest_reward, report.largest_reward)
        if report.newest_fault:
            self.newest_fault = report.newest_fault
        if report.process in self.counters.left:
            return
        self.count(report.process, report.counts)
        self._seen[report.process] = report
        self._heard[report.process] = time.monotonic()
        if report.last:
            self._leave(report.process, UNCONFIRMED)

    def accept_ended(self, process: str, counts: Counts, return_code: int) -> None:
        """Takes what a collector process had counted when it ended without a last report."""
        if process not in self.counters.left:
            self.count(process, counts)
            self.counters.interruptions += 1
            self._leave(process, KILLED if return_code < 0 else FAILED if return_code else UNCONFIRMED)

    def hear(self, process: str) -> None:
        """Notes that a process is alive; the end of the run waits for its last report."""
        self._heard[process] = time.monotonic()

    def count(self, process: str, counts: Counts) -> None:
        """Adds what a process has counted since it was last heard of."""
        counters = self.counters
        before = counters.processes.get(process, Counts())
        new = counts - before
        self._most_begun = max(self._most_begun, new.begun)
        if process not in self._told:
            self._told[process] = new.begun
            counters.unwatched -= min(new.begun, counters.unwatched)
        for name, count in msgspec.structs.asdict(new).items():  # the run's counters have the same names
            setattr(counters, name, getattr(counters, name) + count)
        counters.processes[process] = before + new

    def _leave(self, process: str, how: str) -> None:
        counts = self.counters.processes.pop(process)
        self.counters.left.append(process)
        self._seen.pop(process, None)
        self._heard.pop(process, None)
        if lost := counts.unconfirmed:
            self.counters.interruptions += how == UNCONFIRMED
            self.counters.lost[how] = self.counters.lost.get(how, 0) + lost

    def accept_restart(self, restored_items: int, drawn: int) -> None:
        """Takes what a replay in this process was restored with; see `losses.add_replay_restart`."""
        if self.counters.items or drawn:
            from pipeline.records import losses

            losses.add_replay_restart(self._experiment, self.counters, restored_items, drawn)
        self._first_environment_steps = self.counters.environment_steps

    def accept_learner_restart(self, tally: Tally, new_items: int) -> None:
        """Takes what a replay in processes of its own has, which went on while there was no learner."""
        from pipeline.records import losses

        losses.add_learner_restart(self._experiment, self.counters, tally, new_items, sum(self._told.values()))
        self._first_environment_steps = self.counters.environment_steps

    def see_servers(self, seen: Sequence[Seen], asked: float = 0.0) -> int:
        """Takes what servers in processes of their own have, if there are any; see `losses.update_from_servers`."""
        if not seen:
            return 0
        from pipeline.records import losses

        return losses.update_from_servers(self._experiment, self.counters, seen, asked)

    def close_silent_collectors(self) -> None:
        """Takes the newest report of each collector that has not said goodbye as its last: the run ends."""
        for process in list(self.counters.processes):
            self.counters.unreported += 2 * self._most_begun
            self.counters.interruptions += 1
            self._leave(process, SILENT)

    def accept_evaluation(self, evaluation: Evaluation) -> None:
        """Takes an evaluation; once one has reached the target, those still on their way do not undo it.

        One that was sent twice, as the learner was restarted meanwhile, counts once.
        """
        if self.evaluation is not None and evaluation.at == self.evaluation.at:
            return
        self.counters.evaluations += 1
        self._evaluations.append((self.counters.train_seconds, evaluation.mean_return))
        if not self.solved:
            self.evaluation = self.counters.evaluation = evaluation
        best = self.counters.best
        if best is None or (evaluation.mean_return > best.mean_return and evaluation.is_whole):
            self.counters.best = BestEvaluation(evaluation.mean_return, *evaluation.at)

    @property
    def best_mean_return(self) -> float | None:
        """The largest of any evaluation, those before a resume included."""
        return self.counters.best.mean_return if self.counters.best else None

    @property
    def evaluated_at(self) -> tuple[int, int] | None:
        """Environment and gradient steps of the newest evaluation."""
        return self.evaluation.at if self.evaluation is not None else None

    def await_last_reports(self) -> None:
        """Restarts every collector's deadline for its last report: one that the rate limiter blocked sent none."""
        self._heard = dict.fromkeys(self._heard, time.monotonic())

    def collectors_awaited(self) -> list[str]:
        """Collector processes that have been heard of and neither sent a last report nor fallen silent."""
        return self._heard_within(_SILENT_REPORTS * self._experiment.collect.report_seconds)

    def _heard_within(self, seconds: float) -> list[str]:
        now = time.monotonic()
        return sorted(process for process, heard in self._heard.items() if now - heard <= seconds)

    @property
    def solved(self) -> bool:
        """Whether an evaluation has reached the target."""
        stop, evaluation = self._experiment.stop, self.evaluation
        if stop.target_return is None or evaluation is None:
            return False
        return evaluation.is_whole and evaluation.score(stop.target) >= stop.target_return

    def tick(self, gradient_steps: int) -> None:
        """Brings counters and rates up to now."""
        now = time.monotonic()
        self.counters.gradient_steps = gradient_steps
        if self._train_started is not None:
            self.counters.train_seconds = self._first_train_seconds + now - self._train_started
            if self._filling_seconds is None and gradient_steps > self._first_gradient_steps:
                self._filling_seconds = now - self._train_started
        self._marks.append((now, self.counters.environment_steps, gradient_steps))
        while now - self._marks[0][0] > _RATE_SECONDS and len(self._marks) > 2:
            self._marks.popleft()

    def rates(self) -> tuple[float, float]:
        """Environment and gradient steps per second over the last seconds."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (then, environment_steps, gradient_steps), (now, *latest) = self._marks[0], self._marks[-1]
        passed = max(now - then, 1e-9)
        return (latest[0] - environment_steps) / passed, (latest[1] - gradient_steps) / passed

    def stop_reason(self) -> str | None:
        """Why the run ends now, if it does."""
        stop, counters = self._experiment.stop, self.counters
        if self.fault:
            return "failed"
        if self.solved:
            return "target_return"
        if self.request is not None:
            return self.request.stop_reason
        budgets = {  # once no steps are to be collected, the others end what the learner has still to learn
            "gradient_steps": (stop.gradient_steps, counters.gradient_steps),
            "seconds": (stop.seconds, counters.train_seconds),
            "environment_steps": (stop.environment_steps, counters.environment_steps),
        }
        for reason, (budget, spent) in budgets.items():
            if budget and spent >= budget:
                return reason
        return None

    def has_shortfalls(self) -> bool:
        """Whether there is something that a run should have come to; `pipeline.records.shortfalls` says what."""
        evaluation, episodes = self.evaluation, self.counters.episodes  # offline, where there are none: always
        return not self.counters.gradient_steps or not episodes or evaluation is None or evaluation.unfinished > 0

    def warnings(self) -> list[str]:
        """What is wrong with the episodes of the run."""
        counters, evaluation = self.counters, self.evaluation
        lanes = self._experiment.collect.lanes * self._experiment.collectors
        is_endless = not counters.episodes and counters.environment_steps >= max(1, lanes) * ENDLESS_STEPS
        is_lacking = len(self.recent_info) < len(self._experiment.collect.info_keys)
        if not is_endless and not is_lacking and (evaluation is None or not evaluation.unfinished):
            return []
        from pipeline.records.shortfalls import MANY_EPISODES, endless

        had = self.recent_info if len(self.recent_returns) >= MANY_EPISODES else None
        return endless(self._experiment, counters, evaluation, had)

    def samples_per_insert(self) -> float:
        """Windows learned from for each one stored."""
        return self.counters.learned / max(1, self.counters.windows)

    def status(
        self,
        phase: str,
        replay_size: int,
        loss: float | None,
        resident: dict[str, int],
        account: Account | None = None,
        warnings: Sequence[str] = (),
        bottleneck: str = "",
    ) -> Status:
        """What to show of the run now."""
        environment_rate, gradient_rate = self.rates()
        for report in self._seen.values():
            resident[f"collector-{report.index}"] = report.resident_bytes
        if self.evaluation is not None and self._experiment.evaluates:
            resident["evaluator"] = self.evaluation.resident_bytes
        return Status(
            **self._counted(Status),
            phase=phase,
            environment_steps_per_second=environment_rate,
            gradient_steps_per_second=gradient_rate,
            samples_per_insert=self.samples_per_insert(),
            replay_size=replay_size,
            episode_return=float(np.mean(self.recent_returns)) if self.recent_returns else None,
            evaluation_return=self.evaluation.mean_return if self.evaluation else None,
            evaluation_std=self.evaluation.std_return if self.evaluation else None,
            recent_evaluations=list(self._evaluations),
            episode_info={key: float(np.mean(numbers)) for key, numbers in self.recent_info.items()},
            evaluation_info=self.evaluation.info if self.evaluation else {},
            epsilon=max((report.epsilon for report in self._seen.values()), default=self._epsilon),
            loss=loss,
            resident_bytes=resident,
            account=account,
            newest_fault=self.newest_fault,
            bottleneck=bottleneck,
            warnings=list(warnings),
        )

    def _counted(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        """The fields of a status or a summary that the run's counters have, too."""
        return {name: getattr(self.counters, name) for name in kind.__struct_fields__ if hasattr(self.counters, name)}

    def summary(
        self, stop_reason: str, startup_seconds: float, message: str = "", account: Account | None = None
    ) -> Summary:
        """The run's result."""
        counters = self.counters
        here = max(counters.train_seconds - self._first_train_seconds, 1e-9)
        return Summary(
            **self._counted(Summary),
            solved=self.solved,
            stop_reason=stop_reason,
            seed=self._experiment.seed,
            mean_return=self.evaluation.mean_return if self.evaluation else None,
            startup_seconds=startup_seconds,
            filling_seconds=here if self._filling_seconds is None else self._filling_seconds,
            environment_steps_per_second=(counters.environment_steps - self._first_environment_steps) / here,
            gradient_steps_per_second=(counters.gradient_steps - self._first_gradient_steps) / here,
            samples_per_insert=self.samples_per_insert(),
            newest_fault=self.newest_fault,
            best_mean_return=self.best_mean_return,
            info=self.evaluation.info if self.evaluation else {},
            account=account,
            message=message,
        )


def _step_budget(experiment: Experiment, counters: Counters) -> "StepBudget | None":
    """What deals steps out to collectors, where there is a budget of them."""
    if not experiment.stop.environment_steps or experiment.is_offline:
        return None
    from pipeline.records.step_budget import StepBudget

    return StepBudget(experiment, counters)
