"""What a run has counted, and the balance of it: how many windows are stored, on their way or lost. No TensorFlow.

One window begins at every frame that a collector hands to its writer. The counts of
the two sides are independent: collectors count what they began and what was confirmed to them (`Counters`), the replay
counts what it inserted (`Tally`). `Account` holds one against the other.
"""

from typing import Any, NamedTuple

import msgspec

from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Counts, Evaluation, Served

MOST_ITEMS = 48
"""So many of a writer are on their way at most: Reverb prints a warning from 50 on."""
BURST_ITEMS = 16
"""A writer creates items of one step in bursts of at least so many, larger ones in bursts of as many steps. Created one
by one, each wakes Reverb's writer thread and makes a gRPC message of its own: three times the CPU."""

RESTARTED = "replay restarted"
"""Confirmed to a collector after the newest checkpoint, and gone with the replay's process."""
KILLED = "collector killed"
FAILED = "collector failed"
UNCONFIRMED = "unconfirmed at the end"
ENDLESS_STEPS = 1_000
"""Steps of each lane without the end of an episode in any, after which that is worth a word."""
SILENT = "collector fell silent"
"""Of another host, where nobody says how it ended: begun by its last report, and not stored."""


class BestEvaluation(msgspec.Struct, frozen=True):
    """The evaluation with the best mean return."""

    mean_return: float
    environment_steps: int
    gradient_steps: int


class ServerRecord(msgspec.Struct, frozen=True):
    """One of the replay's servers in processes of their own, when it last answered."""

    identity: str
    """Of its process."""
    inserted: int
    """Items that it had inserted."""
    sampled: int
    confirmed: int = 0
    """Items that collectors had had confirmed for certain before that answer, of all servers."""
    looked: int = 0
    """And when it was last looked at."""
    unsettled: int = 0
    """Of one that was restarted: looks at it in which its collectors may still report what was before."""


class Counters(msgspec.Struct):
    """Global counts of a run; a resumed run goes on from them."""

    environment_steps: int = 0
    episodes: int = 0
    windows: int = msgspec.field(default=0, name="transitions")
    """Windows confirmed by the replay since the run began; the oldest may have left it."""
    begun: int = 0
    """Windows begun in the frames that collectors handed to their writers."""
    items: int = 0
    """Replay items confirmed."""
    lost: dict[str, int] = {}
    """Windows that began and are not stored, by cause."""
    lost_items: int = 0
    """Items that went with a replay's process."""
    interruptions: int = 0
    """Ends without a last report, of collectors, and without a last checkpoint, of replays, one for each collector."""
    processes: dict[str, Counts] = {}
    """What each collector process that has not ended had counted."""
    left: list[str] = []
    """Collector processes whose counts are final."""
    taken_before: tuple[int, int] = (0, 0)
    """On-policy: items that the queue had taken and given before it was last emptied, which its own counts forget."""
    servers: list[ServerRecord] = []
    """Of the replay, by shard; empty where it is in the learner's process."""
    drawn_before: int = 0
    """Items that servers had given since the checkpoint from which they were restored, which their counts forget."""
    unseen_items: int = 0
    """Items that servers which were restarted may have taken after they last answered, at most."""
    unreported: int = 0
    """Windows that collectors of which nothing more was heard may have begun after their last report, at most."""
    unwatched: int = 0
    """Windows that servers took while no learner looked, and no collector has told of since, at most: one that is gone
    may have told a learner of them that was killed before its first checkpoint."""
    learned: int = 0
    """Windows that gradient steps learned from, counted each time."""
    discarded: int = 0
    """Windows drawn ahead by learners' processes that have ended, or that `offline.share` had no room for."""
    drained: int = 0
    """Windows drawn for nobody while the run ended, so that its collectors could hand over their last ones."""
    dataset_windows: int = 0
    """Windows drawn of `offline.dataset` beside what collectors store: learned from, or discarded at a run's end."""
    evaluations: int = 0
    evaluation: Evaluation | None = None
    """The newest."""
    dropped_episodes: int = 0
    """Cut off by a fault of their environment."""
    shielded_steps: int = 0
    """Environment steps in which the shield forbade what would have been the best action."""
    bytes_sent: int = 0
    """By collectors over TCP: frames and reports."""
    bytes_received: int = 0
    """By collectors over TCP: weights."""
    gradient_steps: int = 0
    skipped_updates: int = 0
    """Gradient steps of these that changed nothing, as loss or gradient was not finite."""
    rollbacks: int = 0
    largest_reward: float = 0.0
    """Largest absolute reward that collectors have seen, or offline the learner."""
    largest_priority: float = 1.0
    """That the learner has given."""
    support: tuple[float, float] | None = None
    """First and last atom of a categorical kind whose config leaves them open; None until they are decided."""
    dataset_returns: dict[str, float] = {}
    """Offline: of the dataset's whole episodes, `replay_filling.describe` says which; empty where none are known."""
    started_anew: list[str] = []
    """Layers for which `agent.initial_policy` had no weights."""
    train_seconds: float = 0.0
    best: BestEvaluation | None = None
    judged_by: str = ""
    """Settings of the evaluations, see `policy_files.judged_by`; empty of a run of an older version."""
    failed_checkpoints: int = 0
    """Checkpoints that could not be written."""
    refused_reports: int = 0
    """Messages among the reports that no role of the run can have sent."""
    refused_draws: int = 0
    """Draws that met an item that no role of the run can have written; what was drawn with it is thrown away, too."""
    mirrored_gradient_steps: int | None = None
    """Of the newest checkpoint in `checkpoint.mirror`."""

    def judge_anew(self, judged_by: str) -> bool:
        """Forgets evaluations that were made with other settings, which compare with none to come.

        Args:
          judged_by: settings of the evaluations to come.

        Returns:
          Whether there were any.
        """
        is_anew = self.judged_by not in ("", judged_by) and self.evaluation is not None
        if is_anew:
            self.best = self.evaluation = None
        self.judged_by = judged_by
        return is_anew

    @property
    def lost_transitions(self) -> int:
        """Windows lost, whatever the cause."""
        return sum(self.lost.values())

    @property
    def bytes_per_transition(self) -> float | None:
        """Bytes sent by collectors for each window confirmed; None while neither are counted."""
        return self.bytes_sent / self.windows if self.bytes_sent and self.windows else None


class Tally(NamedTuple):
    """The replay's own counts of items, since the run began."""

    inserted: int
    sampled: int
    present: int


NOTHING = Tally(0, 0, 0)


class Seen(msgspec.Struct, frozen=True):
    """A server as it was when it last answered."""

    served: Served
    """Which process it was."""
    tally: Tally
    info: Any
    """Reverb's `TableInfo`s by the names of their tables."""
    at: float
    """Monotonic time."""


class Account(msgspec.Struct, frozen=True):
    """The balance at one moment, in windows."""

    begun: int
    """In frames handed to the collectors' writers."""
    stored: int
    """Of these, those that the replay has inserted."""
    present: int
    evicted: int
    """Inserted once and removed since; by a queue, handed to the learner."""
    in_flight: int
    """Not confirmed yet to collectors that run, and not known to be stored."""
    in_flight_bound: int
    """Never more than so many."""
    lost: dict[str, int]
    """By cause."""
    unaccounted: int
    """Begun, but neither stored nor on their way nor lost; negative if it is more that was not begun."""
    drawn: int
    """Sampled by the learner's data path, of a dataset beside the replay, too."""
    learned: int
    """Of these, those that gradient steps learned from."""
    discarded: int
    """Of these, those that a learner's process had drawn ahead when it ended."""
    prefetched: int
    """Of these, those that wait for their gradient steps."""
    drained: int = 0
    """Of these, those drawn at the end, so that collectors could hand over their last ones."""


def in_flight_bound(experiment: Experiment) -> int:
    """The largest number of unconfirmed windows of all collectors: what each of them loses at most if it is killed."""
    lanes, groups = experiment.collect.lanes, experiment.collect.lanes // experiment.lanes_per_item
    items = MOST_ITEMS + 2 * BURST_ITEMS + groups
    steps = experiment.window + experiment.steps_per_item * experiment.agent.stride
    return experiment.collectors * (items * experiment.windows_per_item + steps * lanes)


def account(experiment: Experiment, counters: Counters, tally: Tally) -> Account:
    """The balance now, from the run's counters and the replay's own counts."""
    per_item = experiment.windows_per_item
    empty = counters.items * per_item - counters.windows  # windows that fill a collector's last items
    stored = tally.inserted * per_item - empty
    present = tally.present * per_item
    begun, lost = counters.begun, sum(counters.lost.values())
    in_flight = sum(counts.unconfirmed for counts in counters.processes.values())
    if counters.processes and (early := stored + in_flight + lost - begun) > 0:  # stored before collectors say so
        begun, in_flight = begun + max(0, early - in_flight), max(0, in_flight - early)
    drawn = (tally.sampled + counters.drawn_before) * per_item + counters.dataset_windows
    return Account(
        begun=begun,
        stored=stored,
        present=present,
        evicted=tally.inserted * per_item - present,
        in_flight=in_flight,
        in_flight_bound=in_flight_bound(experiment),
        lost=dict(counters.lost),
        unaccounted=begun - stored - in_flight - lost,
        drawn=drawn,
        learned=counters.learned,
        discarded=counters.discarded,
        prefetched=drawn - counters.learned - counters.discarded - counters.drained,
        drained=counters.drained,
    )


def reconcile(experiment: Experiment, counters: Counters, tally: Tally) -> int:
    """Windows that are unaccounted for at the end of a run, once the causes of losses are put right: 0 if all is well.

    See `losses.correct`.
    """
    unaccounted = account(experiment, counters, tally).unaccounted
    if unaccounted and not counters.processes:
        from pipeline.records import losses

        return losses.correct(experiment, counters, unaccounted)
    return unaccounted
