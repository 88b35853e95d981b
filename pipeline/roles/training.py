"""A run from its first weights to its summary, in the learner's process."""

import logging
import threading

from pipeline.records.results import EXIT_CODES, Ended, Summary
from pipeline.roles.learner_role import LearningProcess
from pipeline.runtime.signs_of_life import RunningClock

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 30.0
"""How long a stopping run waits for the last reports."""
_LAST_EVALUATIONS = 3.0
"""And how many times as long as an evaluation took: one may be under way, the last follows, and it may be slower."""


def run_to_its_end(process: LearningProcess, interrupted: threading.Event) -> Summary:
    """Trains until a stop condition holds or `interrupted` is set, lets the roles leave, and saves everything."""
    message = ""
    process.start()
    try:
        reason = None
        while reason is None:
            process.step()
            reason = process.stop_reason() or ("interrupted" if interrupted.is_set() else None)
        message = process.ledger.fault
    except Ended as ended:
        reason, message = ended.stop_reason, str(ended)
        log.error("%s: %s", reason, message)
    # After a divergence the weights are not worth keeping: the last checkpoint before it stays the newest.
    evaluate_last = reason in ("environment_steps", "gradient_steps", "seconds", "callback")
    if evaluate_last and not process.gradient_steps and reason != "callback":
        reason = "nothing_learned"
    process.ask_to_leave(evaluate_last, EXIT_CODES[reason] == 0)
    clock = RunningClock()
    leaving_at = clock()
    while not process.drain():
        patience = _LEAVE_SECONDS if reason != "stalled" else 1.0
        if evaluate_last and (evaluation := process.ledger.evaluation) is not None:
            patience += _LAST_EVALUATIONS * evaluation.seconds
        if clock() > leaving_at + patience:
            process.warn(f"the run's end has waited {patience:.0f} s for {', '.join(process.awaited())}, in vain")
            break
    return process.finish(reason, message, save=reason != "diverged")
