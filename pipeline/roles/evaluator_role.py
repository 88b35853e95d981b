"""The evaluator's process, from its start to its last report. No TensorFlow."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agents import Specs
from pipeline import environments
from pipeline.acting.policy_files import Policy
from pipeline.acting.sent_policies import SentPolicy
from pipeline.evaluator.evaluator import Evaluator
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import Sender, wait_for_server
from pipeline.messages.contents import REPORTS_TABLE, Evaluation, Variables
from pipeline.messages.variables_reader import VariablesReader
from pipeline.monitoring.health import Vitals, silence
from pipeline.records.recorder import Recorder

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 300.0
_REPORT_SECONDS = 5.0
_LEAST_BYTES_PER_SECOND = 100_000
"""Of a way to the learner that a policy takes."""
_POLL_SECONDS = 0.02
_UNDER_WAY_SECONDS = 5.0
"""How long an evaluation under way may go on when the run ends, beside the time that evaluations take."""
_LAST_SECONDS = 10.0
"""And how long the last one may take, beside one and a half times as long as others took."""


def run_evaluator(
    experiment: Experiment,
    folder: Path | None,
    addresses: Addresses,
    interrupted: threading.Event,
    recorder: Recorder | None = None,
    specs: Specs | None = None,
    vitals: Vitals | None = None,
    is_far: bool = False,
) -> int:
    """Evaluates until the learner says that the run ends; returns the exit code.

    An evaluation that did not reach the learner before it was restarted is sent again; one that reached it before the
    evaluator was restarted is not made again.

    Args:
      experiment: the run.
      folder: where it keeps the policies; None, of one that is far, keeps none.
      addresses: where it reads weights, and writes reports.
      interrupted: ends it.
      recorder: says that it is alive.
      specs: of the environment, where they are known: else one is made to see.
      vitals: how it is, for whoever asks.
      is_far: the learner's run directory is another: the policies are sent, each before its evaluation.

    Raises:
      UsageError: it was started with another config than the learner.
      TimeoutError: the replay did not answer for `collect.away_seconds`.
    """
    recorder, vitals = recorder or Recorder(None), vitals or Vitals()
    specs = specs or environments.describe(experiment.environment)
    wait_for_server(addresses.reports, _CONNECT_SECONDS, "the evaluator")
    reader = VariablesReader(addresses.weights, experiment.collect.variables_seconds)
    newest = reader.join(experiment, _CONNECT_SECONDS, "the evaluator")
    sender = Sender(addresses.reports, REPORTS_TABLE)
    evaluator, send_policy = _evaluator(experiment, specs, folder, newest, recorder, sender if is_far else None)
    vitals.obstacle = lambda: silence(reader.refuse_silence, "the evaluator")
    filmstrips = None
    if experiment.evaluation.images:
        from pipeline.evaluator.filming import Filmstrips

        filmstrips = Filmstrips(experiment, specs, recorder.beat)
    evaluation: Evaluation | None = None
    is_sent, life = True, newest.life
    usual_seconds = 0.0
    try:
        while not interrupted.is_set():
            recorder.beat()
            reader.refuse_silence(experiment.collect.away_seconds, "the evaluator")
            newest = reader.newest or newest
            if newest.life != life:
                life = newest.life
                is_sent = evaluation is None or evaluation.at == newest.evaluated_at
            if is_sent and evaluator.is_due(newest):
                recorder.work(True)
                evaluation = evaluator.evaluate(newest, _lateness(reader, newest, usual_seconds))
                recorder.work(False)
                if evaluation is not None and evaluation.is_whole:
                    usual_seconds = evaluation.seconds
                is_sent = evaluation is None
                if evaluation is not None:
                    vitals.show(evaluation)
                if evaluation is not None and filmstrips is not None:
                    # Pictures go first: the learner leaves once it has the last evaluation.
                    strip = filmstrips.draw(newest, evaluation, evaluator.is_last(newest))
                    if strip is not None and not sender.send(strip, _REPORT_SECONDS):
                        log.warning("the pictures of gradient step %d did not reach the learner", strip.gradient_steps)
            if not is_sent and evaluation is not None:
                is_sent = send_policy() and sender.send(evaluation, _REPORT_SECONDS)
                recorder.advance(recorder.progress + is_sent)
            if newest.stopping:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        reader.close()
        sender.close()
        evaluator.close()
        if filmstrips is not None:
            filmstrips.close()
    return newest.exit_code


class FarEvaluator(Evaluator):
    """Evaluates as `Evaluator` does, and sends the policies.

    Args:
      experiment: the run.
      specs: of its environment.
      folder: where it keeps policies itself, too; None keeps none.
      evaluated_at: see `Evaluator`.
      beat: see `Evaluator`.
      sender: of reports to the learner.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        folder: Path | None,
        evaluated_at: tuple[int, int] | None,
        beat: Callable[[], None],
        sender: Sender,
    ) -> None:
        self._keeps, self._sender = folder is not None, sender
        self._newest: SentPolicy | None = None
        super().__init__(experiment, specs, folder or Path(), evaluated_at, beat)

    def take(self, policy: Policy, score: float, is_whole: bool) -> bool:
        """See `Judge.take`; remembers the policy for `send_policy`."""
        self._newest = SentPolicy.of(policy, is_whole)
        return super().take(policy, score, is_whole)

    def send_policy(self) -> bool:
        """Sends the policy of the newest evaluation, which is to follow it; False if it has not arrived."""
        assert self._newest is not None
        size = sum(len(array.data) for array in self._newest.policy.weights)
        return self._sender.send(self._newest, _REPORT_SECONDS + size / _LEAST_BYTES_PER_SECOND)

    def _best_so_far(self) -> float:
        return super()._best_so_far() if self._keeps else -np.inf

    def _save(self) -> None:
        if self._keeps:
            super()._save()


def _evaluator(
    experiment: Experiment,
    specs: Specs,
    folder: Path | None,
    newest: Variables,
    recorder: Recorder,
    sender: Sender | None,
) -> tuple[Evaluator, Callable[[], bool]]:
    """What makes the evaluations, and what comes before each is sent, which says whether it has arrived."""
    if sender is not None:
        far = FarEvaluator(experiment, specs, folder, newest.evaluated_at, recorder.beat, sender)
        return far, far.send_policy
    assert folder is not None
    return Evaluator(experiment, specs, folder, newest.evaluated_at, recorder.beat), lambda: True


def _lateness(reader: VariablesReader, evaluated: Variables, usual_seconds: float) -> Callable[[], bool]:
    """Makes the function that says whether the run's end has waited for an evaluation for too long.

    Args:
      reader: hears that the run ends.
      evaluated: the weights evaluated.
      usual_seconds: that an evaluation took; 0 while none has ended.
    """
    patience = _UNDER_WAY_SECONDS + usual_seconds
    if evaluated.stopping:
        patience = _LAST_SECONDS + 1.5 * usual_seconds
    ends_at: float | None = None

    def is_late() -> bool:
        nonlocal ends_at
        newest = reader.newest
        if newest is None or not newest.stopping:
            return False
        ends_at = ends_at or time.monotonic() + patience
        return time.monotonic() > ends_at

    return is_late
