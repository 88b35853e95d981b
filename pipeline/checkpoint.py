"""Checkpoints: the learner's state, the counters and the replay's contents as one consistent set.

A checkpoint is a directory `checkpoints/<gradient steps>` that is complete once it has that name: it is written under
another one and renamed. Reverb keeps only its newest checkpoint and deletes what else it finds in its folder, so it
gets a folder of its own, from which the finished files are linked.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipeline.recorder import Counts
from pipeline.variables import Evaluation

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_REVERB_DONE = "DONE"


class Counters(msgspec.Struct):
    """Global counts of a run; a resumed run goes on from them."""

    environment_steps: int = 0
    episodes: int = 0
    transitions: int = 0
    """Confirmed by the replay since the run began; the oldest may have left it."""
    begun: int = 0
    """Transitions handed to the collectors' writers."""
    items: int = 0
    """Replay items confirmed."""
    lost: dict[str, int] = {}
    """Transitions that began and are not stored, by what lost them."""
    lost_items: int = 0
    """Items that went with a replay's process."""
    interruptions: int = 0
    """Collectors that ended without a last report, and replays that ended without a last checkpoint, each for every
    collector."""
    processes: dict[str, Counts] = {}
    """What each collector process that has not ended had counted."""
    left: list[str] = []
    """Collector processes whose counts are final."""
    learned: int = 0
    """Transitions that gradient steps learned from, as often as they did."""
    discarded: int = 0
    """Transitions drawn ahead by learners' processes that have ended."""
    evaluations: int = 0
    evaluation: Evaluation | None = None
    """The newest."""
    dropped_episodes: int = 0
    """Cut off by a fault of their environment."""
    shielded_steps: int = 0
    """Environment steps in which the shield forbade what would have been the best action."""
    gradient_steps: int = 0
    skipped_updates: int = 0
    """Gradient steps of these that changed nothing, as loss or gradient was not finite."""
    rollbacks: int = 0
    largest_reward: float = 0.0
    """Largest absolute reward that collectors have seen, or offline the learner."""
    largest_priority: float = 1.0
    """That the learner has given a transition."""
    train_seconds: float = 0.0

    @property
    def lost_transitions(self) -> int:
        """All that were lost."""
        return sum(self.lost.values())


class Manifest(msgspec.Struct):
    """What a checkpoint holds."""

    format: int
    counters: Counters


class Checkpoint:
    """A complete checkpoint on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.learner_prefix = str(path / "learner")
        self.replay = path / "replay"

    @property
    def counters(self) -> Counters:
        """Counts at the time of writing."""
        return msgspec.json.decode((self.path / _MANIFEST).read_bytes(), type=Manifest).counters

    def is_complete(self) -> bool:
        """Whether both halves and a manifest are there."""
        try:
            _ = self.counters
        except (OSError, msgspec.MsgspecError):
            return False
        return Path(f"{self.learner_prefix}.index").is_file() and (self.replay / _REVERB_DONE).is_file()


def newest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint in a folder, or None."""
    complete = _complete(folder)
    return complete[0] if complete else None


def reverb_folder(folder: Path) -> Path:
    """Where Reverb writes its own checkpoints; emptied, so that a server starts from what it is given."""
    path = folder / "reverb"
    shutil.rmtree(path, ignore_errors=True)
    return path


def write(
    folder: Path, counters: Counters, write_learner: Callable[[str], None], write_replay: Callable[[], Path], keep: int
) -> Checkpoint:
    """Writes a checkpoint and removes all but the newest `keep`.

    Args:
      folder: of the run's checkpoints.
      counters: go into the manifest; the gradient steps name the checkpoint.
      write_learner: writes the learner's state under a path prefix.
      write_replay: writes the replay and returns its directory.
      keep: how many to keep.
    """
    name = f"{counters.gradient_steps:012d}"
    part = folder / f"{name}.part"
    for unfinished in folder.glob("*.part"):  # of writes that were killed
        shutil.rmtree(unfinished, ignore_errors=True)
    part.mkdir(parents=True)
    replay = write_replay()
    shutil.copytree(replay, part / "replay", copy_function=os.link)
    write_learner(str(part / "learner"))
    (part / _MANIFEST).write_bytes(msgspec.json.encode(Manifest(format=1, counters=counters)))
    for path in part.rglob("*"):
        _to_disk(path)
    final = folder / name
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    _to_disk(folder)
    written = Checkpoint(final)
    older = [checkpoint for checkpoint in _complete(folder) if checkpoint.path != final]
    for checkpoint in older[max(0, keep - 1) :]:
        shutil.rmtree(checkpoint.path, ignore_errors=True)
    return written


def _complete(folder: Path) -> list[Checkpoint]:
    """Every complete checkpoint of a folder, the newest first."""
    paths = sorted((path for path in folder.glob("[0-9]*") if path.suffix == ""), reverse=True)
    return [checkpoint for checkpoint in map(Checkpoint, paths) if checkpoint.is_complete()]


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
