"""A replay whose only server is in another process, and may be away: the learner waits for it and goes on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import reverb
from numpy.typing import NDArray

from agents import Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import respelled
from pipeline.messages.channel import refuse_to_wait, wait_for_server
from pipeline.messages.contents import SERVER_TABLE
from pipeline.records.counters import NOTHING, Seen, Tally
from pipeline.replay.client import REFUSALS, TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import Sample
from pipeline.replay.shards.sample_stream import Stream
from pipeline.replay.shards.watcher import Watch

_FRESH_SECONDS = 5.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 10
CONNECT_SECONDS = 300.0


class RemoteReplay(TableClient):
    """A replay with one server elsewhere.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      address: of its server.
      before: what its queue had counted before it was last emptied; on-policy alone.

    Raises:
      TimeoutError: the server does not answer.
      UsageError: it is of another experiment.
    """

    def __init__(self, experiment: Experiment, specs: Specs, address: str, before: Tally = NOTHING) -> None:
        watch = watched(address, FrameLayout.of(experiment, specs).table)
        super().__init__(experiment, specs, address, before)
        self._watch = watch
        self._identity, self._last = "", before
        self._follow()

    def samples(self) -> Iterator[Sample]:
        """See `Replay.samples`; goes on with the process that follows one that has ended."""
        for spelling in respelled(self.address):
            identity, stream = self._watch.identity, Stream(self.refused.without(iter(self.dataset(spelling))))
            while self._watch.identity == identity:
                if (sample := stream.next(_POLL_SECONDS)) is not None:
                    yield sample
            stream.abandon()

    def tally(self) -> Tally:
        """See `Replay.tally`; of a server that is away, what was last known."""
        self._follow()
        now = self._watch.tally
        return Tally(self._before.inserted + now.inserted, self._before.sampled + now.sampled, now.present)

    def seen(self) -> Sequence[Seen]:
        """See `Replay.seen`."""
        return [] if self._watch.seen is None else [self._watch.seen]

    def refresh(self) -> None:
        """Has `tally` be of now, if the server answers."""
        self._watch.wait(time.monotonic() + _FRESH_SECONDS)

    def info(self) -> Any:
        """Reverb's `TableInfo` of the experience table, when the server last answered."""
        seen = self._watch.seen
        assert seen is not None
        return seen.info[self._layout.table]

    def give_priorities(self, sample: Sample, priorities: NDArray[np.float32]) -> None:
        """See `Replay.give_priorities`; a server that is away gets none."""
        items = len(sample.keys)
        if self._watch.is_away:
            self.skipped_priorities += items
            return
        try:
            super().give_priorities(sample, priorities)
        except REFUSALS:
            if self._watch.wait(time.monotonic() + _FRESH_SECONDS):
                raise
            self.skipped_priorities += items

    @property
    def warning(self) -> str:
        """See `Replay.warning`."""
        if not self._watch.silence:
            return ""
        return (
            f"the replay at {self.address} has not answered for {self._watch.silence:.0f} s: all wait for it; "
            f"learner.stall_seconds={self._experiment.learner.stall_seconds:g} of that end the run"
        )

    def waits_for_collectors(self) -> bool:
        """See `Replay.waits_for_collectors`; what is away has not failed."""
        return self._watch.is_away or super().waits_for_collectors()

    def explain_stall(self) -> str:
        """See `Replay.explain_stall`."""
        if self._watch.is_away:
            return f"the replay at {self.address} does not answer: start it again with --resume"
        return super().explain_stall()

    def save(self) -> None:
        """See `Replay.save`: the server writes its own checkpoints."""

    def stop(self) -> None:
        """See `Replay.stop`: the server goes on."""

    def discard_queue(self) -> None:
        """See `TableClient.discard_queue`."""
        self.refresh()
        super().discard_queue()

    def _follow(self) -> None:
        """On-policy: a server that was restarted begins with an empty queue and counts from nothing."""
        seen = self._watch.seen
        assert seen is not None
        if self._experiment.agent.on_policy and self._identity not in ("", seen.served.identity):
            self._before = self._last
        self._identity = seen.served.identity
        self._last = self._before._replace(
            inserted=self._before.inserted + seen.tally.inserted, sampled=self._before.sampled + seen.tally.sampled
        )


def watched(address: str, table: str) -> Watch:
    """Waits until a server of the run answers, and watches it from then on.

    Raises:
      TimeoutError: it does not answer.
      UsageError: it has no such table of experience.
    """
    wait_for_server(address, CONNECT_SECONDS, "the learner")
    tables = tables_of(address)
    if SERVER_TABLE not in tables or table not in tables:
        raise UsageError(
            f"the server at {address} has no replay of this experiment: start --role=replay there with the same config"
        )
    watch = Watch(address, table)
    if not watch.wait(time.monotonic() + CONNECT_SECONDS):
        raise TimeoutError(
            f"the learner waited {CONNECT_SECONDS:.0f} s for the replay at {address} to say what it holds"
        )
    return watch


def tables_of(address: str) -> Mapping[str, Any]:
    """Reverb's `TableInfo`s of a server, by name; one that has just answered may be too busy to answer again at once.

    Raises:
      TimeoutError: it does not answer.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    for spelling in respelled(address):
        try:
            return dict(reverb.Client(spelling).server_info(timeout=_ANSWER_SECONDS))
        except (reverb.errors.ReverbError, *REFUSALS) as error:
            if time.monotonic() > deadline:
                words = f"the learner waited {CONNECT_SECONDS:.0f} s for the replay at {address} to say what it holds"
                raise TimeoutError(f"{words}: {error}") from None
            refuse_to_wait()
            time.sleep(_POLL_SECONDS)
    raise AssertionError("addresses have spellings without end")
