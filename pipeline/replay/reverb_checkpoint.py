"""The files of a Reverb checkpoint: a table's settings, its items, and the chunks of data that they refer to."""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from reverb.cc import schema_pb2
from reverb.cc.checkpointing import checkpoint_pb2

from pipeline.records.checkpoint import BadCheckpoint
from pipeline.records.checkpoint_writer import link_or_copy
from pipeline.records.counters import Tally
from pipeline.runtime import snappy

log = logging.getLogger(__name__)

_TABLES, _ITEMS, _CHUNKS = "tables.tfrecord", "items.tfrecord", "chunks.tfrecord"
_COMPRESSION = "ZLIB"


class StoredItem(NamedTuple):
    """An item of a table, without its data."""

    key: int
    priority: float
    times_sampled: int
    inserted_at: int
    """Nanoseconds since 1970."""
    slices: list[tuple[int, int, int]]
    """Of its only column: key of a chunk, offset in it, steps."""


class StoredChunk(NamedTuple):
    """Successive steps of one column of a writer, compressed together."""

    key: int
    writer: int
    first: int
    """Of the writer's steps."""
    data: Any
    """Reverb's `ChunkData`."""

    def steps(self) -> NDArray[np.uint8]:
        """The column's bytes, [steps, ...]."""
        (tensor,) = self.data.data.tensors
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        return np.frombuffer(snappy.uncompressed(tensor.tensor_content), np.uint8).reshape(shape)


def items(source: Path, table: str) -> Iterator[StoredItem]:
    """The items of a table, in the order in which the checkpoint has them.

    Args:
      source: the checkpoint's directory.
      table: one of items of one column.
    """
    for record in _records(source / _ITEMS):
        item = schema_pb2.PrioritizedItem.FromString(record)
        if item.table == table:
            (column,) = item.flat_trajectory.columns
            slices = [(part.chunk_key, part.offset, part.length) for part in column.chunk_slices]
            yield StoredItem(item.key, item.priority, item.times_sampled, item.inserted_at.ToNanoseconds(), slices)


def chunks(source: Path) -> Iterator[StoredChunk]:
    """The data that items of all tables refer to."""
    for record in _records(source / _CHUNKS):
        chunk = schema_pb2.ChunkData.FromString(record)
        steps = chunk.sequence_range
        yield StoredChunk(chunk.chunk_key, steps.episode_id, steps.start, chunk)


def differs(source: Path, settings: Any) -> bool:
    """Whether a stored table has another size, sampler or limiter than a new one of the same name.

    Args:
      source: the checkpoint's directory.
      settings: Reverb's `TableInfo` of the new table.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    stored = _table(source, settings.name)
    ratios = zip(_ratio(stored.rate_limiter), _ratio(settings.rate_limiter_info), strict=True)
    same_table = stored.max_size == settings.max_size and stored.sampler == settings.sampler_options
    return not (same_table and all(math.isclose(old, new, rel_tol=1e-6) for old, new in ratios))


def restate(source: Path, settings: Any, folder: Path, equal_priorities: bool = False) -> None:
    """Makes a copy of a checkpoint whose experience table has other settings.

    Reverb restores the settings of a table with its items. Items beyond the new size leave, the oldest first. Counts of
    inserts and samples stay; the limiter's bounds are set around them, so that neither side has to wait for the other.

    Args:
      source: the checkpoint's directory.
      settings: Reverb's `TableInfo` of a new table of the same name, with the size, limiter and sampler to have.
      folder: of the copy; empty. The data is linked where the file system can.
      equal_priorities: give every item a priority of 1.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    _table(source, settings.name)
    items = (schema_pb2.PrioritizedItem.FromString(record) for record in _records(source / _ITEMS))
    ages = [(item.inserted_at.ToNanoseconds(), item.key) for item in items if item.table == settings.name]
    removed = {key for _, key in sorted(ages)[: max(0, len(ages) - settings.max_size)]}

    def settle(table: Any) -> bool:
        if table.table_name == settings.name:
            table.max_size = settings.max_size
            table.sampler.CopyFrom(settings.sampler_options)
            table.rate_limiter.delete_count += len(removed)
            _center(table.rate_limiter, settings.rate_limiter_info, len(ages) - len(removed))
        return True

    def level(item: Any) -> bool:
        if item.table != settings.name:
            return True
        if equal_priorities:
            item.priority = 1.0
        return item.key not in removed

    _rewrite(source / _TABLES, folder, checkpoint_pb2.PriorityTableCheckpoint, settle)
    _rewrite(source / _ITEMS, folder, schema_pb2.PrioritizedItem, level)
    for path in source.iterdir():
        if path.name not in (_TABLES, _ITEMS):
            link_or_copy(path, folder / path.name)


def tally(source: Path, table: str) -> Tally:
    """What a table had counted when a checkpoint of it was written.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    counts = _table(source, table).rate_limiter
    return Tally(counts.insert_count, counts.sample_count, counts.insert_count - counts.delete_count)


def _table(source: Path, name: str) -> Any:
    """A stored table's settings and counts."""
    for record in _records(source / _TABLES):
        stored = checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
        if stored.table_name == name:
            return stored
    raise ValueError(f"{source} holds no table {name}")


def _ratio(limiter: Any) -> tuple[float, int, float]:
    """What a limiter holds, wherever the counts are: samples per insert, minimum size, slack."""
    return limiter.samples_per_insert, limiter.min_size_to_sample, limiter.max_diff - limiter.min_diff


def _center(stored: Any, wanted: Any, size: int) -> None:
    """Gives a limiter that has counted other settings, with its bounds as far from its counts as at a start.

    Until the table has its minimum size inserts are free: the bounds are around what the counts will be then.
    """
    for field in ("samples_per_insert", "min_size_to_sample", "min_diff", "max_diff"):
        setattr(stored, field, getattr(wanted, field))
    slack = (wanted.max_diff - wanted.min_diff) / 2
    if math.isfinite(slack):  # a limiter without bounds has the largest floats
        inserts = stored.insert_count + max(0, wanted.min_size_to_sample - size)
        middle = inserts * wanted.samples_per_insert - stored.sample_count
        stored.min_diff, stored.max_diff = middle - slack, middle + slack


def _records(path: Path) -> Any:
    return tf.data.TFRecordDataset(str(path), _COMPRESSION).as_numpy_iterator()


def _rewrite(path: Path, folder: Path, kind: Any, change: Callable[[Any], bool]) -> None:
    """Copies messages that `change` keeps, as it leaves them."""
    with tf.io.TFRecordWriter(str(folder / path.name), _COMPRESSION) as writer:
        for record in _records(path):
            message = kind.FromString(record)
            if change(message):
                writer.write(message.SerializeToString())


def stored_tally(source: Path, table: str) -> Tally:
    """What a table of a run's checkpoint had counted.

    Raises:
      BadCheckpoint: it has no such table, or cannot be read.
    """
    try:
        return tally(source, table)
    except ValueError as error:
        reason = "its frames are of other observations or actions than the environment has now"
        raise BadCheckpoint(f"{reason}: {error}") from None
    except tf.errors.OpError as error:
        raise BadCheckpoint(f"its replay cannot be read: {error}") from None


def with_settings(source: Path, settings: Any, copy: Path, equal_priorities: bool) -> Path:
    """A checkpoint of whose tables one has these settings: Reverb restores them with the items.

    Args:
      source: a Reverb checkpoint.
      settings: Reverb's `TableInfo` of the table as it is wanted.
      copy: a folder to be made, where another checkpoint is needed.
      equal_priorities: whether the items' priorities start anew.

    Returns:
      `source`, or `copy`.

    Raises:
      BadCheckpoint: it cannot be read.
    """
    try:
        if not (equal_priorities or differs(source, settings)):
            return source
        copy.mkdir()
        restate(source, settings, copy, equal_priorities)
    except (tf.errors.OpError, ValueError) as error:
        raise BadCheckpoint(f"its replay cannot be read: {error}") from None
    log.info("%s of %s goes on with other settings: its items stay", settings.name, source)
    return copy
