"""The files of a Reverb checkpoint: a table's settings are in one of them, its items and their data in others."""

from pathlib import Path
from typing import Any

import tensorflow as tf
from reverb.cc.checkpointing import checkpoint_pb2

_TABLES = "tables.tfrecord"
_COMPRESSION = "ZLIB"


def restate(source: Path, settings: Any, folder: Path) -> None:
    """Makes a copy of a checkpoint whose experience table has other settings; Reverb restores them with the items.

    Args:
      source: the checkpoint's directory; it must stay, as what is large in it is linked and not copied.
      settings: Reverb's `TableInfo` of a new table of the same name, with the size, limiter and sampler to have.
      folder: of the copy; empty.

    Raises:
      ValueError: the checkpoint has no table of that name.
    """
    found = False
    with tf.io.TFRecordWriter(str(folder / _TABLES), _COMPRESSION) as writer:
        for record in tf.data.TFRecordDataset(str(source / _TABLES), _COMPRESSION):
            table = checkpoint_pb2.PriorityTableCheckpoint.FromString(record.numpy())
            if table.table_name == settings.name:
                found = True
                _settle(table, settings)
            writer.write(table.SerializeToString())
    if not found:
        raise ValueError(f"{source} holds no table {settings.name}")
    for path in source.iterdir():
        if path.name != _TABLES:
            (folder / path.name).symlink_to(path.resolve())


def _settle(table: Any, settings: Any) -> None:
    table.max_size = settings.max_size
    table.sampler.CopyFrom(settings.sampler_options)
    limiter = settings.rate_limiter_info
    for field in ("samples_per_insert", "min_diff", "max_diff", "min_size_to_sample"):
        setattr(table.rate_limiter, field, getattr(limiter, field))
