"""How the learner's process comes by its ledger and its replay: from a checkpoint or empty."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.records.checkpoint_writer import reverb_folder
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.recorder import LocalRecorders
from pipeline.replay.embedded import EmbeddedReplay

if TYPE_CHECKING:
    from pipeline.records.checkpoint import Checkpoint
    from pipeline.replay.replay import Replay

log = logging.getLogger(__name__)


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
    records: LocalRecorders
    replay: "Replay"
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

    def use(found: "Checkpoint | None") -> None:
        ledger = Ledger(experiment, found.counters if found else Counters())
        records = LocalRecorders(run.recorders, ledger)
        records.read(starting=True)  # before a replay answers: until then collectors have nothing confirmed
        state = found.learner_state() if found else {}
        if place.addresses:
            from pipeline.roles import separate_replay

            replay: Replay = separate_replay.rejoin(experiment, learners, specs, place.addresses, ledger)
        else:
            replay = _start(experiment, specs, run, place, ledger, found)
        opened.append(Opened(ledger, records, replay, state))

    if resume:
        from pipeline.records.restoring import restore

        restore(run.checkpoints, use, say, pass_over)
    if not opened:
        use(None)
    return opened[0]


def _start(
    experiment: Experiment,
    specs: Specs,
    run: RunDirectory,
    place: Place,
    ledger: Ledger,
    found: "Checkpoint | None",
) -> EmbeddedReplay:
    """A replay in this process."""
    folder = reverb_folder(run.checkpoints)
    if experiment.is_offline and not found:  # from then on the run's own checkpoints hold the dataset
        from pipeline.datasets.replay_filling import filled

        replay, ledger.counters.transitions = filled(experiment, specs, place.port, folder, place.blocking)
        log.info("%d transitions of %s", ledger.counters.transitions, experiment.offline.dataset)
        return replay
    counters, source = ledger.counters, found.replay if found else None
    replay = EmbeddedReplay(experiment, specs, place.port, folder, source, place.blocking, before=counters.taken_before)
    counters.taken_before = replay.taken_before
    if not experiment.is_offline:
        drawn = replay.restored.sampled * experiment.transitions_per_item
        ledger.accept_restart(replay.restored.inserted, drawn)
    return replay
