"""A replay's server in a process of its own: one of one or several that hold a run's experience together."""

import threading
import uuid
from pathlib import Path
from typing import Any

import msgspec
import reverb

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.messages.channel import Sender
from pipeline.messages.contents import SERVER_TABLE, Served
from pipeline.replay.server import MESSAGE, ReplayServer, newest_tables
from pipeline.replay.shards.permits import PERMITS_TABLE, sizes

_SAY_SECONDS = 30.0


class SeparateServer(ReplayServer):
    """A server that says which process it is; of several, each has its share of the experience, the first the permits.

    Args:
      experiment: sizes, ratio and window; `replay.shards` is the number of servers.
      specs: of the environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      restore_from: a Reverb checkpoint of this server to go on from, or None.
      blocking: hold collectors and learner to the ratio; see `ReplayServer`.
      shard: which of the servers this is, from 0.

    Raises:
      UsageError: the port is in use, or is open though `replay.private` demands that it is not.
      BadCheckpoint: the checkpoint cannot be restored.
    """

    def __init__(
        self,
        experiment: Experiment,
        specs: Specs,
        port: int,
        folder: Path,
        restore_from: Path | None = None,
        blocking: bool = True,
        shard: int = 0,
    ) -> None:
        self._shard, self._is_one_of_several = shard, experiment.replay.shards > 1
        super().__init__(experiment, specs, port, folder, restore_from, blocking)
        sampled = self.restored.sampled
        if self._is_one_of_several:  # what is drawn is counted by its permits
            permits = self._stored_tally(restore_from, PERMITS_TABLE).sampled if shard == 0 else 0
            sampled = permits * sizes(experiment).sampled_items
        self.client.reset(SERVER_TABLE)
        self._served = Served(uuid.uuid4().hex, self.restored.inserted, sampled)
        self._sender, self._guard = Sender(self.address, SERVER_TABLE), threading.Lock()
        self._say()

    def say_received(self, received: dict[str, int]) -> None:
        """Says how many bytes have come over TCP; see `Served.received`."""
        if received != self._served.received:
            self._say(received=received)

    def checkpoint(self) -> Path:
        """See `ReplayServer`; one who restores it, and has not yet said who it is, is not taken for this server."""
        self._say(is_stored=True)
        try:
            return super().checkpoint()
        finally:
            self._say(is_stored=False)

    def _say(self, **more: Any) -> None:
        with self._guard:  # checkpoints have a thread of their own
            self._served = msgspec.structs.replace(self._served, **more)
            self._sender.send(self._served, _SAY_SECONDS)

    def stop(self) -> None:
        """See `ReplayServer`."""
        self._sender.close()
        super().stop()

    def _limited_tables(self, blocking: bool) -> list[reverb.Table]:
        if not self._is_one_of_several:
            return super()._limited_tables(blocking)
        replay = self.experiment.replay
        # The permits hold the ratio, and the minimum size, for all.
        experience = self._experience_table(reverb.rate_limiters.MinSize(1), replay.capacity // replay.shards)
        return [experience, *([self._permits_table(blocking)] if self._shard == 0 else [])]

    def _message_tables(self) -> list[reverb.Table]:
        return [*super()._message_tables(), *newest_tables(SERVER_TABLE)]

    def _permits_table(self, blocking: bool) -> Any:
        """What holds the ratio for all shards; which of its items is sampled does not matter."""
        of = sizes(self.experiment)
        ratio = reverb.rate_limiters.SampleToInsertRatio(of.samples_per_insert, of.min_size, of.error_buffer)
        return reverb.Table(
            PERMITS_TABLE,
            sampler=reverb.selectors.Fifo(),
            remover=reverb.selectors.Fifo(),
            max_size=of.max_size,
            rate_limiter=ratio if blocking else reverb.rate_limiters.MinSize(of.min_size),
            signature=MESSAGE,
        )
