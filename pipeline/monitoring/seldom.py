"""What few runs show: each of several collectors, and the sweep that a run is of.

Imported by those runs alone.
"""

from collections.abc import Collection
from pathlib import Path

import msgspec
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.messages.contents import CollectorReport
from pipeline.monitoring import metrics

COLLECTORS = "collectors"
"""A run's second entry in TensorBoard, where it has several collectors."""


def collectors_own(report: CollectorReport) -> dict[str, float]:
    """What one of several collectors has reported: its tags end in its name."""
    own = metrics.collector_scalars([report]) | metrics.episode_scalars(report)
    return {f"{tag}/collector-{report.index}": value for tag, value in own.items()}


def trial(path: Path, sweep: Path) -> tuple[str, list[str]]:
    """A name of a sweep's run that fits its column, values and seed alone, and the fields that the sweep varies.

    Args:
      path: of the run's directory.
      sweep: file of the sweep's results; one that says nothing of fields is none of ours.
    """
    try:
        varied = [str(field) for field in msgspec.json.decode(sweep.read_bytes())["fields"]]
    except (OSError, KeyError, TypeError, msgspec.MsgspecError):
        return "/".join(path.parts[-2:]), []
    words = [word.partition("=") for word in path.parent.name.split(",")]
    return f"{','.join(value or name for name, _, value in words)} {path.name.replace('seed-', 's')}", varied


def put_first(columns: Summary, names: Collection[str]) -> None:
    """Marks some columns of *HParams* as those that differ between runs: TensorBoard shows the first five."""
    (value,) = columns.value
    content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    for column in content.experiment.hparam_infos:
        column.differs = column.name in names
    value.metadata.plugin_data.content = content.SerializeToString()
