"""What few runs show: each of several collectors, priorities, the mirror, and the sweep that a run is of.

Imported by those runs alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import importance
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.messages.contents import CollectorReport
from pipeline.monitoring import metrics
from pipeline.records.counters import Counters
from pipeline.records.object_store import Mirrored

if TYPE_CHECKING:
    from pipeline.learner.priorities import PriorityWriter
    from pipeline.replay.replay import Replay

COLLECTORS = "collectors"
"""A run's second entry in TensorBoard, where it has several collectors."""


def collectors_own(report: CollectorReport) -> dict[str, float]:
    """What one of several collectors has reported: its tags end in its name."""
    own = metrics.collector_scalars([report]) | metrics.episode_scalars(report)
    return {f"{tag}/collector-{report.index}": value for tag, value in own.items()}


def mirrored_now(run: RunDirectory, counters: Counters, warnings: list[str]) -> dict[str, float]:
    """Of a run with `checkpoint.mirror`, as whoever brings it there has noted it; empty as long as nobody has.

    Args:
      run: its directory.
      counters: that the newest checkpoint there is entered into.
      warnings: that what is wrong is added to.
    """
    try:
        noted = msgspec.json.decode((run.path / "mirror.json").read_bytes(), type=Mirrored)
    except (OSError, msgspec.MsgspecError):
        return {}
    counters.mirrored_gradient_steps = noted.gradient_steps
    warnings += [noted.warning] if noted.warning else []
    scalars = {"system/mirror_failures": float(noted.failed), "system/mirror_left_out": float(noted.left_out)}
    if noted.gradient_steps is None:
        return scalars
    return scalars | {
        "system/mirrored_gradient_steps": float(noted.gradient_steps),
        "system/mirror_seconds": noted.seconds,
        "system/mirror_mebibytes": noted.size / 2**20,
    }


def priorities_now(
    priorities: NDArray[np.float32],
    experiment: Experiment,
    counters: Counters,
    learner: Learner,
    replay: "Replay",
    writer: "PriorityWriter",
) -> dict[str, float]:
    """Of a prioritised replay.

    Args:
      priorities: of the newest call.
      experiment: the run.
      counters: of the run: what new items get.
      learner: whose importance exponent, beta, is that of now.
      replay: that counts items whose priorities found their server away.
      writer: that knows, of the newest call's draws, the share of items without a priority of their own.
    """
    exponent = importance.exponent(experiment.replay, learner.agent.train_step_counter)
    return {
        "priority/mean": float(priorities.mean()),
        "priority/maximum": float(priorities.max()),
        "priority/of_new_items": counters.largest_priority,
        "priority/importance_exponent": float(exponent),
        "priority/skipped_items": float(replay.skipped_priorities),
        "priority/unjudged_share": writer.unjudged_share,
    }


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
