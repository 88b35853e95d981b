"""What a sweep runs, and where each run leaves its files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from agents.struct_types import prepared
from pipeline.datasets import offline
from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.resume import differences
from pipeline.experiment.run_directory import RunDirectory, refuse_no_folder, write_atomically
from pipeline.experiment.sections import Experiment
from pipeline.launchers import describe
from pipeline.records.results import EXIT_CODES, Status, Summary
from pipeline.sweep.combinations import Combination, loaded

STUDY = "search.db"
"""The file of a search's trials."""
RESULTS = "sweep.json"
"""The file that marks a folder as a sweep's."""
EXPERIMENT = "experiment.toml"
"""Of a combination or trial: what its runs are started from."""
_LOCK = ".lock"
_Read = TypeVar("_Read")


class SweepRun:
    """One run of a sweep.

    Args:
      folder: of its combination or trial.
      combination: what the run tries.
      seed: of the run.
      experiment: the combination's, whatever its seed.
    """

    def __init__(self, folder: Path, combination: Combination, seed: int, experiment: Experiment) -> None:
        self.combination, self.seed, self.experiment = combination, seed, experiment
        self.name = f"{folder.name}/seed-{seed}"
        """Combination or trial, and seed."""
        self.about = "" if folder.name == combination.name else combination.words
        """What the name does not say."""
        self.config = folder / EXPERIMENT
        self.run = RunDirectory(folder / f"seed-{seed}")
        self.log = folder / f"seed-{seed}.log"
        """What the run's command prints."""

    def summary(self) -> Summary | None:
        """The run's result; None while it has none."""
        return _decoded(self.run.summary, Summary)

    def is_finished(self) -> bool:
        """Whether it has ended at its stop condition."""
        summary = self.summary()
        return summary is not None and EXIT_CODES[summary.stop_reason] == 0

    def progress(self) -> float:
        """How much of its budget the run has used, from 0 to 1."""
        status, stop = _decoded(self.run.status, Status), self.experiment.stop
        if status is None:
            return 0.0
        shares = (
            stop.environment_steps and status.environment_steps / stop.environment_steps,
            stop.gradient_steps and status.gradient_steps / stop.gradient_steps,
            stop.seconds and status.train_seconds / stop.seconds,
        )
        return min(1.0, max(shares))


class Plan:
    """All runs of a sweep, checked.

    Args:
      folder: of the sweep.
      source: name or path of the config.
      overrides: lines of TOML for all runs.
      tried: what is tried, each with every seed.
      seeds: of the runs.

    Raises:
      UsageError: a combination cannot be run, or the folder holds something else. Nothing has been written.
    """

    def __init__(
        self, folder: Path, source: str, overrides: tuple[str, ...], tried: Sequence[Combination], seeds: Iterable[int]
    ) -> None:
        self.folder, self.tried, self.seeds = folder, tried, list(seeds)
        self.source, self.overrides = source, overrides
        self.experiments = {each.name: loaded(source, overrides, each) for each in tried}
        refuse_folder(folder, searched=False)
        self._refuse_changed()
        for name, wanted in self.experiments.items():
            refuse_unfit(name, wanted)
        self.members = [
            SweepRun(folder / each.name, each, seed, self.experiments[each.name])
            for each in tried
            for seed in self.seeds
        ]

    def write(self) -> None:
        """Writes each combination's experiment, from which its runs are started."""
        for name, wanted in self.experiments.items():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / name / EXPERIMENT, config.dump(wanted).encode())

    def _refuse_changed(self) -> None:
        for name, wanted in self.experiments.items():
            path = self.folder / name / EXPERIMENT
            if path.is_file() and (changed := differences(_stored(path), wanted)):
                raise UsageError(
                    f"{path.parent} was run with other values of {', '.join(changed)}: choose another --out"
                )


def lock(folder: Path) -> RunDirectory:
    """Keeps other sweeps out of a folder until the directory that is returned is unlocked, or this process ends.

    Raises:
      UsageError: one is in it, or it cannot be written.
    """
    directory = RunDirectory(folder)
    directory.lock("sweep", "--out")
    return directory


def refuse_folder(folder: Path, searched: bool) -> None:
    """Refuses a folder that no sweep can be in, or that holds one of another kind.

    Args:
      folder: of the sweep.
      searched: whether it is a search; else it runs every combination.

    Raises:
      UsageError: says what is there.
    """
    refuse_no_folder(folder, "--out")
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} - {_LOCK}
    if names and RESULTS not in names:
        raise UsageError(f"{folder} is not empty and holds no sweep: choose another --out")
    if RESULTS in names and (STUDY in names) != searched and any(folder.glob(f"*/{EXPERIMENT}")):
        kinds = ("one of --search", "one without --search")
        raise UsageError(f"{folder} holds another sweep, {kinds[searched]}: choose another --out")


def _stored(path: Path) -> Experiment:
    return config.parse(path.read_text(), source=str(path))


def refuse_unfit(name: str, wanted: Experiment) -> None:
    """Refuses an experiment that might never end, or whose environment is not for its agent.

    Raises:
      UsageError: begins with the name.
    """
    stop = wanted.stop
    if not (stop.environment_steps or stop.gradient_steps or stop.seconds):
        raise UsageError(
            f"{name}: its runs might never end: set stop.environment_steps, stop.gradient_steps or stop.seconds"
        )
    try:
        specs = describe(wanted)
        if wanted.is_offline:
            offline.adopt(wanted, specs)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _decoded(path: Path, kind: type[_Read]) -> _Read | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=prepared(kind))
    except (OSError, msgspec.MsgspecError):
        return None
