"""TensorBoard files as `pipeline.metrics` writes them, without TensorFlow."""

from pathlib import Path

from pipeline.run_directory import RunDirectory


def write(run: RunDirectory, role: str, *points: tuple[float, int, dict[str, float]]) -> Path:
    """Writes a file of events: wall-clock seconds, step and values by tag."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = run.tensorboard / role
    before = set(folder.glob("*")) if folder.exists() else set()
    writer = EventFileWriter(str(folder))
    for seconds, step, values in points:
        event = Event(wall_time=seconds, step=step)
        for tag, value in values.items():
            event.summary.MergeFrom(scalar_pb(tag, value))
        writer.add_event(event)
    writer.close()
    (path,) = set(folder.glob("*")) - before
    return path
