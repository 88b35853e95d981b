"""A learner that is not the chief: it draws its share, learns with the others, and leaves when they do."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.learner.feeder import Feeder
from pipeline.learner.workers.collectives import Team
from pipeline.learner.workers.team import Wish
from pipeline.learner.workers.team_feeder import log_leaving
from pipeline.learner.workers.team_learner import TeamLearner
from pipeline.messages.contents import TOLD_TO_LEAVE
from pipeline.records.recorder import Recorder
from pipeline.replay.sampling import Sample
from pipeline.roles.separate_replay import find_replay, replay_beside, share_of_worker, team_learner

if TYPE_CHECKING:
    from pipeline.datasets.dataset_share import Share

_WAIT_SECONDS = 0.1


def run_worker(
    experiment: Experiment,
    specs: Specs,
    addresses: Sequence[str],
    team: Team,
    interrupted: threading.Event,
    recorder: Recorder,
) -> int:
    """Learns until the chief, or an interruption of any learner, ends the run; returns the exit code.

    Args:
      experiment: the run.
      specs: of its environment.
      addresses: of the replay's servers.
      team: all learners.
      interrupted: ends it, and the run with it.
      recorder: says that it is alive.

    Raises:
      TimeoutError: a server of the replay does not answer.
      WorkerLost: another learner is gone.
    """
    share: Share | None = None
    if experiment.mixes:
        share = share_of_worker(experiment, specs, team.cluster)
        replay = replay_beside(experiment, specs, addresses, team.size, share)
        learner = team_learner(experiment, specs, team)
    else:
        replay = find_replay(experiment, specs, addresses, team.size)
        learner = TeamLearner(experiment, specs, team)
    learner.choose_loop()
    feeder = Feeder(replay.samples, early=not experiment.replay.prioritized)
    if share is None:
        feeder.start()
    sample: Sample | None = None
    is_awaited = share is not None
    """Whether the chief's state may still come, whose gradient steps a share of a dataset goes by."""
    while True:
        recorder.beat()
        sample = sample or (None if is_awaited else feeder.draw(_WAIT_SECONDS))
        wish = Wish.STOP if interrupted.is_set() else Wish.WAIT if sample is None else Wish.LEARN
        decided = team.agree(wish)
        if decided >= Wish.STOP:
            log_leaving(learner)
            return 0 if decided == Wish.FINISH else TOLD_TO_LEAVE
        if decided == Wish.TAKE_STATE:
            learner.share_state()
        elif share is not None and is_awaited:
            share.gradient_steps, is_awaited = learner.gradient_steps, False
            feeder.start()
        elif decided == Wish.LEARN and sample is not None:
            outcome = learner.learn(sample)
            recorder.advance(learner.gradient_steps)
            if outcome.priorities is not None:
                replay.give_priorities(sample, outcome.priorities)
            sample = None
