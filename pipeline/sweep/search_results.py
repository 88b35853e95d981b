"""Results of a search: its table, the best config as a file, and files for other programs."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.comparison.groups import fields, text
from pipeline.comparison.text_tables import aligned
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_atomically, write_json
from pipeline.sweep.combinations import Combination
from pipeline.sweep.plan import RESULTS
from pipeline.sweep.search import OBJECTIVES, SearchPlan, best, name
from pipeline.sweep.space import probes
from pipeline.sweep.study import Found, State

BEST = "best.toml"
_SHOWN = 10


class Trial(msgspec.Struct, frozen=True):
    """One trial of a search."""

    name: str
    """Of its folder."""
    state: State
    values: dict[str, Any]
    """By field."""
    objective: float | None
    """Of a complete trial."""
    evaluations: int
    """Of the budget's, those that it was judged by."""
    last_return: float | None
    """The last of these."""
    reason: str
    """Why it was pruned or has failed."""


class SearchResults(msgspec.Struct, frozen=True):
    """`sweep.json` of a search."""

    config: str
    overrides: list[str]
    seeds: list[int]
    fields: list[str]
    """That are searched; TensorBoard's *HParams* shows them first."""
    search: str
    objective: str
    """What is maximised, in words."""
    is_ended: bool
    """Whether all trials have ended."""
    best: Trial | None
    importance: dict[str, float]
    """By field, its share in what tells better trials from worse ones; empty while too few have ended."""
    trials: list[Trial]
    """By number."""


def write(plan: SearchPlan, found: Sequence[Found], importance: dict[str, float], is_ended: bool) -> None:
    """Writes `sweep.json`, `sweep.csv` with a line a trial, and the best trial's config.

    Raises:
      OSError: one could not be written.
    """
    winner = best(found)
    trials = [trial(each) for each in found if each.state != "waiting"]
    results = SearchResults(
        plan.source,
        list(plan.overrides),
        plan.seeds,
        list(dict.fromkeys(field for point in probes(plan.space) for field in fields(point))),
        plan.method,
        OBJECTIVES[plan.objective],
        is_ended,
        None if winner is None else trial(winner),
        importance,
        trials,
    )
    write_json(plan.folder / RESULTS, results)
    write_atomically(plan.folder / "sweep.csv", _csv(trials).encode())
    if winner is not None:
        write_atomically(plan.folder / BEST, _best(plan, winner, len(trials)).encode())


def table(found: Sequence[Found]) -> str:
    """The best complete trials, a line each, and a line of how many ended how."""
    complete = [trial for trial in found if trial.objective is not None]
    complete.sort(key=lambda trial: -(trial.objective or 0.0))
    names = list(dict.fromkeys(field for trial in complete for field in trial.values))
    rows = [["trial", *names, "objective"]]
    rows += [
        [name(trial.number), *(_cell(trial.values.get(field)) for field in names), f"{trial.objective:.4g}"]
        for trial in complete[:_SHOWN]
    ]
    states: list[str] = [trial.state for trial in found]
    counts = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states]
    more = f"; the best {_SHOWN} are shown" if len(complete) > _SHOWN else ""
    return "\n".join([*([aligned(rows)] if complete else []), f"trials: {', '.join(counts) or 'none'}{more}"])


def trial(found: Found) -> Trial:
    """A trial as `sweep.json` has it."""
    last = next(reversed(found.returns.values()), None)
    state, reason = found.state, found.reason
    return Trial(name(found.number), state, found.values, found.objective, len(found.returns), last, reason)


def _best(plan: SearchPlan, winner: Found, trials: int) -> str:
    """A config's text that gives every field, so that it stays what it is whatever defaults become."""
    try:
        wanted = msgspec.structs.replace(plan.experiment(winner.values), seed=plan.seeds[0])
    except UsageError as error:
        raise UsageError(f"the best trial, {name(winner.number)}, is not taken any more: {error}") from None
    heading = (
        f"# {name(winner.number)}, the best of {trials} trials of --search={plan.method}.\n"
        f"# {OBJECTIVES[plan.objective]}: {winner.objective:.6g}, with "
        f"{' '.join(Combination(winner.values).words.split())}.\n\n"
    )
    return heading + config.dump(wanted)


def _csv(trials: Sequence[Trial]) -> str:
    content = io.StringIO()
    rows = csv.writer(content, lineterminator="\n")
    names = list(dict.fromkeys(field for trial in trials for field in fields(trial.values)))
    rows.writerow(["trial", "state", "objective", *names, "evaluations", "last_return", "reason"])
    for trial in trials:
        values = [fields(trial.values).get(field) for field in names]
        rows.writerow(
            [trial.name, trial.state, trial.objective, *values, trial.evaluations, trial.last_return, trial.reason]
        )
    return content.getvalue()


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else text(value)
