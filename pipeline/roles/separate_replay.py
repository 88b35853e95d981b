"""How a learner finds a replay in processes of its own, which may have gone on while there was no learner."""

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.learner.workers import team
from pipeline.messages.addresses import respelled
from pipeline.messages.channel import take
from pipeline.messages.contents import VARIABLES_TABLE, Announcement
from pipeline.records.counters import NOTHING, Tally
from pipeline.records.ledger import Ledger
from pipeline.replay.replay import Replay
from pipeline.replay.shards.remote_replay import RemoteReplay, tables_of
from pipeline.replay.shards.sharded_replay import ShardedReplay
from pipeline.runtime import native

log = logging.getLogger(__name__)

_TRIES = 6
_HEAR_SECONDS = 10.0


def rejoin(experiment: Experiment, learners: int, specs: Specs, addresses: Sequence[str], ledger: Ledger) -> Replay:
    """The replay of a run that the chief begins or goes on with; what the servers have is entered into the ledger.

    Raises:
      TimeoutError: a server does not answer.
      UsageError: a server is of another experiment.
    """
    inserted, sampled = ledger.counters.taken_before
    replay = find_replay(experiment, specs, addresses, learners, Tally(inserted, sampled, 0))
    ledger.see_servers(replay.seen())
    ledger.accept_learner_restart(replay.tally())
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
