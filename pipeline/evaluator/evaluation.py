"""Scores a stored policy by episodes of its own, of a run that has ended or goes on: what `pipeline.evaluate` does."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import environments
from pipeline.acting import stored_policies
from pipeline.acting.policy_files import Policy
from pipeline.evaluator.evaluator import Episodes, GreedyRunner
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.security import strangers

Which = Literal["best", "latest"]


class EvaluationResult(NamedTuple):
    """What full episodes of a greedy policy gave, in the environment's own reward."""

    returns: NDArray[np.float64]
    """[episodes]"""
    lengths: NDArray[np.int64]
    """[episodes], in environment steps."""
    environment_steps: int
    """That the run had taken when the policy's weights were made."""
    gradient_steps: int
    """Likewise."""
    unfinished: int
    """Of the episodes, those that had not ended after `evaluation.max_episode_steps`: scored as they stood."""
    shielded_share: float
    """Of the environment steps, those in which the shield forbade what would have been the best action."""
    info: dict[str, NDArray[np.float64]]
    """By key of `collect.info_keys`, [episodes]; NaN of an episode that has none."""

    @property
    def mean_return(self) -> float:
        """Mean of `returns`."""
        return float(self.returns.mean())

    @property
    def std_return(self) -> float:
        """Standard deviation of `returns`, of the population."""
        return float(self.returns.std())


def evaluate(
    run: str | os.PathLike[str], *, policy: Which = "best", episodes: int = 100, seed: int = 0, trust: bool = True
) -> EvaluationResult:
    """Plays full episodes with the greedy policy of a run, finished or going on, or of an exported one.

    Args:
      run: the run's directory, a `pipeline.Run`, or the folder of an export.
      policy: of the evaluations so far, the "best" or the "latest"; an export has one alone.
      episodes: how many.
      seed: of the environments; the same seed plays the same episodes.
      trust: whether code that the run's config names is imported; see docs/security.md.

    Raises:
      UsageError: there is no such run, no policy yet, or the environment is not what the policy was made for; or it
        needs code that is not trusted.
      EnvironmentFault: more episodes than `collect.faulty_episodes` allows were cut short by faults of the environment.
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UsageError(f"{name} is a whole number of at least {least}, not {value!r}")
    with strangers.reading(folder_of(run), trust):
        experiment, stored = stored_policy(run, policy)
        played = play(experiment, stored, int(episodes), int(seed))
    return EvaluationResult(
        np.array(played.returns, np.float64),
        np.array(played.lengths, np.int64),
        stored.environment_steps,
        stored.gradient_steps,
        played.unfinished,
        played.shielded_share,
        {
            key: np.array([numbers.get(key, np.nan) for numbers in played.infos], np.float64)
            for key in experiment.collect.info_keys
        },
    )


def play(experiment: Experiment, policy: Policy, episodes: int, seed: int) -> Episodes:
    """So many episodes of a saved policy, as evaluations play them.

    Raises:
      EnvironmentFault: see `GreedyRunner.run`.
    """
    runner = GreedyRunner(experiment, environments.describe(experiment.environment), policy, episodes)
    try:
        return runner.run(policy, seed)
    finally:
        runner.close()


def stored_policy(run: str | os.PathLike[str], which: str) -> tuple[Experiment, Policy]:
    """A run's experiment and one of its policies, or those of an export.

    Raises:
      UsageError: there is none.
    """
    folder = folder_of(run)
    if which not in ("best", "latest"):
        raise UsageError(f"policy is 'best' or 'latest', not {which!r}")
    stored = RunDirectory(folder)
    experiment = stored.experiment()
    if (folder / "policy.msgpack").is_file():
        if which == "latest":
            raise UsageError(f"{folder} is an export, which has one policy alone: leave policy='latest' out")
        return experiment, stored_policies.load(folder)
    return experiment, stored_policies.load(stored.policies / which)


def folder_of(run: str | os.PathLike[str]) -> Path:
    """The directory of a run, which is given as a path or as a `pipeline.Run`.

    Raises:
      UsageError: it is something else.
    """
    if not isinstance(run, str | os.PathLike) or not os.fspath(run):
        raise UsageError(f"run is the path of a run's directory or a pipeline.Run, not {run!r}")
    return Path(run)
