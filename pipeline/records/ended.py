"""Whether a run has reached its end already: then a resume has nothing to do. Imported where one is resumed."""

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records.checkpoint import BadCheckpoint, Checkpoint
from pipeline.records.checkpoint_writer import paths
from pipeline.records.ledger import Ledger
from pipeline.records.results import Summary

_TO_GO_ON = {
    "target_return": "raise stop.target_return",
    "environment_steps": "raise stop.environment_steps",
    "gradient_steps": "raise stop.gradient_steps",
    "seconds": "raise stop.seconds",
}


def reached_end(experiment: Experiment, run: RunDirectory, judged_by: str) -> str:
    """Says that a run has reached its end, in a sentence; empty where it has not, or has left no result.

    Args:
      experiment: with the stop conditions of now.
      run: its directory.
      judged_by: settings of the evaluations to come.
    """
    try:
        summary = msgspec.json.decode(run.summary.read_bytes(), type=prepared(Summary))
        counters = Checkpoint(paths(run.checkpoints)[0]).counters
    except (OSError, IndexError, msgspec.MsgspecError, BadCheckpoint):
        return ""
    if summary.stop_reason not in (*_TO_GO_ON, "nothing_learned"):
        return ""
    counters.judge_anew(judged_by)
    reason = Ledger(experiment, counters).stop_reason()
    if reason not in _TO_GO_ON:
        return ""
    return (
        f"{run.path} has reached its end ({reason}) after {counters.environment_steps:,} environment steps and "
        f"{counters.gradient_steps:,} gradient steps: nothing is changed; to go on, {_TO_GO_ON[reason]}"
    )
