"""Writes prepared frames into a replay, as a collector would."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.experiment.sections import Experiment
from pipeline.replay.client import TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter
from pipeline.runtime import native

STRANGE: tuple[Sequence[Any], ...] = (
    [np.zeros(3, np.uint8)],
    [np.uint8(0)],
    [np.zeros((1, 1, 1), np.float32)],
    [np.zeros(3, np.uint8), np.zeros((2, 2), np.int64)],
    [np.array([b"text"], object)],
)
"""Columns of items that no role of a run writes."""


def write_frames(
    server: TableClient, experiment: Experiment, layout: FrameLayout, frames: Any, priorities: Any = None
) -> FrameWriter:
    """Writes frames [steps, lanes] and waits until the server has them.

    No transition begins in the last ones, which complete the windows before them.

    Args:
      server: to write to.
      experiment: how many lanes and steps make an item.
      layout: of the frames.
      frames: structured array [steps, lanes].
      priorities: float32 [transitions, lanes], of the windows by the frame that is learned from; None leaves them out.
    """
    writer = FrameWriter.of(experiment, layout, server.address)
    after = experiment.window - experiment.lead - 1
    for step, frame in enumerate(frames):
        given = priorities[step - after] if priorities is not None and step >= after else None
        write = writer.append if step < len(frames) - after else writer.pad
        write(frame, given)
        assert writer.confirm(lambda: True)
    for _ in range(writer.book.missing):  # windows that begin in these are the last item's only
        writer.pad(layout.padding(frames.shape[1]))
    assert writer.confirm(lambda: True, everything=True)
    return writer


def write_as_stranger(address: str, table: str, columns: Sequence[Any]) -> None:
    """Inserts an item of one step whatever the table's signature says, as any peer can."""
    options = native._load("reverb.libpybind").ConstantChunkerOptions(1, 1)
    writer = native.reverb_client(address).NewTrajectoryWriter(options, False)
    references = writer.Append(list(columns))
    writer.CreateItem(table, 1.0, [[reference] for reference in references], [True] * len(references))
    writer.Flush(0, 10_000)
    writer.Close()
