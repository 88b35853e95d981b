"""The replay's server: Reverb's tables, from a checkpoint or empty, and who may reach them.

This is the TensorFlow side, in the process of the server. `pipeline.replay.client` is the learner's side.
"""

import logging
import tempfile
import uuid
from pathlib import Path
from typing import Any

import reverb
import tensorflow as tf

from agents import Specs
from pipeline.experiment.sections import Experiment
from pipeline.messages.channel import REPORTS_TABLE, SERVER_TABLE, VARIABLES_TABLE, WEIGHTS_TABLE, Sender
from pipeline.messages.contents import Served
from pipeline.records.account import NOTHING, Tally
from pipeline.replay import reverb_checkpoint
from pipeline.replay.client import COLUMN, REFUSALS, Replay, draws_ahead, item_shape
from pipeline.replay.frames import FrameLayout
from pipeline.replay.shards.permits import PERMITS_TABLE, sizes
from pipeline.runtime.manifest import BadCheckpoint
from pipeline.runtime.ports import HOST, refuse_used_port
from pipeline.security.privacy import guarding

log = logging.getLogger(__name__)

_REPORTS_KEPT = 10_000
_SAY_SECONDS = 30.0
_MESSAGE = tf.TensorSpec((None,), tf.uint8)


class ReplayServer(Replay):
    """A replay whose server is in this process.

    Args:
      experiment: sizes, ratio and window.
      specs: of the environment.
      port: to listen on.
      folder: for Reverb's own checkpoints; it must hold nothing else.
      restore_from: a Reverb checkpoint of this run to go on from, or None.
      blocking: hold collectors and learner to the ratio; the inline launcher steers it by itself, as a blocked call in
        its only thread would wait for ever.
      dataset: a Reverb checkpoint of another run to draw from; priorities start anew.
      before: items that the checkpoint's queue had taken and given before it was last emptied.
      shard: which of the replay's servers this is, from 0.

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
        before: tuple[int, int] = (0, 0),
        shard: int = 0,
    ) -> None:
        refuse_used_port(port)
        refuse_used_port(experiment.replay.weights_port)
        layout, on_policy = FrameLayout.of(experiment, specs), experiment.agent.on_policy
        stored = _tally(restore_from, layout.table)
        self.restored = Tally(stored.inserted + before[0], stored.sampled + before[1], stored.present)
        """What the restored checkpoint had counted."""
        limited = _limited_tables(experiment, layout, blocking, shard)
        self._servers = [_start(experiment, limited, port, folder, dataset or restore_from, bool(dataset))]
        super().__init__(experiment, specs, f"{HOST}:{port}", self.restored if on_policy else NOTHING)
        self.weights_address = self.address
        """Of the server that has the weights."""
        if weights_port := experiment.replay.weights_port:
            checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder.with_name("weights")))  # never written
            with guarding(weights_port, experiment.replay.private):
                self._servers.append(
                    reverb.Server(_newest_tables(VARIABLES_TABLE, WEIGHTS_TABLE), weights_port, checkpointer)
                )
            self.weights_address = f"{HOST}:{weights_port}"
        self.forget_messages()
        if on_policy:  # what waits in its queue was collected with weights that are gone
            self.client.reset(layout.table)
        if experiment.replay.shards:
            self.client.reset(SERVER_TABLE)
            sender = Sender(self.address, SERVER_TABLE)
            sampled = self.restored.sampled
            if experiment.replay.shards > 1:  # what is drawn is counted by its permits, see `replay.shards`
                permits = _tally(restore_from, PERMITS_TABLE).sampled if shard == 0 else 0
                sampled = permits * sizes(experiment).sampled_items
            sender.send(Served(uuid.uuid4().hex, self.restored.inserted, sampled), _SAY_SECONDS)
            sender.close()

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


def _tally(source: Path | None, table: str) -> Tally:
    if source is None:
        return NOTHING
    try:
        return reverb_checkpoint.tally(source, table)
    except ValueError as error:
        reason = "its frames are of other observations or actions than the environment has now"
        raise BadCheckpoint(f"{reason}: {error}") from None
    except tf.errors.OpError as error:
        raise BadCheckpoint(f"its replay cannot be read: {error}") from None


def _limited_tables(experiment: Experiment, layout: FrameLayout, blocking: bool, shard: int) -> list[reverb.Table]:
    """The tables whose limiters the config sets: the experience and, of shard 0 of several, the permits."""
    item = {COLUMN: tf.TensorSpec(item_shape(experiment, layout), tf.uint8)}
    experience = _experience_table(experiment, layout.table, item, blocking)
    if experiment.replay.shards > 1 and shard == 0:
        return [experience, _permits_table(experiment, blocking)]
    return [experience]


def _start(
    experiment: Experiment,
    limited: list[reverb.Table],
    port: int,
    folder: Path,
    source: Path | None,
    equal_priorities: bool,
) -> reverb.Server:
    reports = reverb.Table.queue(REPORTS_TABLE, _REPORTS_KEPT, signature=_MESSAGE)
    tables = [*limited, reports, *_newest_tables(VARIABLES_TABLE, WEIGHTS_TABLE)]
    if experiment.replay.shards:
        tables += _newest_tables(SERVER_TABLE)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(suffix=".part", dir=folder.parent) as copy:  # read when the server starts
        if source is not None:
            for table in limited:
                source = _with_settings(source, table.info, Path(copy) / table.name, equal_priorities)
        fallback = str(source) if source else None
        checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder), fallback_checkpoint_path=fallback)
        try:
            with guarding(port, experiment.replay.private):
                return reverb.Server(tables, port, checkpointer)
        except REFUSALS as error:
            if source is None:
                raise
            raise BadCheckpoint(f"its replay cannot be restored: {error}") from None


def _with_settings(source: Path, settings: Any, copy: Path, equal_priorities: bool) -> Path:
    """A checkpoint of whose tables one has these settings: Reverb restores them with the items."""
    try:
        if not (equal_priorities or reverb_checkpoint.differs(source, settings)):
            return source
        copy.mkdir()
        reverb_checkpoint.restate(source, settings, copy, equal_priorities)
    except (tf.errors.OpError, ValueError) as error:
        raise BadCheckpoint(f"its replay cannot be read: {error}") from None
    log.info("%s of %s goes on with other settings: its items stay", settings.name, source)
    return copy


def _experience_table(experiment: Experiment, name: str, item: Any, blocking: bool) -> reverb.Table:
    replay = experiment.replay
    if experiment.agent.on_policy:
        # Collectors wait for new weights once they have handed over a batch between them: no insert ever blocks.
        return reverb.Table.queue(name, 2 * experiment.items_per_call, signature=item)
    by_priority = reverb.selectors.Prioritized(replay.priority_exponent)
    return reverb.Table(
        name,
        sampler=by_priority if replay.prioritized else reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=max(1, replay.capacity // max(1, replay.shards) // experiment.transitions_per_item),
        rate_limiter=_rate_limiter(experiment, blocking),
        signature=item,
    )


def _rate_limiter(experiment: Experiment, blocking: bool) -> Any:
    if experiment.replay.shards > 1:  # the permits hold the ratio, and the minimum size, for all
        return reverb.rate_limiters.MinSize(1)
    ratio = experiment.replay.samples_per_insert
    min_items = -(-experiment.replay.min_size // experiment.transitions_per_item)
    if not blocking or experiment.is_offline:  # a dataset has all its items from the start
        return reverb.rate_limiters.MinSize(min_items)
    # Samples that wait in the sampler and in tf.data count as taken: with less slack than those, learner and
    # collectors would run in lockstep; with less than a batch, no batch would ever be complete.
    iterators, in_flight = draws_ahead(experiment)
    ahead = iterators * in_flight + 2 * experiment.items_per_call
    return reverb.rate_limiters.SampleToInsertRatio(ratio, min_items, error_buffer=max(2.0 * ratio, 2.0 * ahead))


def _permits_table(experiment: Experiment, blocking: bool) -> reverb.Table:
    """What holds the ratio for all shards; which of its items is sampled does not matter."""
    of = sizes(experiment)
    ratio = reverb.rate_limiters.SampleToInsertRatio(of.samples_per_insert, of.min_size, of.error_buffer)
    return reverb.Table(
        PERMITS_TABLE,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=of.max_size,
        rate_limiter=ratio if blocking else reverb.rate_limiters.MinSize(of.min_size),
        signature=_MESSAGE,
    )


def _newest_tables(*names: str) -> list[reverb.Table]:
    """Tables of messages that keep the newest."""
    return [
        reverb.Table(
            name,
            sampler=reverb.selectors.Lifo(),
            remover=reverb.selectors.Fifo(),
            max_size=1,
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=_MESSAGE,
        )
        for name in names
    ]
