"""The replay's server: Reverb's tables, from a checkpoint or empty, and who may reach them.

This is the TensorFlow side, in the process of the server. `pipeline.replay.client` is the learner's side.
"""

import tempfile
from pathlib import Path
from typing import Any

import reverb
import tensorflow as tf

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import REPORTS_TABLE, VARIABLES_TABLE, WEIGHTS_TABLE
from pipeline.messages.ports import HOST, refuse_used_port
from pipeline.records.counters import NOTHING, Tally
from pipeline.replay.client import REFUSALS
from pipeline.replay.frames import FrameLayout
from pipeline.replay.sampling import COLUMN, draws_ahead, item_shape
from pipeline.security.privacy import guarding

MESSAGE = tf.TensorSpec((None,), tf.uint8)
"""What the tables of messages hold: bytes."""

_REPORTS_KEPT = 10_000


class ReplayServer:
    """The tables of a run's experience, weights and reports.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      restore_from: a Reverb checkpoint of this run to go on from, or None.
      blocking: hold collectors and learner to the ratio; the inline launcher steers it by itself, as a blocked call in
        its only thread would wait for ever.
      dataset: a Reverb checkpoint of another run to draw from; priorities start anew.

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
        dataset: Path | None = None,
    ) -> None:
        refuse_used_port(port)
        refuse_used_port(experiment.replay.weights_port)
        self.experiment, self.layout = experiment, FrameLayout.of(experiment, specs)
        self.restored = self._stored_tally(restore_from, self.layout.table)
        """What the restored checkpoint had counted."""
        limited = self._limited_tables(blocking)
        self._servers = [self._start(limited, port, folder, dataset or restore_from, bool(dataset))]
        self.address = f"{HOST}:{port}"
        self.client = reverb.Client(self.address)
        self.weights_address = self.address
        """Of the server that has the weights."""
        if weights_port := experiment.replay.weights_port:
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder.with_name("weights")))  # never written
            with guarding(weights_port, experiment.replay.private):
                self._servers.append(
                    reverb.Server(newest_tables(VARIABLES_TABLE, WEIGHTS_TABLE), weights_port, checkpointer)
                )
            self.weights_address = f"{HOST}:{weights_port}"
        self.forget_messages()
        if experiment.agent.on_policy:  # what waits in its queue was collected with weights that are gone
            self.client.reset(self.layout.table)

    def checkpoint(self) -> Path:
        """Writes all tables into the server's folder and returns the checkpoint's path.

        Raises:
          OSError: Reverb could not write it.
        """
        try:
            return Path(self.client.checkpoint())
        except REFUSALS as error:  # of a full disk, an IndexError
            raise OSError(f"Reverb could not write the replay: {error}") from error

    def forget_messages(self) -> None:
        """Drops publications and reports: they are of a learner's life that is over."""
        for table in (VARIABLES_TABLE, WEIGHTS_TABLE, REPORTS_TABLE):
            self.client.reset(table)

    def stop(self) -> None:
        """Stops serving. Stop writers first: Reverb confirms inserts that it then drops."""
        for server in self._servers:
            server.stop()

    def _stored_tally(self, source: Path | None, table: str) -> Tally:
        """What a table of the checkpoint had counted; nothing where there is no checkpoint."""
        if source is None:
            return NOTHING
        from pipeline.replay import reverb_checkpoint

        return reverb_checkpoint.stored_tally(source, table)

    def _limited_tables(self, blocking: bool) -> list[reverb.Table]:
        """The tables whose limiters the config sets."""
        return [self._experience_table(self._rate_limiter(blocking), self.experiment.replay.capacity)]

    def _message_tables(self) -> list[reverb.Table]:
        reports = reverb.Table.queue(REPORTS_TABLE, _REPORTS_KEPT, signature=MESSAGE)
        return [reports, *newest_tables(VARIABLES_TABLE, WEIGHTS_TABLE)]

    def _experience_table(self, rate_limiter: Any, capacity: int) -> reverb.Table:
        """The table of items, for so many windows."""
        experiment, replay, name = self.experiment, self.experiment.replay, self.layout.table
        item = {COLUMN: tf.TensorSpec(item_shape(experiment, self.layout), tf.uint8)}
        if experiment.agent.on_policy:
            # Collectors wait for new weights once they have handed over a batch between them: no insert ever blocks.
            return reverb.Table.queue(name, 2 * experiment.items_per_call, signature=item)
        by_priority = reverb.selectors.Prioritized(replay.priority_exponent)
        return reverb.Table(
            name,
            sampler=by_priority if replay.prioritized else reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            max_size=max(1, capacity // experiment.windows_per_item),
            rate_limiter=rate_limiter,
            signature=item,
        )

    def _rate_limiter(self, blocking: bool) -> Any:
        experiment = self.experiment
        ratio = experiment.replay.samples_per_insert
        min_items = -(-experiment.replay.min_size // experiment.windows_per_item)
        if not blocking or experiment.is_offline:  # a dataset has all its items from the start
            return reverb.rate_limiters.MinSize(min_items)
        # Samples that wait in the sampler and in tf.data count as taken: with less slack than those, learner and
        # collectors would run in lockstep; with less than a batch, no batch would ever be complete.
        iterators, in_flight = draws_ahead(experiment)
        ahead = iterators * in_flight + 2 * experiment.items_per_call
        return reverb.rate_limiters.SampleToInsertRatio(ratio, min_items, error_buffer=max(2.0 * ratio, 2.0 * ahead))

    def _start(
        self, limited: list[reverb.Table], port: int, folder: Path, source: Path | None, equal_priorities: bool
    ) -> reverb.Server:
        tables = [*limited, *self._message_tables()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(suffix=".part", dir=folder.parent) as copy:  # read when the server starts
            if source is not None:
                from pipeline.replay import reverb_checkpoint

                for table in limited:
                    source = reverb_checkpoint.with_settings(
                        source, table.info, Path(copy) / table.name, equal_priorities
                    )
            fallback = str(source) if source else None
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder), fallback_checkpoint_path=fallback)
            try:
                with guarding(port, self.experiment.replay.private):
                    return reverb.Server(tables, port, checkpointer)
            except REFUSALS as error:
                if source is None:
                    raise
                from pipeline.records.checkpoint import BadCheckpoint

                raise BadCheckpoint(f"its replay cannot be restored: {error}") from None


def newest_tables(*names: str) -> list[reverb.Table]:
    """Tables of messages that keep the newest."""
    return [
        reverb.Table(
            name,
            sampler=reverb.selectors.Lifo(),
            remover=reverb.selectors.Fifo(),
            max_size=1,
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=MESSAGE,
        )
        for name in names
    ]
