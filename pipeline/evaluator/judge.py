"""Which weights are to be judged, and which policies are kept: the newest judged, and the best. No TensorFlow."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.acting import policy_files
from pipeline.acting.policy_files import Policy, judged_by
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation, Variables

log = logging.getLogger(__name__)


class Judge:
    """Says when weights are to be judged, every `evaluation.every_steps`, and keeps `policies/best` and `latest`.

    Args:
      experiment: the run.
      folder: of the policies.
      evaluated_at: environment and gradient steps of the newest judgement of a process before this one.
    """

    def __init__(self, experiment: Experiment, folder: Path, evaluated_at: tuple[int, int] | None = None) -> None:
        self._experiment, self._folder = experiment, folder
        self._judged_at = experiment.progress(*evaluated_at) if evaluated_at else -1
        self._judged_version = evaluated_at[1] if evaluated_at else -1
        self._solved = False
        self._unsaved: dict[str, Policy] = {}
        self._settings = judged_by(experiment)
        self._best = self._best_so_far()
        self._has_best = self._best > -np.inf

    def is_due_at(self, environment_steps: int, gradient_steps: int) -> bool:
        """Whether weights of that many steps are to be judged."""
        if not self._may_be_judged(gradient_steps):
            return False
        # The first judgement is one interval in, those after it on the multiples of the interval.
        every = self._experiment.evaluation.every_steps
        progress = self._experiment.progress(environment_steps, gradient_steps)
        return progress // every > max(0, self._judged_at) // every

    def _may_be_judged(self, gradient_steps: int) -> bool:
        # A run that is solved ends with the policy that solved it, whatever is learned meanwhile.
        return not self._solved and gradient_steps not in (0, self._judged_version)

    def begin(self, variables: Variables) -> Policy:
        """Notes that these weights are judged now; the policy that they make, without its mean return."""
        self._judged_at = self._experiment.progress(variables.environment_steps, variables.gradient_steps)
        self._judged_version = variables.gradient_steps
        return Policy(variables.program, variables.weights, variables.environment_steps, variables.gradient_steps, 0.0)

    def keep(
        self, policy: Policy, mean_return: float, is_whole: bool = True, info: Mapping[str, float] | None = None
    ) -> bool:
        """Saves a policy that has been judged, and says whether it is the best.

        Args:
          policy: what was judged.
          mean_return: of its episodes.
          is_whole: whether they were left to end; others are only better than nothing.
          info: means of the user's own numbers, by key.
        """
        stop = self._experiment.stop
        score = mean_return if stop.target == "return" else (info or {}).get(stop.target, -np.inf)
        policy = msgspec.structs.replace(policy, mean_return=mean_return, judged_by=self._settings, score=score)
        self._solved = is_whole and stop.target_return is not None and score >= stop.target_return
        return self.take(policy, score, is_whole)

    def take(self, policy: Policy, score: float, is_whole: bool) -> bool:
        """Saves a policy with what it is judged by, and says whether it is the best; see `keep`."""
        is_best = (score > self._best or not self._has_best) and (is_whole or self._best == -np.inf)
        if is_best:
            self._best, self._has_best = score if is_whole else self._best, True
            self._unsaved["best"] = policy
        self._unsaved["latest"] = policy
        self._save()
        return is_best

    def _evaluation(
        self, variables: Variables, returns: Sequence[float], lengths: Sequence[int], is_best: bool, **more: Any
    ) -> Evaluation:
        """What episodes say of weights.

        Args:
          variables: the weights.
          returns: of the episodes.
          lengths: theirs, in environment steps.
          is_best: see `keep`.
          **more: further fields of an `Evaluation`.
        """
        return Evaluation(
            environment_steps=variables.environment_steps,
            gradient_steps=variables.gradient_steps,
            mean_return=float(np.mean(returns)),
            std_return=float(np.std(returns)),
            min_return=min(returns),
            max_return=max(returns),
            mean_length=float(np.mean(lengths)),
            episodes=len(returns),
            is_best=is_best,
            **more,
        )

    def _best_so_far(self) -> float:
        """The mean return of the best policy of a process before this one, if it was judged as policies are now."""
        folder = self._folder / "best"
        if not folder.exists():
            return -np.inf
        from pipeline.acting.stored_policies import score_of  # of use where there is one

        return score_of(folder, self._settings)

    def _save(self) -> None:
        """Saves what is to be saved; what a full disk does not take is tried again after the next judgement."""
        for name, policy in list(self._unsaved.items()):
            try:
                policy_files.save(policy, self._folder / name)
            except OSError as error:
                log.error("the policy in %s could not be replaced: %s", self._folder / name, error)
            else:
                del self._unsaved[name]


def means(infos: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the episodes that have it."""
    keys = dict.fromkeys(key for numbers in infos for key in numbers)
    return {key: float(np.mean([numbers[key] for numbers in infos if key in numbers])) for key in keys}
