"""Whether a run diverges: skipped updates in a row, and Q-values beyond what rewards and evaluations allow.

Pure decisions on figures; no TensorFlow.
"""

import enum
from collections.abc import Callable, Sequence

from agents.config_fields import KindOfAgent
from pipeline.experiment.sections import Experiment, LearnerConfig
from pipeline.messages.contents import Evaluation

_PATIENCE = 2_000
"""Gradient steps that Q-values must be too large for before anyone is warned, and as many without before all is well:
a network's first values are random, and a fresh target network overshoots."""
_BOUND_MARGIN = 1.5
"""How many times the bound the largest Q-value may be: a maximum over a batch and its actions errs upwards."""
_EVALUATED_MARGIN = 2.0
"""How many of the largest discounted returns seen the mean Q-value may lie above the best one: collectors, or the best
policy there is, may earn more than the policies evaluated."""


class Verdict(enum.Enum):
    """What follows from the updates of a call."""

    GO_ON = enum.auto()
    ROLL_BACK = enum.auto()
    DIVERGED = enum.auto()


class SkippedUpdates:
    """Counts updates that were skipped in a row, across calls, and the rollbacks that did not help.

    `bad_updates` in a row ask for a rollback. After `rollbacks` of them the next is a divergence, unless
    `recovery_steps` updates have been applied since the last: then the count starts anew.
    """

    def __init__(self, config: LearnerConfig) -> None:
        self._config = config
        self._in_a_row = self._applied = self._rollbacks = 0

    @property
    def in_a_row(self) -> int:
        """Updates skipped since the last one that was applied."""
        return self._in_a_row

    def judge(self, skipped: Sequence[int], steps: int) -> Verdict:
        """Takes the gradient steps of one call.

        Args:
          skipped: positions, from 0 and ascending, of those that were not applied.
          steps: of the call.
        """
        longest, expected = self._in_a_row, 0
        for position in skipped:
            self._in_a_row = 1 + (self._in_a_row if position == expected else 0)
            longest, expected = max(longest, self._in_a_row), position + 1
        if expected < steps:
            self._in_a_row = 0
        self._applied += steps - len(skipped)
        if self._applied >= self._config.recovery_steps:
            self._rollbacks = 0
        return Verdict.GO_ON if longest < self._config.bad_updates else self.escalate()

    def escalate(self) -> Verdict:
        """What follows from a state that no good update comes from, or that is not finite itself."""
        if self._rollbacks >= self._config.rollbacks:
            return Verdict.DIVERGED
        self._rollbacks += 1
        self._in_a_row = self._applied = 0
        return Verdict.ROLL_BACK


class _Lasting:
    """Whether something has held for `_PATIENCE` gradient steps; once it has, until it has not for as many."""

    def __init__(self) -> None:
        self.holds = False
        self._changed_at: int | None = None

    def update(self, now_holds: bool, gradient_steps: int) -> bool:
        """Takes an observation; returns whether `holds` changed."""
        if now_holds == self.holds:
            self._changed_at = None
            return False
        if self._changed_at is None:
            self._changed_at = gradient_steps
        if gradient_steps - self._changed_at < _PATIENCE:
            return False
        self.holds, self._changed_at = now_holds, None
        return True


class ValueSentinel:
    """Compares Q-values with what rewards allow, and with the discounted returns of evaluations.

    No return is larger than r_max / (1 - gamma), r_max being the largest absolute reward, clipped if the agent clips.
    Munchausen's soft values add at most tau log A a step. R2D2's values are compared in its rescaled units. Of an agent
    without values of returns (behaviour cloning), and without a discount below 1, nothing is compared.

    The mean Q-value is too large if it exceeds the best discounted return from any state of any evaluation by twice the
    largest absolute one, one reward, and what soft values add. A bonus for novelty, which evaluations do not pay, takes
    this comparison away.

    Args:
      experiment: the run.
      num_actions: of its environment; of several dimensions the largest's.
    """

    def __init__(self, experiment: Experiment, num_actions: int) -> None:
        agent = experiment.agent
        self._agent, self._bonus = agent, experiment.exploration.paid_by != ""
        self._discount, self._clip = agent.largest_discount, agent.reward_clip
        self._entropy = agent.soft_reward(num_actions)
        self._largest_reward = 0.0
        self._best_value: float | None = None
        self._largest_value = 0.0
        self._smallest_value = 0.0
        self._too_large, self._overestimated = _Lasting(), _Lasting()
        self._warnings: dict[object, str] = {}
        self.q_max_over_bound: float | None = None
        """The newest largest Q-value over the bound; None where there is none."""

    @property
    def warnings(self) -> list[str]:
        """What holds now, in words that do not change while it does."""
        return list(self._warnings.values())

    def see_rewards(self, largest: float) -> None:
        """Takes the largest absolute reward that anyone has seen."""
        largest = min(largest, self._clip) if self._clip else largest
        self._largest_reward = max(self._largest_reward, largest)

    def see_support(self, agent: KindOfAgent, warning: str = "") -> None:
        """Takes the agent's configuration with what its support has become, or why that is still open."""
        self._agent = agent
        self._warnings.pop("open", None)
        if warning:
            self._warnings["open"] = warning

    def see_evaluation(self, evaluation: Evaluation) -> list[str]:
        """Takes an evaluation; returns the warnings that are new."""
        best = evaluation.best_value
        self._best_value = best if self._best_value is None else max(self._best_value, best)
        self._largest_value = max(self._largest_value, abs(best))
        self._smallest_value = min(self._smallest_value, evaluation.worst_value)
        return self._judge_support()

    def bound(self) -> float | None:
        """The largest value that rewards allow, in the agent's units; None where they allow any."""
        if self._discount >= 1.0 or not self._largest_reward:
            return None
        return self._agent.in_units((self._largest_reward + self._entropy) / (1.0 - self._discount))

    def expected(self) -> float | None:
        """The largest mean Q-value that goes with the evaluations, in the agent's units; None where none is known."""
        if self._best_value is None or self._discount >= 1.0 or self._bonus or not self._largest_reward:
            return None
        slack = self._largest_reward + self._entropy / (1.0 - self._discount)
        return self._agent.in_units(self._best_value + _EVALUATED_MARGIN * self._largest_value + slack)

    def see_values(self, q_mean: float, q_max: float, gradient_steps: int) -> list[str]:
        """Takes the values of a call's batches; returns the warnings that are new."""
        bound, expected = self.bound(), self.expected()
        self.q_max_over_bound = None if bound is None else q_max / bound
        texts = []
        if self._too_large.update(bound is not None and q_max > _BOUND_MARGIN * bound, gradient_steps):
            texts.append(self._note(self._too_large, self._beyond_rewards, q_max, bound))
        if self._overestimated.update(expected is not None and q_mean > expected, gradient_steps):
            texts.append(self._note(self._overestimated, self._beyond_evaluations, q_mean, expected))
        return [text for text in texts if text]

    def _judge_support(self) -> list[str]:
        """Compares returns with those that the kind can learn."""
        key, best = "support", self._best_value
        if best is None or not (words := self._agent.cramped_by(self._smallest_value, best)):
            return []
        is_new = key not in self._warnings
        self._warnings[key] = words
        return [words] if is_new else []

    def _note(self, state: _Lasting, words: Callable[[float, float], str], value: float, limit: float | None) -> str:
        if not state.holds or limit is None:
            self._warnings.pop(state, None)
            return ""
        self._warnings[state] = words(value, limit)
        return self._warnings[state]

    def _beyond_rewards(self, q_max: float, bound: float) -> str:
        return (
            f"Q-values are larger than rewards allow: the largest, {q_max:.4g}, is {q_max / bound:.1f} times the "
            f"bound for rewards up to {self._largest_reward:.4g}, {bound:.4g} = r_max / (1 - discount): "
            f"{self._advice()}"
        )

    def _beyond_evaluations(self, q_mean: float, expected: float) -> str:
        return (
            f"Q-values are overestimated: their mean, {q_mean:.4g}, is above {expected:.4g}, and the best discounted "
            f"return of any evaluation was {self._best_value:.4g}: {self._advice()}"
        )

    def _advice(self) -> str:
        advice = self._agent.remedies()
        if not self._clip:
            advice.append("clip rewards (agent.reward_clip)")
        return " or ".join((", ".join(advice[:-1]), advice[-1])) if len(advice) > 1 else advice[0]
