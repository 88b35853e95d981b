"""A search: which trials it runs, judged by what they reach, and ended early where they fall behind."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.comparison.curves import MEAN_RETURN, Newest, Point, read
from pipeline.comparison.groups import fields
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.resume import differences
from pipeline.experiment.run_directory import write_atomically
from pipeline.experiment.sections import Experiment
from pipeline.records.results import EXIT_CODES
from pipeline.sweep import space as spaces
from pipeline.sweep import study as studies
from pipeline.sweep.combinations import Combination, loaded
from pipeline.sweep.plan import EXPERIMENT, SweepRun, refuse_folder, refuse_unfit
from pipeline.sweep.progress import Progress
from pipeline.sweep.study import Found, Method, OpenTrial, Pruner, Study

Objective = Literal["last", "best", "curve"]
OBJECTIVES: Mapping[Objective, str] = {
    "last": "mean return of the last evaluation",
    "best": "best mean return of an evaluation",
    "curve": "mean return over the budget",
}
_DIVERGED = EXIT_CODES["diverged"]


class SearchPlan:
    """What a search chooses from, checked.

    Args:
      folder: of the sweep.
      source: name or path of the config.
      overrides: lines of TOML for all runs.
      lines: of the space, or names of files of them.
      method: of the search.
      pruner: what ends trials early.
      trials: how many in all; None is every point of a grid.
      seeds: of each trial's runs, which are made one after the other.
      objective: what is maximised.

    Raises:
      UsageError: a trial could not be run, or the folder holds something else. Nothing has been written.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        overrides: tuple[str, ...],
        lines: Sequence[str],
        method: Method,
        pruner: Pruner,
        trials: int | None,
        seeds: Sequence[int],
        objective: Objective,
    ) -> None:
        studies.require()
        self.folder, self.source, self.overrides, self.method = folder, source, overrides, method
        self.pruner, self.seeds, self.objective = pruner, list(seeds), objective
        space = spaces.space(lines)
        probes = spaces.probes(space)
        base = self.experiment(probes[0])
        self.space = spaces.with_kind_of(space, fields(config.tables_of(base)))
        self.points = self._points(trials)
        self.trials = trials if trials is not None else len(self.points)
        for values in [*probes, *self.points]:
            self._refuse_unfit(values)
        self.every, stop = base.evaluation.every_steps, base.stop
        budget = stop.gradient_steps if base.is_offline else stop.environment_steps
        self.evaluations = budget // self.every or None
        """That a trial makes, if its budget is one of steps."""
        self._refuse_unjudged(base)
        self.settings = {
            "config": config.dump(base),
            "space": repr(self.space),
            "method": method,
            "objective": objective,
            "seeds": repr(self.seeds),
        }
        refuse_folder(folder, searched=True)
        self._refuse_other_settings(base)
        self.note = ""
        """What the user should know of the objective."""
        if objective == "last" and stop.target_return is not None:
            self.note = (
                f"runs end at stop.target_return={stop.target_return:g}, so trials that reach it are all as good: "
                "--objective=curve prefers those that reach it sooner"
            )

    def experiment(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial, by the values of its fields.

        Raises:
          UsageError: the config does not take them.
        """
        return loaded(self.source, self.overrides, Combination(dict(values)))

    def members(self, number: int, values: Mapping[str, Any]) -> list[SweepRun]:
        """A trial's runs, a seed each.

        Raises:
          UsageError: the config does not take the values.
        """
        experiment = self.experiment(values)
        folder = self.folder / name(number)
        return [SweepRun(folder, Combination(dict(values)), seed, experiment) for seed in self.seeds]

    def _points(self, trials: int | None) -> list[dict[str, Any]]:
        if self.method != "grid":
            for field, entry in self.space.items():
                if isinstance(entry, spaces.Range) and entry.points is not None:
                    raise UsageError(
                        f"--space: points of {field} are for --search=grid: leave them out, or give a step"
                    )
            if trials is None:
                raise UsageError("--trials is missing: how many should the search make, runs that it ends early too?")
            return []
        points = spaces.grid(self.space)
        if trials is not None and trials > len(points):
            raise UsageError(f"--trials={trials}: the grid has {len(points)} points: ask for no more")
        return studies.order(points, trials or len(points), self.seeds[0])

    def _refuse_unfit(self, values: dict[str, Any]) -> None:
        words = Combination(values).words
        try:
            wanted = self.experiment(values)
        except UsageError as error:
            raise UsageError(f"{words}: {error}") from None
        refuse_unfit(words, wanted)

    def _refuse_other_settings(self, base: Experiment) -> None:
        kept = studies.kept_settings(self.folder)
        changed = [each for each, value in self.settings.items() if kept.get(each, value) != value]
        if changed == ["config"]:
            changed = [f"value of {', '.join(differences(config.parse(kept['config']), base))}"]
        if changed:
            raise UsageError(f"{self.folder} was searched with another {' and '.join(changed)}: choose another --out")

    def _refuse_unjudged(self, base: Experiment) -> None:
        if not base.evaluates and self.pruner != "none":
            raise UsageError("--pruner goes by evaluations, and the config makes none: add --pruner=none")
        if not base.evaluates and self.objective == "curve":
            raise UsageError("--objective=curve goes by evaluations, and the config makes none: take another")
        if self.objective == "curve" and self.evaluations is None:
            budget = "stop.gradient_steps" if base.is_offline else "stop.environment_steps"
            raise UsageError(f"--objective=curve is a mean over a budget of steps: set {budget}")


class Search:
    """Makes the runs of trials, and tells the study what they reach.

    Args:
      plan: what is searched.
      study: proposes and keeps.
      progress: is told.
      on_change: called when a trial has ended.
    """

    outcomes = frozenset({0, _DIVERGED})
    """Exit codes of runs that say something of their trial's values; others say that something is wrong."""

    def __init__(self, plan: SearchPlan, study: Study, progress: Progress, on_change: Callable[[], None]) -> None:
        self._plan, self._study, self._progress, self._on_change = plan, study, progress, on_change
        self._ready: deque[SweepRun] = deque()
        self._trials: dict[int, _Trial] = {}
        self._of: dict[SweepRun, _Trial] = {}
        found = study.trials()
        for point in plan.points:
            study.enqueue(point)
        retried = {trial.again_of for trial in found}
        for trial in found:
            if trial.state == "failed" and trial.number not in retried and len(trial.values) == len(plan.space):
                study.enqueue(trial.values, trial.number)
        self.ended = sum(trial.state in ("complete", "pruned") for trial in found)
        """Trials that had ended before, but for those that failed."""
        begun = [trial for trial in found if trial.state == "running"]
        self._unasked = max(0, plan.trials - self.ended - len(begun))
        self.waiting = (self._unasked + len(begun)) * len(plan.seeds)
        """Runs to be made, those of trials begun by an earlier process among them."""
        self._is_sparse_noted = False
        self.failures: list[tuple[str, str]] = []
        """Name and reason of each trial that failed now."""
        progress.expect(self.ended, self.waiting, "trials")
        for trial in begun:
            self._open(study.reopen(trial.number), max(trial.returns, default=0))

    def take(self) -> SweepRun | None:
        """The next run to start; None while there is none."""
        while not self._ready and self._unasked:
            self._unasked -= 1
            self._open(self._study.ask())
        return self._ready.popleft() if self._ready else None

    def unwanted(self, running: Sequence[SweepRun]) -> dict[SweepRun, str]:
        """Of the runs, those whose trials are ended early now, and why. Their evaluations are read first."""
        found = {}
        for member in running:
            trial = self._of[member]
            if trial.is_open and trial.members[0] is member and (reason := self._judge(trial)):
                self._end(trial, None, "pruned", reason)
                found[member] = reason
        return found

    def take_end(self, member: SweepRun, code: int) -> str:
        """Takes the end of a run that says something of its trial; returns what there is to say."""
        trial = self._of[member]
        if not trial.is_open:
            return ""
        if code == _DIVERGED:
            self._end(trial, None, "pruned", "it diverged")
            return f"diverged  {trial.words}"
        return self._go_on(trial)

    def take_failure(self, member: SweepRun, reason: str) -> None:
        """Takes that a run has failed, and its trial with it."""
        trial = self._of[member]
        if trial.is_open:
            self.failures.append((name(trial.number), reason))
            self._end(trial, None, "failed", reason)

    def _open(self, asked: OpenTrial, reported: int = 0) -> None:
        """Writes a trial's experiment and has its runs made, or fails it where the config does not take its values."""
        try:
            members = self._plan.members(asked.number, asked.values)
            refuse_unfit(Combination(asked.values).words, members[0].experiment)
        except UsageError as error:
            reason = f"the config does not take {error}"
            self._progress.say_failed_trial(name(asked.number), reason, len(self._plan.seeds))
            self.failures.append((name(asked.number), reason))
            self._study.tell(asked.number, None, "failed", reason)
            self._on_change()
            return
        folder = self._plan.folder / name(asked.number)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / EXPERIMENT, config.dump(members[0].experiment).encode())
        trial = _Trial(asked, members, reported)
        self._of |= dict.fromkeys(members, trial)
        if remark := self._go_on(trial):
            self._progress.say(f"ended     {name(trial.number)}  {remark}")

    def _go_on(self, trial: "_Trial") -> str:
        """Has the trial's next run made; if all have ended, ends it and says with what."""
        if (left := next((member for member in trial.members if not member.is_finished()), None)) is not None:
            self._ready.appendleft(left)
            return ""
        self._judge(trial)
        objective = self._objective(trial)
        if objective is None or not math.isfinite(objective):
            reason = f"{OBJECTIVES[self._plan.objective]}: there is none, or it is not finite"
            self.failures.append((name(trial.number), reason))
            self._end(trial, None, "failed", reason)
            return f"FAILED: {reason}"
        self._note_sparse(trial)
        if self._plan.evaluations is not None:
            trial.carry_on(self._plan.evaluations)
        before = [found.objective for found in self._study.trials() if found.objective is not None]
        self._end(trial, objective, "complete")
        is_best = all(objective > other for other in before)
        is_said = self._plan.objective == "last" and len(trial.members) == 1  # beside it, of the run
        return trial.words + ("" if is_said else f": {objective:.4g}") + (" (best so far)" if is_best else "")

    def _end(self, trial: "_Trial", objective: float | None, state: studies.State, reason: str = "") -> None:
        trial.is_open = False
        self._study.tell(trial.number, objective, state, reason)
        self._progress.drop(sum(not member.is_finished() for member in trial.members[1:]))
        self._on_change()

    def _judge(self, trial: "_Trial") -> str:
        """Reports the evaluations that have arrived; why the trial should end, or an empty text."""
        for point in trial.newest.read():
            if trial.report(point, self._plan.every) and trial.asked.is_hopeless():
                of = "" if self._plan.evaluations is None else f" of {self._plan.evaluations}"
                return f"by evaluation {trial.reported}{of}, of mean return {point.value:.4g}"
        return ""

    def _note_sparse(self, trial: "_Trial") -> None:
        """Says once that runs are faster than their evaluator."""
        uses = self._plan.pruner != "none" or self._plan.objective == "curve"
        if uses and not self._is_sparse_noted and trial.reported >= 4 and trial.arrived < trial.reported / 2:
            self._is_sparse_noted = True
            self._progress.say(
                f"note: {name(trial.number)} had {trial.arrived} of {trial.reported} evaluations, as it outran them: "
                "a larger evaluation.every_steps, or fewer evaluation.episodes, judges trials alike"
            )

    def _objective(self, trial: "_Trial") -> float | None:
        """Over the trial's seeds."""
        found = []
        for member in trial.members:
            if self._plan.objective == "curve":
                curve = read(member.run, MEAN_RETURN)
                pairs = [] if curve is None else list(zip(curve.x, curve.y, strict=True))
                value = over_budget(pairs, self._plan.every, self._plan.evaluations or 0)
            else:
                summary = member.summary()
                of = "mean_return" if self._plan.objective == "last" else "best_mean_return"
                value = None if summary is None else getattr(summary, of)
            if value is None:
                return None
            found.append(value)
        return sum(found) / len(found)


class _Trial:
    """A trial whose runs are made.

    Args:
      asked: the study's side of it.
      members: its runs; the first decides whether it ends early.
      reported: number of the newest evaluation that an earlier process has reported.
    """

    def __init__(self, asked: OpenTrial, members: list[SweepRun], reported: int) -> None:
        self.asked, self.members = asked, members
        self.number, self.words = asked.number, members[0].combination.words
        self.newest = Newest(members[0].run, MEAN_RETURN)
        self.is_open = True
        self.reported = reported
        """Number of the newest evaluation."""
        self.arrived = 0
        """Evaluations that came to this process; of others, the evaluator was still at earlier ones."""
        self._value: float | None = None

    def report(self, point: Point, every: int) -> bool:
        """Reports an evaluation, and its predecessor's return for those that were left out; False if it is not new."""
        number = evaluation_number(point.step, every)
        if number <= self.reported or not math.isfinite(point.value):
            return False
        self.carry_on(number - 1)
        self.asked.report(number, point.value)
        self.reported, self._value, self.arrived = number, point.value, self.arrived + 1
        return True

    def carry_on(self, until: int) -> None:
        """Reports the newest return again: of evaluations that were left out, or of which solving spared the run."""
        if self._value is not None:
            for number in range(self.reported + 1, until + 1):
                self.asked.report(number, self._value)
            self.reported = max(self.reported, until)


def evaluation_number(step: float, every: int) -> int:
    """Which of a run's evaluations one is, that was made of the weights at a step: they come a little early or late."""
    return int(step / every + 0.5)


def over_budget(points: Sequence[tuple[float, float]], every: int, evaluations: int) -> float | None:
    """Mean of a curve's values at each evaluation that the budget has, the last one carried on to its end.

    Args:
      points: steps and mean returns, ascending. The first counts for the evaluations before it; what a policy returned
        before it had learned anything counts only where there is nothing else.
      every: steps between evaluations.
      evaluations: how many.

    Returns:
      None without a point.
    """
    if not points or not evaluations:
        return None
    points = [point for point in points if evaluation_number(point[0], every)] or points
    values = []
    for number in range(1, evaluations + 1):
        before = [value for step, value in points if evaluation_number(step, every) <= number]
        values.append(before[-1] if before else points[0][1])
    return float(sum(values) / evaluations)


def name(number: int) -> str:
    """Of a trial and its folder."""
    return f"trial-{number:04d}"


def best(found: Sequence[Found]) -> Found | None:
    """The complete trial with the largest objective, of equal ones the first."""
    complete = [(trial.objective, -trial.number, trial) for trial in found if trial.objective is not None]
    return max(complete)[2] if complete else None
