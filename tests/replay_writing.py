"""Writes prepared frames into a replay, as a collector would."""

from typing import Any

from pipeline.frames import FrameLayout
from pipeline.replay import ReplayServer
from pipeline.sections import Experiment
from pipeline.writer import FrameWriter


def write_frames(
    server: ReplayServer, experiment: Experiment, layout: FrameLayout, frames: Any, priorities: Any = None
) -> FrameWriter:
    """Writes frames [steps, lanes] and waits until the server has them.

    Args:
      server: to write to.
      experiment: how many lanes and steps make an item.
      layout: of the frames.
      frames: structured array [steps, lanes].
      priorities: float32 [steps - window + 1, lanes], of the windows by their first frame; None leaves them out.
    """
    writer, window = FrameWriter.of(experiment, layout, server.address), experiment.window
    for step, frame in enumerate(frames):
        complete = priorities is not None and step + 1 >= window
        writer.append(frame, priorities[step + 1 - window] if complete else None)
        assert writer.confirm(lambda: True)
    writer.complete()
    assert writer.confirm(lambda: True, everything=True)
    return writer
