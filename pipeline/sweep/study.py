"""The trials of a search in Optuna's words: what it is asked, what it is told, and its file.

Optuna proposes values and decides which trials end early; runs are ours. Its study is a SQLite file in the sweep's
folder, written before each run is started and with each evaluation: a search that is killed loses nothing.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pipeline.experiment.config import UsageError
from pipeline.runtime.installation import how_to_install
from pipeline.sweep.plan import STUDY
from pipeline.sweep.space import Choices, Range, Space

if TYPE_CHECKING:
    import optuna

Method = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "asha", "none"]
State = Literal["waiting", "running", "complete", "pruned", "failed"]

_NAME = "search"
_AGAIN = "again_of"
_REASON = "reason"
_REDUCTION = 3
"""Of asynchronous successive halving: a third of the trials go on at each rung."""
_WARMUP = 4
"""The median pruner spares trials for the first quarter of their evaluations: agents begin to learn at other times."""


class Found(NamedTuple):
    """A trial as its study has it."""

    number: int
    state: State
    values: dict[str, Any]
    """By field; empty until it is asked for."""
    returns: dict[int, float]
    """By evaluation, from 1."""
    objective: float | None
    """Of a complete trial."""
    reason: str
    """Why it was pruned or has failed."""
    again_of: int | None
    """Number of the failed trial that it tries again."""


def require() -> None:
    """Refuses a search where Optuna is missing.

    Raises:
      UsageError: says how it is installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"--search needs Optuna: install it by {how_to_install('search')} ({error})") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def pruner(name: Pruner, evaluations: int | None) -> "optuna.pruners.BasePruner":
    """What ends trials early.

    Args:
      name: of the method.
      evaluations: that a trial makes; None where its budget is not one of steps.
    """
    import optuna

    if name == "median":
        warmup = 2 if evaluations is None else evaluations // _WARMUP + 1  # the first that is judged
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup)
    if name == "asha":
        first = 1 if evaluations is None else max(1, evaluations // _REDUCTION**2)
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=_REDUCTION)
    return optuna.pruners.NopPruner()


class Study:
    """Proposes the values of trials, keeps what they reached, and says which to end early.

    Args:
      folder: of the sweep.
      space: that is searched.
      method: of the search.
      pruner: what ends trials early.
      evaluations: that a trial makes; None where nobody knows.
      seed: of what is drawn.
      settings: by name, what must stay the same when the search goes on; they are kept.

    Raises:
      UsageError: the folder's file is no study, or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        method: Method,
        pruner_name: Pruner,
        evaluations: int | None,
        seed: int,
        settings: Mapping[str, str],
    ) -> None:
        import optuna

        path = folder / STUDY
        try:
            # The path goes by the side of the URL, in which some characters would mean something else.
            engine = {"creator": lambda: sqlite3.connect(path, timeout=60.0)}
            storage = optuna.storages.RDBStorage(f"sqlite:///{STUDY}", engine_kwargs=engine)
            self._study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                load_if_exists=True,
                direction="maximize",
                pruner=pruner(pruner_name, evaluations),
            )
            drawn = int(np.random.SeedSequence([seed, len(self._study.trials)]).generate_state(1)[0] >> 1)
        except Exception as error:  # of SQLAlchemy, SQLite or Optuna: each has its own
            raise UsageError(f"{path} cannot be used: {' '.join(str(error).split())[:200]}") from None
        # What went before has used up part of the stream: the same seed would draw the same trials again.
        self._study.sampler = (
            optuna.samplers.TPESampler(seed=drawn, constant_liar=True)
            if method == "tpe"
            else optuna.samplers.RandomSampler(seed=drawn)
        )
        self._space = space
        for name, value in settings.items():
            self._study.set_user_attr(name, value)

    def enqueue(self, values: Mapping[str, Any], again_of: int | None = None) -> None:
        """Has the next trial take these values, by field; again after another has failed, or if none has had them."""
        known = None if again_of is None else {_AGAIN: again_of}
        self._study.enqueue_trial(self._encoded(values), known, skip_if_exists=again_of is None)

    def ask(self) -> "OpenTrial":
        """A new trial, of the values enqueued or those that the search proposes."""
        return OpenTrial(self._study.ask(), self._space)

    def reopen(self, number: int) -> "OpenTrial":
        """A trial that was running when an earlier process ended; values that it had not got yet are drawn now."""
        import optuna

        identity = next(trial._trial_id for trial in self._study.get_trials(deepcopy=False) if trial.number == number)
        return OpenTrial(optuna.trial.Trial(self._study, identity), self._space)

    def tell(self, number: int, objective: float | None, state: State, reason: str = "") -> None:
        """Ends a trial, complete with its objective, pruned or failed with the reason."""
        import optuna

        states = {
            "complete": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }
        if reason:
            self.reopen(number).set_reason(reason)
        self._study.tell(number, objective, states[state])

    def trials(self) -> list[Found]:
        """All trials, by number."""
        return [self._found(trial) for trial in self._study.get_trials(deepcopy=False)]

    def importance(self) -> dict[str, float]:
        """By field, its share in what tells the better trials from the others: PED-ANOVA (Watanabe et al. 2023).

        Empty where a single field, fewer than four complete trials, or equal ones, say nothing.
        """
        import optuna

        complete = [trial for trial in self.trials() if trial.state == "complete"]
        if len(self._space) < 2 or len(complete) < 4 or len({trial.objective for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))

    def _found(self, trial: "optuna.trial.FrozenTrial") -> Found:
        return Found(
            trial.number,
            "failed" if trial.state.name == "FAIL" else trial.state.name.lower(),
            decoded(trial.params, self._space),
            dict(sorted(trial.intermediate_values.items())),
            trial.values[0] if trial.state.name == "COMPLETE" else None,
            trial.user_attrs.get(_REASON, ""),
            trial.user_attrs.get(_AGAIN),
        )

    def _encoded(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as Optuna keeps them: of choices their labels, as it takes no lists and tables."""
        found = {}
        for field, value in values.items():
            entry = self._space[field]
            found[field] = entry.labels[entry.values.index(value)] if isinstance(entry, Choices) else value
        return found


def unwritable(error: Exception) -> bool:
    """Whether an error says that the study's file cannot be written now, as on a full disk."""
    import optuna

    return isinstance(error, optuna.exceptions.StorageInternalError | sqlite3.Error)


class OpenTrial:
    """A trial that has not ended.

    Args:
      trial: Optuna's.
      space: from which it takes its values.
    """

    def __init__(self, trial: "optuna.trial.Trial", space: Space) -> None:
        self._trial = trial
        for field, entry in space.items():
            _suggest(trial, field, entry)
        self.number = trial.number
        self.values = decoded(trial.params, space)
        """By field."""

    def report(self, evaluation: int, mean_return: float) -> None:
        """Tells what an evaluation has found; of each number, the first counts."""
        self._trial.report(mean_return, evaluation)

    def is_hopeless(self) -> bool:
        """Whether it should end early, by what has been reported of it and the others."""
        return bool(self._trial.should_prune())

    def set_reason(self, reason: str) -> None:
        """Keeps why it ends."""
        self._trial.set_user_attr(_REASON, reason)


def decoded(parameters: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """Values of a config's fields from Optuna's, in the order of the space."""
    found = {}
    for field, entry in space.items():
        if field in parameters:
            value = parameters[field]
            found[field] = entry.values[entry.labels.index(value)] if isinstance(entry, Choices) else value
    return found


def kept_settings(folder: Path) -> dict[str, str]:
    """The settings of the search that a folder holds, by name; empty where it holds none. Nothing is written.

    Raises:
      UsageError: its file cannot be read.
    """
    path = folder / STUDY
    if not path.exists():
        return {}
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60.0)
        try:
            rows = connection.execute("SELECT key, value_json FROM study_user_attributes").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if "no such table" in str(error):  # the search was killed before its first word
            return {}
        raise UsageError(f"{path} is no study that could go on ({error}): choose another --out") from None
    return {key: json.loads(value) for key, value in rows}


def _suggest(trial: "optuna.trial.Trial", field: str, entry: Range | Choices) -> None:
    if isinstance(entry, Choices):
        trial.suggest_categorical(field, entry.labels)
    elif entry.is_integer:
        trial.suggest_int(field, int(entry.low), int(entry.high), step=int(entry.step or 1), log=entry.log)
    else:
        trial.suggest_float(field, entry.low, entry.high, step=entry.step, log=entry.log)


def order(points: Sequence[dict[str, Any]], trials: int, seed: int) -> list[dict[str, Any]]:
    """The points of a grid that are tried: all in their order, or as many as asked for, drawn without replacement."""
    if trials >= len(points):
        return list(points)
    return [points[index] for index in np.random.default_rng(seed).permutation(len(points))[:trials]]
