"""TensorBoard files such as runs leave, without TensorFlow."""

from pathlib import Path

from pipeline.experiment.run_directory import RunDirectory


def write(run: RunDirectory, role: str, *points: tuple[float, int, dict[str, float]]) -> Path:
    """Writes a file of events: wall-clock seconds, step and values by tag."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder = run.tensorboard / role
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{len(list(folder.iterdir()))}"
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        for seconds, step, values in points:
            event = Event(wall_time=seconds, step=step)
            for tag, value in values.items():
                event.summary.MergeFrom(scalar_pb(tag, value))
            writer.write(event.SerializeToString())
    return path
