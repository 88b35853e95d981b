"""Judges weights by the returns of training episodes, in a run that makes no evaluations. No TensorFlow.

Imported where `evaluation.enabled` is false or `evaluation.episodes` 0: where only one environment can exist, say.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluator.judge import Judge
from pipeline.messages.contents import Evaluation, Variables

_LEAST_EPISODES = 20
"""Of training, without which nothing is judged before the run ends."""


class TrainingJudge(Judge):
    """Scores the learner's newest weights by what the newest training episodes gave: with exploration, and by weights
    that were somewhat older."""

    def judge(
        self,
        variables: Variables,
        returns: Sequence[float],
        lengths: Sequence[int],
        is_last: bool = False,
        info: Mapping[str, float] | None = None,
    ) -> Evaluation | None:
        """Scores weights and saves their policy; None where too few episodes have ended for that.

        Args:
          variables: the weights.
          returns: of the newest training episodes.
          lengths: theirs, in environment steps.
          is_last: the run ends: any number of episodes will do.
          info: means of the user's own numbers over the newest, by key.
        """
        if not returns or (len(returns) < _LEAST_EPISODES and not is_last):
            return None
        is_whole = len(returns) >= _LEAST_EPISODES
        is_best = self.keep(self.begin(variables), float(np.mean(returns)), is_whole, info)
        more = {"seconds": 0.0, "resident_bytes": 0, "info": dict(info or {}), "is_whole": is_whole}
        return self._evaluation(variables, returns, lengths, is_best, **more)
