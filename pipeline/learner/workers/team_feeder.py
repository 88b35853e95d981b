"""What a learner of several does before each call: it draws its share, and agrees with the others on what all do."""

import logging
from collections.abc import Callable, Iterator

from pipeline.learner.feeder import Feeder
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.team import Wish
from pipeline.learner.workers.team_learner import TeamLearner
from pipeline.records.results import Ended
from pipeline.replay.sampling import Sample

log = logging.getLogger(__name__)


class TeamFeeder(Feeder):
    """The chief's samples, given when all learners have one.

    Args:
      samples: begins to draw the chief's share.
      learner: the chief's.
      team: all learners.
      early: see `Feeder`.
    """

    def __init__(
        self, samples: Callable[[], Iterator[Sample]], learner: TeamLearner, team: Team, early: bool = True
    ) -> None:
        super().__init__(samples, early)
        self._learner, self._team = learner, team
        self._sample: Sample | None = None
        self._have_left = False

    @property
    def is_waited_for(self) -> bool:
        """See `Feeder.is_waited_for`; a sample that waits for the other learners is none that is waited for."""
        return self._sample is None

    def next(self, timeout: float) -> Sample | None:
        """See `Feeder.next`; None also while another learner has nothing to learn from.

        Raises:
          Ended: another learner was told to leave.
          WorkerLost: another learner is gone.
        """
        if self._sample is None:
            self._sample = self.draw(timeout)
        wish = Wish.WAIT if self._sample is None else Wish.LEARN
        decided = self._team.agree(wish if self._learner.is_shared else Wish.TAKE_STATE)
        if decided == Wish.STOP:
            self._have_left = True
            log_leaving(self._learner)
            raise Ended("interrupted", "another learner was told to leave")
        if decided == Wish.TAKE_STATE:
            self._learner.share_state()
        if decided != Wish.LEARN:
            return None
        sample, self._sample = self._sample, None
        return sample

    def leave(self, is_finished: bool) -> None:
        """See `Feeder.leave`; tells the other learners."""
        if not self._have_left:
            self._team.agree(Wish.FINISH if is_finished else Wish.STOP)
            log_leaving(self._learner)


def log_leaving(learner: TeamLearner) -> None:
    """Says with which weights a learner leaves the others: all say the same, or they have come apart."""
    log.info("leaves after %d gradient steps with the weights %s", learner.gradient_steps, learner.digest())
