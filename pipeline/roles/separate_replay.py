"""How a learner finds a replay in processes of its own, which may have gone on without one, and a dataset beside it.

Each of several learners draws its part of a batch with the same share of the dataset, from a copy of its own. With
priorities the learners divide the rows among them, so that each row has one learner who knows its newest priority.
"""

import contextlib
import logging
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents import Specs
from pipeline.datasets import offline
from pipeline.datasets.dataset_share import FOLDER, BesideDataset, CountingFeeder, MarkedLearner, Share, count
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.feeder import Feeder
from pipeline.learner.learner import Learner
from pipeline.learner.workers import team
from pipeline.messages.addresses import respelled
from pipeline.messages.channel import take
from pipeline.messages.contents import VARIABLES_TABLE, Announcement
from pipeline.records.counters import NOTHING, Counters, Tally
from pipeline.records.ledger import Ledger
from pipeline.replay.frames import FrameLayout
from pipeline.replay.replay import Replay
from pipeline.replay.sampling import Sample
from pipeline.replay.shards.remote_replay import RemoteReplay, tables_of
from pipeline.replay.shards.sharded_replay import ShardedReplay
from pipeline.runtime import native

if TYPE_CHECKING:
    from pipeline.learner.workers.collectives import Team
    from pipeline.learner.workers.team_feeder import TeamFeeder
    from pipeline.learner.workers.team_learner import TeamLearner

log = logging.getLogger(__name__)

_TRIES = 6
_HEAR_SECONDS = 10.0


def rejoin(
    experiment: Experiment,
    learners: int,
    specs: Specs,
    addresses: Sequence[str],
    ledger: Ledger,
    run: RunDirectory,
    is_resumed: bool,
) -> Replay:
    """The replay of a run that the chief begins or goes on with; what the servers have is entered into the ledger.

    Raises:
      TimeoutError: a server does not answer.
      UsageError: a server is of another experiment, or `offline.dataset` cannot be learned from.
    """
    if experiment.mixes:
        share = share_of_chief(experiment, learners, specs, run, is_resumed, ledger.counters)
        replay = replay_beside(experiment, specs, addresses, learners, share)
    else:
        inserted, sampled = ledger.counters.taken_before
        replay = find_replay(experiment, specs, addresses, learners, Tally(inserted, sampled, 0))
    new_items = ledger.see_servers(replay.seen())
    ledger.accept_learner_restart(replay.tally(), new_items)
    return replay


def find_replay(
    experiment: Experiment, specs: Specs, addresses: Sequence[str], learners: int = 1, before: Tally = NOTHING
) -> Replay:
    """A replay in processes of its own.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      addresses: of its servers.
      learners: that draw a share each of every batch.
      before: what a queue had counted before it was last emptied.

    Raises:
      TimeoutError: a server does not answer.
      UsageError: a server is of another experiment.
    """
    if len(addresses) > 1:
        return ShardedReplay(experiment, specs, addresses, learners)
    return RemoteReplay(team.share(experiment, learners), specs, addresses[0], before)


def next_life(addresses: Sequence[str]) -> int:
    """The number of a learner's life after that of the one that the servers heard last; 0 if there was none.

    Raises:
      TimeoutError: a server says that it has an announcement, and does not give it.
    """
    return max(_announced_life(address) + 1 for address in addresses)


def _announced_life(address: str) -> int:
    """`Announcement.life` of the learner that a server heard last; -1 if there was none."""
    for spelling, _ in zip(respelled(address), range(_TRIES), strict=False):
        if not tables_of(address)[VARIABLES_TABLE].current_size:
            return -1
        heard: queue.Queue[Announcement | Exception] = queue.Queue()
        arguments = (native.reverb_client(spelling), VARIABLES_TABLE, Announcement, 1, heard.put, heard.put)
        # Nothing ends the wait for a sample that does not come: it keeps its thread.
        threading.Thread(target=take, args=arguments, name="announcement", daemon=True).start()
        with contextlib.suppress(queue.Empty):
            said = heard.get(timeout=_HEAR_SECONDS)
            if isinstance(said, Announcement):
                return said.life
            log.warning("what the replay at %s has for an announcement is none, and is passed over: %s", address, said)
            return -1
    raise TimeoutError(f"the replay at {address} has an announcement of a learner, and did not give it {_TRIES} times")


def share_of_chief(
    experiment: Experiment, learners: int, specs: Specs, run: RunDirectory, is_resumed: bool, counters: Counters
) -> Share:
    """The share of a lone learner or of the first of several, with a copy of the dataset in the run's directory.

    Raises:
      UsageError: the dataset cannot be learned from.
    """
    if not is_resumed:
        offline.refuse_unlike(experiment, specs)
    part, layout, folder = team.share(experiment, learners), FrameLayout.of(experiment, specs), run.path / FOLDER
    share = Share(part, layout, folder, is_resumed, counters.gradient_steps, None, 0, learners)
    if is_resumed:
        share.restore()
    return share


def share_of_worker(experiment: Experiment, specs: Specs, cluster: team.Cluster) -> Share:
    """The share of a learner that is not the chief, with a copy of the dataset that goes with this process.

    Raises:
      UsageError: the dataset cannot be learned from.
    """
    offline.refuse_unlike(experiment, specs)
    learners = len(cluster.addresses)
    part, layout = team.share(experiment, learners), FrameLayout.of(experiment, specs)
    with tempfile.TemporaryDirectory(prefix="dataset-") as folder:  # its pages stay mapped without a name
        return Share(part, layout, Path(folder), False, 0, None, cluster.index, learners)


class _ServersElsewhere(BesideDataset):
    """A `BesideDataset` whose servers are elsewhere."""

    def save(self) -> None:
        """See `Replay.save`: servers write checkpoints of their own, and here are the priorities of the rows."""
        self.share.save()


class SharedRemoteReplay(_ServersElsewhere, RemoteReplay):
    """A `RemoteReplay` of what collectors store, with a share of each batch from a dataset.

    Args:
      experiment: as this learner draws for it.
      specs: of its environment.
      address: of the server.
      share: of this learner.

    Raises:
      TimeoutError: as `RemoteReplay`, and so is UsageError.
    """

    def __init__(self, experiment: Experiment, specs: Specs, address: str, share: Share) -> None:
        self.share = share
        super().__init__(experiment.collected, specs, address)


class SharedShardedReplay(_ServersElsewhere, ShardedReplay):
    """A `ShardedReplay` of what collectors store, with a share of each batch from a dataset.

    Args:
      experiment: the run.
      specs: of its environment.
      addresses: of the shards.
      learners: that draw equal shares of each batch.
      share: of this learner.

    Raises:
      TimeoutError: as `ShardedReplay`, and so is UsageError.
    """

    def __init__(
        self, experiment: Experiment, specs: Specs, addresses: Sequence[str], learners: int, share: Share
    ) -> None:
        self.share = share
        super().__init__(experiment.collected, specs, addresses, learners)


def replay_beside(
    experiment: Experiment, specs: Specs, addresses: Sequence[str], learners: int, share: Share
) -> Replay:
    """A replay in processes of its own, and a dataset beside it.

    Raises:
      TimeoutError: a server does not answer.
      UsageError: a server is of another experiment.
    """
    if len(addresses) > 1:
        return SharedShardedReplay(experiment, specs, addresses, learners, share)
    return SharedRemoteReplay(team.share(experiment, learners), specs, addresses[0], share)


def learner_and_feeder(
    experiment: Experiment,
    specs: Specs,
    samples: Callable[[], Iterator[Sample]],
    learners: "Team | None",
    counters: Counters,
) -> tuple[Learner, Feeder]:
    """The learner of a run that learns beside a dataset and what feeds it, alone or as the chief of a team."""
    agent, early = experiment.agent, not experiment.replay.prioritized
    if learners is not None:
        learner = team_learner(experiment, specs, learners)
        return learner, _counting_team_feeder(samples, learner, learners, early, counters)
    feeder = CountingFeeder(samples, early, counters)
    if any(getattr(agent, name, 0) for name in ("redo_period", "reset_period")):
        from pipeline.roles.plastic_learner import PlasticLearner

        return PlasticLearner(experiment, specs), feeder
    return (MarkedLearner if getattr(agent, "demonstrates", False) else Learner)(experiment, specs), feeder


def team_learner(experiment: Experiment, specs: Specs, learners: "Team") -> "TeamLearner":
    """A learner of several, of a kind that may tell demonstrations from other windows."""
    from pipeline.learner.workers.team_learner import TeamLearner

    if not getattr(experiment.agent, "demonstrates", False):
        return TeamLearner(experiment, specs, learners)

    class MarkedTeamLearner(MarkedLearner, TeamLearner):
        """A `MarkedLearner` of several."""

    return MarkedTeamLearner(experiment, specs, learners)


def _counting_team_feeder(
    samples: Callable[[], Iterator[Sample]], learner: "TeamLearner", learners: "Team", early: bool, counters: Counters
) -> "TeamFeeder":
    from pipeline.learner.workers.team_feeder import TeamFeeder

    class CountingTeamFeeder(TeamFeeder):
        """Counts what the chief draws, and what the others have drawn when all learn."""

        def draw(self, timeout: float) -> Sample | None:
            return count(super().draw(timeout), counters)

        def next(self, timeout: float) -> Sample | None:
            return count(super().next(timeout), counters, learners.size - 1)

    return CountingTeamFeeder(samples, learner, learners, early)
