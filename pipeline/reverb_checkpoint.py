"""The files of a Reverb checkpoint: a table's settings, its items, and the chunks of data that they refer to."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from reverb.cc import schema_pb2
from reverb.cc.checkpointing import checkpoint_pb2

from pipeline.account import Tally

_TABLES, _ITEMS = "tables.tfrecord", "items.tfrecord"
_COMPRESSION = "ZLIB"


def restate(source: Path, settings: Any, folder: Path) -> None:
    """Makes a copy of a checkpoint whose experience table has other settings and items of priority 1.

    Reverb restores the settings of a table with its items.

    Args:
      source: the checkpoint's directory.
      settings: Reverb's `TableInfo` of a new table of the same name, with the size, limiter and sampler to have.
      folder: of the copy; empty. The data is linked where the file system can.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    names: list[str] = []

    def settle(table: Any) -> None:
        names.append(table.table_name)
        if table.table_name != settings.name:
            return
        table.max_size = settings.max_size
        table.sampler.CopyFrom(settings.sampler_options)
        for field in ("samples_per_insert", "min_diff", "max_diff", "min_size_to_sample"):
            setattr(table.rate_limiter, field, getattr(settings.rate_limiter_info, field))

    def level(item: Any) -> None:
        if item.table == settings.name:
            item.priority = 1.0

    _rewrite(source / _TABLES, folder, checkpoint_pb2.PriorityTableCheckpoint, settle)
    if settings.name not in names:
        raise ValueError(f"{source} holds no table {settings.name}")
    _rewrite(source / _ITEMS, folder, schema_pb2.PrioritizedItem, level)
    for path in source.iterdir():
        if path.name not in (_TABLES, _ITEMS):
            _link(path, folder / path.name)


def tally(source: Path, table: str) -> Tally:
    """What a table had counted when a checkpoint of it was written.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    for record in tf.data.TFRecordDataset(str(source / _TABLES), _COMPRESSION).as_numpy_iterator():
        stored = checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
        if stored.table_name == table:
            counts = stored.rate_limiter
            return Tally(counts.insert_count, counts.sample_count, counts.insert_count - counts.delete_count)
    raise ValueError(f"{source} holds no table {table}")


def _rewrite(path: Path, folder: Path, kind: Any, change: Callable[[Any], None]) -> None:
    with tf.io.TFRecordWriter(str(folder / path.name), _COMPRESSION) as writer:
        for record in tf.data.TFRecordDataset(str(path), _COMPRESSION).as_numpy_iterator():
            message = kind.FromString(record)
            change(message)
            writer.write(message.SerializeToString())


def _link(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # another device
        shutil.copy2(path, copy)
