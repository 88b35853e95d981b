"""Writes prepared frames into a replay, as a collector would."""

from typing import Any

from pipeline.experiment.sections import Experiment
from pipeline.replay.client import TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter


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
