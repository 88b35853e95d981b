"""How the learner's process comes by its ledger and its replay: from a checkpoint or empty, embedded or elsewhere."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import reverb
from numpy.typing import NDArray

from agents import Specs
from pipeline.datasets import offline
from pipeline.datasets.replay_filling import fill
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner import checkpointing
from pipeline.learner.workers import team
from pipeline.messages.addresses import respelled
from pipeline.messages.channel import VARIABLES_TABLE, take
from pipeline.messages.contents import Announcement
from pipeline.records import checkpoint
from pipeline.records.account import NOTHING, Tally
from pipeline.records.checkpoint import Checkpoint
from pipeline.records.ledger import Ledger
from pipeline.records.local_recorders import Records
from pipeline.replay.client import Replay
from pipeline.replay.server import ReplayServer
from pipeline.replay.shards.remote_replay import RemoteReplay
from pipeline.replay.shards.sharded_replay import Shards
from pipeline.runtime import native

log = logging.getLogger(__name__)

_TRIES = 6
_HEAR_SECONDS = 10.0


class Place(NamedTuple):
    """Where the replay is."""

    port: int = 0
    """Of the server in the learner's process."""
    addresses: Sequence[str] = ()
    """Of servers in processes of their own; empty where it is in the learner's."""
    blocking: bool = True
    """Let Reverb's rate limiter hold collectors and learner to the ratio (not where they share a thread)."""


class Opened(NamedTuple):
    """What the learner's process goes on with."""

    ledger: Ledger
    records: Records
    replay: Replay | Shards
    state: dict[str, NDArray[Any]]
    """The learner's arrays; empty of a run that begins."""


def open_run(
    experiment: Experiment,
    learners: int,
    specs: Specs,
    run: RunDirectory,
    place: Place,
    resume: bool,
    pass_over: int,
    say: Callable[[str], None],
) -> Opened:
    """Starts or finds the replay and takes what the newest checkpoint has, if the run is to go on from one.

    Args:
      experiment: the run.
      learners: that learn together.
      specs: of its environment.
      run: its directory.
      place: where its replay is.
      resume: go on from the newest checkpoint, if there is one.
      pass_over: newest checkpoints to leave out.
      say: takes a sentence about each checkpoint that is skipped.

    Raises:
      UsageError: there are checkpoints, and none of them can be used.
      TimeoutError: a server of the replay does not answer.
    """
    opened: list[Opened] = []

    def use(found: checkpoint.Checkpoint | None) -> None:
        ledger = Ledger(experiment, found.counters if found else checkpoint.Counters())
        records = Records(run.recorders, ledger)
        records.read(starting=True)  # before a replay answers: until then collectors have nothing confirmed
        state = found.learner_state() if found else {}
        if place.addresses:
            replay: Replay | Shards = _find(experiment, learners, specs, place, ledger)
        else:
            replay = _start(experiment, specs, run, place, ledger, found)
        opened.append(Opened(ledger, records, replay, state))

    if not (resume and checkpointing.restore(run.checkpoints, use, say, pass_over)):
        use(None)
    return opened[0]


def _start(
    experiment: Experiment,
    specs: Specs,
    run: RunDirectory,
    place: Place,
    ledger: Ledger,
    found: checkpoint.Checkpoint | None,
) -> Replay:
    """A replay in this process."""
    dataset = None if found else offline.dataset(experiment)
    folder = checkpoint.reverb_folder(run.checkpoints)
    source, stored = found.replay if found else None, dataset.replay if isinstance(dataset, Checkpoint) else None
    counters = ledger.counters
    replay = ReplayServer(experiment, specs, place.port, folder, source, place.blocking, stored, counters.taken_before)
    counters.taken_before = replay.taken_before
    if dataset:  # once: from here on the run's own checkpoints hold it, with the priorities that it has got
        if isinstance(dataset, Checkpoint):
            present = replay.size() * experiment.transitions_per_item
            counters.transitions = min(present, dataset.counters.transitions)  # the last items have padding
        else:
            counters.transitions = fill(replay.address, experiment, specs, dataset)
        log.info("%d transitions of %s", counters.transitions, experiment.offline.dataset)
    elif not experiment.is_offline:
        drawn = replay.restored.sampled * experiment.transitions_per_item
        ledger.accept_restart(replay.restored.inserted, drawn)
    return replay


def _find(experiment: Experiment, learners: int, specs: Specs, place: Place, ledger: Ledger) -> Replay | Shards:
    """A replay in processes of its own, which has gone on while there was no learner."""
    inserted, sampled = ledger.counters.taken_before
    replay = find_replay(experiment, specs, place.addresses, learners, Tally(inserted, sampled, 0))
    ledger.see_servers(replay.seen())
    ledger.accept_learner_restart(replay.tally())
    return replay


def find_replay(
    experiment: Experiment, specs: Specs, addresses: Sequence[str], learners: int = 1, before: Tally = NOTHING
) -> Replay | Shards:
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
        return Shards(experiment, specs, addresses, learners)
    return RemoteReplay(team.share(experiment, learners), specs, addresses[0], before)


def announced_life(address: str) -> int:
    """`Announcement.life` of the learner that a server heard last; -1 if there was none.

    Raises:
      TimeoutError: the server says that it has an announcement, and does not give it.
    """
    for spelling, _ in zip(respelled(address), range(_TRIES), strict=False):
        if not reverb.Client(spelling).server_info(timeout=10)[VARIABLES_TABLE].current_size:
            return -1
        heard: queue.Queue[Announcement] = queue.Queue()
        arguments = (native.reverb_client(spelling), VARIABLES_TABLE, Announcement, 1, heard.put)
        # Nothing ends the wait for a sample that does not come: it keeps its thread.
        threading.Thread(target=take, args=arguments, name="announcement", daemon=True).start()
        with contextlib.suppress(queue.Empty):
            return heard.get(timeout=_HEAR_SECONDS).life
    raise TimeoutError(f"the replay at {address} has an announcement of a learner, and did not give it {_TRIES} times")
