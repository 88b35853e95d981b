"""Filming: now and then an episode of the policy that was evaluated, as a filmstrip for TensorBoard. No TensorFlow."""

import logging
import time
from collections.abc import Callable

from agents import Specs
from pipeline.acting.policy_files import Policy
from pipeline.environments.lanes.rendering import NotRendered, Picture, picture
from pipeline.evaluator.evaluator import GreedyRunner
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Evaluation, Filmstrip, Variables

log = logging.getLogger(__name__)

_MOST_SECONDS = 2.0
"""Of an episode that is drawn; what is longer is cut off."""
_MOST_SHARE = 0.05
"""Of the evaluator's time that drawing takes."""
_LEAST_SECONDS = 10.0
"""Between two filmstrips."""
_AGE_SHARE = 0.02
"""Of the evaluator's age that passes between two: a long run's files stay small."""


class Filmstrips:
    """Plays a further episode of an evaluated policy, now and then, and draws it.

    It has an environment of its own, so evaluations are what they would be without. Environments that do not draw are
    left alone; what goes wrong in drawing ends it with a warning, and nothing else.

    Args:
      experiment: the run.
      specs: of its environment.
      beat: called at every step.
    """

    def __init__(self, experiment: Experiment, specs: Specs, beat: Callable[[], None] = lambda: None) -> None:
        self._experiment, self._specs, self._beat = experiment, specs, beat
        self._is_on = experiment.evaluation.images
        self._runner: GreedyRunner | None = None
        self._started = self._next_at = time.monotonic()

    def draw(self, variables: Variables, evaluation: Evaluation, is_last: bool) -> Filmstrip | None:
        """A filmstrip of the weights that have been evaluated.

        Args:
          variables: the weights.
          evaluation: of them.
          is_last: no other evaluation will follow: then it is not too early.

        Returns:
          None where it is too early for another, or there are no pictures.
        """
        started = time.monotonic()
        if not self._is_on or (started < self._next_at and not is_last):
            return None
        try:
            from pipeline.evaluator.filmstrip import encoded, joined  # Pillow, of those who draw alone

            png, size = encoded(joined(*self._play(variables, round(evaluation.mean_length))))
        except NotRendered:
            self._is_on = False
            return None
        except (Exception, SystemExit) as error:  # whatever an environment's drawing raises: evaluations go on
            log.warning("evaluations go on without pictures: %s", error)
            self._is_on, self._runner = False, None
            return None
        now = time.monotonic()
        pause = max((now - started) / _MOST_SHARE, _LEAST_SECONDS, (now - self._started) * _AGE_SHARE)
        self._next_at = now + pause
        log.info("drew an episode in %.2f s, %d bytes; the next one in %.0f s at least", now - started, len(png), pause)
        return Filmstrip(evaluation.environment_steps, evaluation.gradient_steps, *size, png)

    def close(self) -> None:
        """Releases the environment."""
        if self._runner is not None:
            self._runner.close()

    def _play(self, variables: Variables, expected: int) -> tuple[list[Picture], list[str]]:
        """Pictures of an episode that is expected to be so long, and what is written below each."""
        from pipeline.evaluator.filmstrip import EvenlySpaced

        policy = Policy(
            variables.program, variables.weights, variables.environment_steps, variables.gradient_steps, 0.0
        )
        if self._runner is None:
            self._runner = GreedyRunner(self._experiment, self._specs, policy, episodes=1, render=True)
        environment, chosen = self._runner.environment, EvenlySpaced(expected)
        step, total, deadline = 0, 0.0, time.monotonic() + _MOST_SECONDS
        for moment in self._runner.moments(policy, self._experiment.evaluation.seed):
            self._beat()
            step, total = (0, 0.0) if moment.begins[0] else (step + 1, total + float(moment.seen.reward[0]))
            ended = bool(environment.resetting[0])
            if chosen.wants(step) or ended:
                chosen.add(step, picture(environment), f"step {step:,}, return {total:.5g}")
            if ended or time.monotonic() > deadline:
                break
        return chosen.pictures()
