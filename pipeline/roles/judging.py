"""How good the learner's weights are where no evaluator says so, and what a run that ends has not come to."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.acting import policy_files
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.messages.contents import Evaluation, Variables
from pipeline.records.ledger import Ledger
from pipeline.records.results import EXIT_CODES

if TYPE_CHECKING:
    from pipeline.evaluator.training_judge import TrainingJudge


log = logging.getLogger(__name__)


class Judging:
    """Sees to it that a run's weights are judged, and that it leaves a policy.

    Args:
      experiment: the run.
      run: its directory.
      ledger: of the run, with the newest training episodes.
      learner: whose weights are judged.
      accept: takes an evaluation.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        ledger: Ledger,
        learner: Learner,
        accept: Callable[[Evaluation], None],
    ) -> None:
        self._experiment, self._run, self._ledger = experiment, run, ledger
        self._learner, self._accept = learner, accept
        self._judge = None if experiment.evaluates else _training_judge(experiment, run, ledger)

    def tend(self) -> None:
        """Judges the newest weights by training episodes, if that is due and no evaluator does it."""
        steps = self._ledger.counters.environment_steps, self._learner.gradient_steps
        if self._judge is not None and self._judge.is_due_at(*steps):
            self._judge_weights()

    def end(self, stop_reason: str) -> list[str]:
        """Leaves a policy of the last weights; what the run has not come to, if it was left to end, in sentences."""
        ledger, gradient_steps = self._ledger, self._learner.gradient_steps
        if gradient_steps and stop_reason != "diverged":
            is_judged = ledger.evaluation is not None and ledger.evaluation.gradient_steps == gradient_steps
            if self._judge is not None and not is_judged and not ledger.solved:
                self._judge_weights(is_last=True)
            if ledger.evaluation is None:
                _keep_unjudged(self._learner.publication(ledger.counters), self._run.policies / "latest")
        if EXIT_CODES[stop_reason] and stop_reason != "nothing_learned":
            return []
        from pipeline.records.shortfalls import shortfalls

        return list(shortfalls(self._experiment, ledger.counters, ledger.evaluation))

    def _judge_weights(self, is_last: bool = False) -> None:
        assert self._judge is not None
        returns, lengths = self._ledger.recent_returns, self._ledger.recent_lengths
        info = {key: float(np.mean(numbers)) for key, numbers in self._ledger.recent_info.items()}
        weights = self._learner.publication(self._ledger.counters)
        if (judged := self._judge.judge(weights, returns, lengths, is_last, info)) is not None:
            self._accept(judged)


def _training_judge(experiment: Experiment, run: RunDirectory, ledger: Ledger) -> "TrainingJudge":
    from pipeline.evaluator.training_judge import TrainingJudge

    return TrainingJudge(experiment, run.policies, ledger.evaluated_at)


def _keep_unjudged(variables: Variables, folder: Path) -> None:
    """Saves a policy of weights that nothing is known of; a full disk is logged."""
    policy = policy_files.Policy(
        variables.program, variables.weights, variables.environment_steps, variables.gradient_steps, np.nan
    )
    try:
        policy_files.save(policy, folder)
    except OSError as error:
        log.error("the policy in %s could not be saved: %s", folder, error)
