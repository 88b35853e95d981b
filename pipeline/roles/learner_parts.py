"""Puts the learner's process together: its parts, from a checkpoint or new, as the config has them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from agents import Specs
from pipeline.acting.policy_files import judged_by
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.checkpointing import Saver
from pipeline.learner.feeder import Feeder
from pipeline.learner.learner import Learner
from pipeline.learner.recovery import Recovery
from pipeline.monitoring.reporter import Reporter
from pipeline.records.checkpoint_writer import reverb_folder
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.records.recorder import LocalRecorders
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.sampling import Sample

if TYPE_CHECKING:
    from pipeline.learner.on_policy import OnPolicy
    from pipeline.learner.priorities import PriorityWriter
    from pipeline.learner.workers.collectives import Team
    from pipeline.messages.channel import Publisher
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


class LearnerParts(NamedTuple):
    """What the learner's process is made of."""

    ledger: Ledger
    records: LocalRecorders
    replay: "Replay"
    learner: Learner
    feeder: Feeder
    """Gives the learner what the replay has given."""
    on_policy: "OnPolicy | None"
    """What on-policy kinds alone need."""
    priorities: "PriorityWriter | None"
    """What a prioritised replay alone needs."""
    recovery: Recovery
    saver: Saver
    reporter: Reporter
    publisher: "Publisher | None"
    """Sends weights to the roles; None where all are in this thread."""


def learner_parts(
    experiment: Experiment,
    specs: Specs,
    run: RunDirectory,
    place: Place,
    *,
    resume: bool = False,
    pass_over: int = 0,
    team: "Team | None" = None,
) -> LearnerParts:
    """Puts a learner's process together, as the config and the newest checkpoint have it.

    Args:
      experiment: the run.
      specs: of its environment.
      run: its directory.
      place: where its replay is.
      resume: go on from the newest checkpoint, if there is one.
      pass_over: newest checkpoints to leave out, as learners that went on from them failed.
      team: the learners that learn together; this one is their chief. None learns alone.

    Raises:
      UsageError: there are checkpoints, and none of them can be used; or the config does not fit this machine.
      TimeoutError: a server of the replay does not answer.
    """
    skipped: list[str] = []
    opened: list[_Opened] = []

    def use(found: "Checkpoint | None") -> None:
        opened.append(_open(experiment, team.size if team else 1, specs, run, place, found))

    if resume:
        from pipeline.records.checkpoint import restore

        restore(run.checkpoints, use, skipped.append, pass_over)
    if not opened:
        use(None)
    ledger, records, replay, state, is_judged_anew = opened[0]
    priorities = _priorities(experiment, replay, ledger)
    learner, feeder = _learner(experiment, specs, (priorities or replay).samples, team, ledger.counters)
    if state:
        learner.restore(state)
    elif experiment.agent.initial_policy:
        from pipeline.acting import initial_policy

        skipped += initial_policy.begin(experiment, learner, ledger.counters)
    recovery = Recovery(experiment, specs, run, learner, ledger.counters)
    if experiment.agent.open_fields:
        from pipeline.learner.open_support import OpenSupport

        feeder.look = OpenSupport(experiment, learner, ledger.counters, recovery.sentinel).look
    saver = Saver(experiment, run, learner, replay, ledger)
    reporter = Reporter(experiment, run, ledger, learner, replay, recovery, saver, priorities, alone=not place.blocking)
    if is_judged_anew:
        skipped.append("the evaluations before were made with other settings: the best policy begins anew")
    for sentence in skipped:
        reporter.warn(sentence)
    publisher = _publisher(replay) if place.blocking else None
    on_policy = _on_policy(experiment, specs, replay, ledger)
    return LearnerParts(
        ledger, records, replay, learner, feeder, on_policy, priorities, recovery, saver, reporter, publisher
    )


class _Opened(NamedTuple):
    ledger: Ledger
    records: LocalRecorders
    replay: "Replay"
    state: dict[str, NDArray[Any]]
    """The learner's arrays; empty of a run that begins."""
    is_judged_anew: bool
    """Whether evaluations were made with other settings before."""


def _open(
    experiment: Experiment,
    learners: int,
    specs: Specs,
    run: RunDirectory,
    place: Place,
    found: "Checkpoint | None",
) -> _Opened:
    """Starts or finds the replay; takes what a checkpoint has, if the run goes on from one."""
    counters = found.counters if found else Counters()
    is_judged_anew = counters.judge_anew(judged_by(experiment))
    ledger = Ledger(experiment, counters)
    records = LocalRecorders(run.recorders, ledger)
    records.read(starting=True)  # before a replay answers: until then collectors have nothing confirmed
    state = found.learner_state() if found else {}
    if place.addresses:
        from pipeline.roles import separate_replay

        replay: Replay = separate_replay.rejoin(experiment, learners, specs, place.addresses, ledger, run, bool(found))
    else:
        replay = _start(experiment, specs, run, place, ledger, found)
    return _Opened(ledger, records, replay, state, is_judged_anew)


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

        held = filled(experiment, specs, place.port, folder, place.blocking)
        ledger.counters.windows, ledger.counters.dataset_returns = held.windows, held.returns
        log.info("%d windows of %s, returns %s", held.windows, experiment.offline.dataset, held.returns)
        return held.replay
    counters, source = ledger.counters, found.replay if found else None
    if experiment.mixes:
        from pipeline.datasets.dataset_share import SharedReplay

        replay: EmbeddedReplay = SharedReplay(experiment, specs, place.port, folder, source, place.blocking, counters)
    else:
        before = counters.taken_before
        replay = EmbeddedReplay(experiment, specs, place.port, folder, source, place.blocking, before=before)
    counters.taken_before = replay.taken_before
    if not experiment.is_offline:
        drawn = replay.restored.sampled * experiment.windows_per_item
        ledger.accept_restart(replay.restored.inserted, drawn)
    return replay


def _learner(
    experiment: Experiment,
    specs: Specs,
    samples: Callable[[], Iterator[Sample]],
    team: "Team | None",
    counters: Counters,
) -> tuple[Learner, Feeder]:
    """The learner and what feeds it: alone, or as the chief of a team."""
    if experiment.mixes:
        from pipeline.roles import separate_replay

        return separate_replay.learner_and_feeder(experiment, specs, samples, team, counters)
    early = not experiment.replay.prioritized
    if team is None and any(getattr(experiment.agent, name, 0) for name in ("redo_period", "reset_period")):
        from pipeline.roles.plastic_learner import PlasticLearner

        return PlasticLearner(experiment, specs), Feeder(samples, early)
    if team is None:
        return Learner(experiment, specs), Feeder(samples, early)
    from pipeline.learner.workers.team_feeder import TeamFeeder
    from pipeline.learner.workers.team_learner import TeamLearner

    learner = TeamLearner(experiment, specs, team)
    return learner, TeamFeeder(samples, learner, team, early)


def _publisher(replay: "Replay") -> "Publisher":
    from pipeline.messages.channel import Publisher

    return Publisher(replay.publication_addresses)


def _on_policy(experiment: Experiment, specs: Specs, replay: "Replay", ledger: Ledger) -> "OnPolicy | None":
    """What on-policy kinds alone need."""
    if not experiment.agent.on_policy:
        return None
    from pipeline.learner.on_policy import OnPolicy
    from pipeline.replay.client import TableClient
    from pipeline.replay.frames import FrameLayout

    assert isinstance(replay, TableClient)  # a queue is of one server
    return OnPolicy(experiment, FrameLayout.of(experiment, specs), replay, ledger.counters)


def _priorities(experiment: Experiment, replay: "Replay", ledger: Ledger) -> "PriorityWriter | None":
    if not experiment.replay.prioritized:
        return None
    from pipeline.learner.priorities import PriorityWriter

    return PriorityWriter(experiment, replay, ledger.counters)
