"""How a run has ended, in one word: summary, exit code, terminal, `logs/supervisor.log` and Python say the same.

The learner writes the summary of a run that it ends itself. Where another process ended the run, or the learner died,
the launcher writes why, so that the reason survives whoever had it.
"""

from typing import Any

import msgspec

from pipeline.acting.policy_files import judged_by
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.monitoring.console import Console, one_line, read
from pipeline.records import checkpoint
from pipeline.records.ended import reached_end
from pipeline.records.recorder import Recorder
from pipeline.records.results import EXIT_CODES, Status, Summary

_OF_CODE = {2: "refused", 3: "stalled", 4: "diverged"}


class RunFailed(RuntimeError):
    """A run ended before it reached a stop condition: what `pipeline.train` raises.

    Args:
      summary: of the run, `summary.json`; its `stop_reason` and `message` are the error's.
    """

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary.reason)
        self.summary = summary

    @property
    def exit_code(self) -> int:
        """Of the command that would have run it."""
        return EXIT_CODES[self.summary.stop_reason]


def ended(experiment: Experiment, run: RunDirectory) -> bool:
    """Whether a run that is to be resumed has reached its end, by the stop conditions of now; says so if it has."""
    if words := reached_end(experiment, run, judged_by(experiment)):
        print(words)
    return bool(words)


def forget_lost(run: RunDirectory) -> None:
    """Has a run that left no checkpoint begin anew: nothing is left of what its steps taught, so they are not counted.

    What it had counted and how it was evaluated goes; the command says so.
    """
    if any(checkpoint.exists(folder) for folder in (run.checkpoints, *run.path.glob("replay-*/checkpoints"))):
        return
    steps = sum(Recorder(path).counts.environment_steps for path in run.recorders.glob("collector-*"))
    for path in (*run.recorders.iterdir(), run.evaluations):
        path.unlink(missing_ok=True)
    if steps:
        print(f"no checkpoint had been written: the run begins anew, without its {steps:,} environment steps of before")


def conclude(console: Console, run: RunDirectory, experiment: Experiment, code: int, reason: str, by: str = "") -> int:
    """Brings summary, log and terminal to one word, and returns the exit code.

    Args:
      console: that ends with it.
      run: its directory.
      experiment: what was run.
      code: exit code that the launcher has found.
      reason: in words; empty where the summary has it.
      by: what interrupted the run, such as "SIGTERM"; empty if nothing did.
    """
    summary = read(run.summary, Summary)
    if summary is None or EXIT_CODES[summary.stop_reason]:  # else it reached its stop condition, whoever failed then
        if not reason and summary is None:
            reason = f"the learner ended with exit code {code} before it had a result; see {run.logs}"
        if reason:
            why = _OF_CODE.get(code) or ("interrupted" if by else "failed")
            summary = write_reason(run, experiment, why, reason)
    assert summary is not None
    code, words = EXIT_CODES[summary.stop_reason], one_line(summary.reason)
    if summary.stop_reason == "interrupted":
        from pipeline.runtime.installation import how_to_resume

        by = f" by {by}" if by and words == "interrupted" else ""
        words = f"{words}{by}; to go on: {how_to_resume(run.path)}"
    console.say_end(code, words if code else "")
    return code


def write_reason(run: RunDirectory, experiment: Experiment, stop_reason: str, message: str) -> Summary:
    """Writes into the summary why the run ended; where the learner left none, with what its last status says.

    Args:
      run: its directory.
      experiment: what was run.
      stop_reason: of `EXIT_CODES`.
      message: in words.
    """
    summary = read(run.summary, Summary) or _of_status(read(run.status, Status), experiment)
    summary = msgspec.structs.replace(summary, stop_reason=stop_reason, message=one_line(message))
    try:
        write_json(run.summary, summary)
    except OSError as error:
        added = f"{summary.message}; {run.summary} could not be written: {error}"
        summary = msgspec.structs.replace(summary, message=added)
    return summary


def keep_reason(run: RunDirectory, experiment: Experiment, error: BaseException) -> None:
    """Writes what ended a run in the launcher's own process into its summary and log, before it is raised."""
    if not run.logs.is_dir():
        return
    why = {UsageError: "refused", KeyboardInterrupt: "interrupted"}.get(type(error), "failed")
    words = str(error) if why == "refused" else f"{type(error).__name__}: {error}"
    summary = write_reason(run, experiment, why, words)
    Console(run, experiment).keep(summary.reason)


def _of_status(status: Status | None, experiment: Experiment) -> Summary:
    """A result from what the run did last."""
    found: dict[str, Any] = {
        name: 0 for name in Summary.__struct_fields__ if Summary.__annotations__[name] in (int, float)
    }
    if status is not None:
        told = msgspec.structs.asdict(status)
        found |= {name: told[name] for name in Summary.__struct_fields__ if name in told}
        found["mean_return"] = found["best_mean_return"] = status.evaluation_return
        found["info"] = status.evaluation_info
    stop, score = experiment.stop, found.get("mean_return")
    if stop.target != "return":
        score = found.get("info", {}).get(stop.target)
    is_solved = stop.target_return is not None and score is not None and score >= stop.target_return
    found |= {"solved": is_solved, "seed": experiment.seed}
    found.setdefault("mean_return", None)
    return Summary(stop_reason="", **found)
