"""Every TensorBoard tag by name, and their writers. The horizontal axis is the run's `Experiment.progress`.

TensorBoard sorts tags: returns (episode, evaluation) come first, and what the machinery does (speed, system) last.
`pipeline.comparison.curves` has the former names of those that have been renamed.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pipeline.messages.contents import CollectorReport, Evaluation, Filmstrip
from pipeline.records.counters import Counters
from pipeline.records.results import Status

if TYPE_CHECKING:
    from pipeline.learner.learner import Outcome

log = logging.getLogger(__name__)

_MIB = 2.0**20
_QUEUED_EVENTS = 1_000
_FLUSH_SECONDS = 2
_RETRY_SECONDS = 10.0


class MetricsWriter:
    """Writes summaries into a folder, which TensorBoard shows as one run, or into one within it, which is another.

    TensorBoard's own writer hands events to a thread and needs no TensorFlow operations. Those, run in a thread while
    the learner traced its functions, have ended a process by a segmentation fault.
    """

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf  # here: collectors take this module's names of their values, and no TensorFlow

        self._folder = folder
        self._refusals = OSError, tf.errors.OpError  # of a full disk, by which file layer TensorBoard writes through
        self._writers: dict[str, EventFileWriter] = {}
        self._paused_until = 0.0
        self.newest: dict[str, float] = {}  # by tag, of the run's own entry
        self.warning = ""
        """Why values are not written now; empty while they are."""

    def write(self, scalars: Mapping[str, float], progress: int, entry: str = "") -> None:
        """Hands over one value a tag."""
        if not entry:
            self.newest |= scalars
        self.show([scalar_pb(tag, value) for tag, value in scalars.items()], progress, entry)

    def show(self, summaries: Iterable[Summary], progress: int, entry: str = "") -> None:
        """Hands over summaries; while the disk takes none they are left out, and it is tried again later."""
        now = time.monotonic()
        if now < self._paused_until:
            return
        event = Event(wall_time=time.time(), step=progress)
        for summary in summaries:
            event.summary.MergeFrom(summary)
        try:
            if entry not in self._writers:
                folder = str(self._folder / entry)
                self._writers[entry] = EventFileWriter(folder, _QUEUED_EVENTS, _FLUSH_SECONDS)
                self.warning = ""
            self._writers[entry].add_event(event)
        except self._refusals as error:  # of this value, or in the writer's thread of an earlier one
            if not self.warning:
                log.error("TensorBoard files cannot be written: %s", error)
            self.warning = f"TensorBoard files cannot be written: {error}"
            self._paused_until = now + _RETRY_SECONDS
            self.close()

    def close(self) -> None:
        """Writes what was handed over and closes all files."""
        for writer in self._writers.values():
            try:
                writer.close()
            except self._refusals as error:
                log.error("the last TensorBoard values could not be written: %s", error)
        self._writers.clear()  # what goes on is a file of its own


def learner_scalars(outcome: "Outcome", learning_rate: float) -> dict[str, float]:
    """Of the newest fused call."""
    return {
        "learner/loss": outcome.loss,
        "learner/td_error": outcome.td_error,
        "learner/q_mean": outcome.q_mean,
        "learner/q_max": outcome.q_max,
        "learner/gradient_norm": outcome.gradient_norm,
        "learner/learning_rate": learning_rate,
    }


def divergence_scalars(counters: Counters, q_max_over_bound: float | None) -> dict[str, float]:
    """Of what the learner skipped and took back; and the largest Q-value over what rewards allow, if they do."""
    scalars = {
        "learner/skipped_updates": float(counters.skipped_updates),
        "learner/rollbacks": float(counters.rollbacks),
    }
    return scalars if q_max_over_bound is None else scalars | {"learner/q_max_over_bound": q_max_over_bound}


def status_scalars(status: Status, samples_per_insert_wanted: float, data_age: float) -> dict[str, float]:
    """Of the replay and the speed; `data_age` is in gradient steps between acting and learning, a call's mean."""
    return {
        "replay/size": float(status.replay_size),
        "replay/samples_per_insert": status.samples_per_insert,
        "replay/samples_per_insert_wanted": samples_per_insert_wanted,
        "replay/data_age_gradient_steps": data_age,
        "speed/train_seconds": status.train_seconds,
        "speed/environment_steps_per_second": status.environment_steps_per_second,
        "speed/gradient_steps_per_second": status.gradient_steps_per_second,
    }


def checkpoint_scalars(seconds: float, pause_seconds: float, size: int) -> dict[str, float]:
    """Of one checkpoint: how long it took, how long the learner stood still for it, and its bytes."""
    return {
        "system/checkpoint_seconds": seconds,
        "system/checkpoint_pause_seconds": pause_seconds,
        "system/checkpoint_mebibytes": size / _MIB,
    }


def memory_scalars(role: str, resident_bytes: int) -> dict[str, float]:
    """Of the processes of a role."""
    return {f"system/{role}_mib": resident_bytes / _MIB}


def waiting_scalars(learner: float | None, collectors: float | None) -> dict[str, float]:
    """Shares of their time that learner and collectors wait for the others, where they are known."""
    shares = {"speed/learner_waits": learner, "speed/collectors_wait": collectors}
    return {tag: share for tag, share in shares.items() if share is not None}


def episode_scalars(report: CollectorReport) -> dict[str, float]:
    """Means of the episodes that ended since a collector's last report; empty where none did."""
    if not report.returns:
        return {}
    return {
        "episode/return": sum(report.returns) / len(report.returns),
        "episode/length": sum(report.lengths) / len(report.lengths),
        **{f"episode/info/{key}": sum(numbers) / len(numbers) for key, numbers in report.info.items()},
    }


def collector_scalars(reports: Collection[CollectorReport]) -> dict[str, float]:
    """Of collectors, each by its newest report: means of shares and ages, sums of counts."""
    count = len(reports)
    environment_steps = sum(report.environment_steps for report in reports)
    scalars = {
        "exploration/epsilon": sum(report.epsilon for report in reports) / count,
        "system/environment_steps": float(environment_steps),
        "system/episodes": float(sum(report.episodes for report in reports)),
        "system/weights_age_gradient_steps": sum(report.weights_age for report in reports) / count,
        "system/weights_age_seconds": sum(report.weights_seconds for report in reports) / count,
        "system/blocked_seconds": sum(report.blocked_seconds for report in reports) / count,
        "system/faulty_episodes": float(sum(report.dropped_episodes for report in reports)),
        **memory_scalars("collectors", sum(report.resident_bytes for report in reports)),
    }
    if sent := sum(report.bytes_sent for report in reports):
        scalars["system/mebibytes_sent"] = sent / _MIB
        scalars["system/mebibytes_received"] = sum(report.bytes_received for report in reports) / _MIB
        if windows := sum(report.windows for report in reports):
            scalars["system/bytes_sent_per_transition"] = sent / windows
    if environment_steps:
        scalars["shield/share_of_steps"] = sum(report.shielded_steps for report in reports) / environment_steps
    return scalars


def episode_image(filmstrip: Filmstrip) -> Summary:
    """Of the episode of an evaluated policy."""
    parts = [str(filmstrip.width).encode(), str(filmstrip.height).encode(), filmstrip.png]
    tensor = TensorProto(dtype=DT_STRING, string_val=parts)
    tensor.tensor_shape.dim.add(size=len(parts))
    metadata = create_summary_metadata("", "", converted_to_tensor=False)
    summary = Summary()
    summary.value.add(tag="pictures/episode", tensor=tensor, metadata=metadata)
    return summary


def evaluation_scalars(evaluation: Evaluation) -> dict[str, float]:
    """Of one evaluation."""
    return {
        "evaluation/mean_return": evaluation.mean_return,
        "evaluation/std_return": evaluation.std_return,
        "evaluation/min_return": evaluation.min_return,
        "evaluation/max_return": evaluation.max_return,
        "evaluation/mean_length": evaluation.mean_length,
        **{f"evaluation/info/{key}": mean for key, mean in evaluation.info.items()},
        "speed/evaluation_seconds": evaluation.seconds,
        "shield/share_of_evaluation_steps": evaluation.shielded_share,
        **memory_scalars("evaluator", evaluation.resident_bytes),
    }
