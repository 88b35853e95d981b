"""Checkpoints: the learner's state, the counters and the replay's contents as one consistent set.

A checkpoint is a directory `checkpoints/<number>-<gradient steps>` that is complete once it has that name: it is
written under another one and renamed. Its manifest has the size and checksum of every file, so that a damaged one is
told from a good one. Reverb keeps only its newest checkpoint and deletes what else it finds in its folder, so it gets a
folder of its own, from which the finished files are linked. No TensorFlow here.
"""

import copy
import datetime
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from pipeline.messages.contents import Array, Counts, Evaluation
from pipeline.runtime import manifest
from pipeline.runtime.manifest import BadCheckpoint, FileRecord

log = logging.getLogger(__name__)

_LEARNER, _REPLAY = "learner.msgpack", "replay"
_REVERB, _BEST, _PART = "reverb", "best", ".part"
_NAME = re.compile(r"\d{6,}-\d{12,}|\d{12,}")
"""Number and gradient steps; of format 1, gradient steps alone."""
_PACKAGES = ("tensorflow", "tf-agents", "dm-reverb", "numpy")


class Best(msgspec.Struct, frozen=True):
    """The evaluation with the best mean return."""

    mean_return: float
    environment_steps: int
    gradient_steps: int


class KnownServer(msgspec.Struct, frozen=True):
    """One of the replay's servers in processes of their own, when it last answered."""

    identity: str
    """Of its process."""
    inserted: int
    """Items that it had inserted."""
    sampled: int
    fastest: int
    """Most items that it inserted between two answers."""


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
    taken_before: tuple[int, int] = (0, 0)
    """On-policy: items that the queue had taken and given before it was last emptied, which its own counts forget."""
    servers: list[KnownServer] = []
    """Of the replay, by shard; empty where it is in the learner's process."""
    drawn_before: int = 0
    """Items that servers had given since the checkpoint from which they were restored, which their counts forget."""
    unseen_items: int = 0
    """Items that servers which were restarted may have taken after they last answered, at most."""
    unreported: int = 0
    """Transitions that collectors of which nothing more was heard may have begun after their last report, at most."""
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
    bytes_sent: int = 0
    """By collectors over TCP: frames and reports."""
    bytes_received: int = 0
    """By collectors over TCP: weights."""
    gradient_steps: int = 0
    skipped_updates: int = 0
    """Gradient steps of these that changed nothing, as loss or gradient was not finite."""
    rollbacks: int = 0
    largest_reward: float = 0.0
    """Largest absolute reward that collectors have seen, or offline the learner."""
    largest_priority: float = 1.0
    """That the learner has given a transition."""
    train_seconds: float = 0.0
    best: Best | None = None
    failed_checkpoints: int = 0
    """Checkpoints that could not be written."""

    @property
    def lost_transitions(self) -> int:
        """All that were lost."""
        return sum(self.lost.values())

    @property
    def bytes_per_transition(self) -> float | None:
        """Bytes sent by collectors for each transition confirmed; None while neither are counted."""
        return self.bytes_sent / self.transitions if self.bytes_sent and self.transitions else None


class Manifest(msgspec.Struct, frozen=True):
    """What a checkpoint holds, and how to tell that all of it is there."""

    written_at: str
    """UTC, in ISO 8601."""
    versions: dict[str, str]
    """Of what its bytes depend on: Python packages by name."""
    config: str
    """SHA-256 of the run's config."""
    mean_return: float | None
    """Of the newest evaluation."""
    counters: Counters
    files: dict[str, FileRecord]
    """By their paths within the checkpoint."""


class Checkpoint:
    """A checkpoint on disk.

    Args:
      path: of its directory.

    Raises:
      BadCheckpoint: its manifest is missing, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.replay = path, path / _REPLAY
        self.manifest = manifest.read(path, Manifest)

    @property
    def counters(self) -> Counters:
        """A copy of the counts at the time of writing."""
        return copy.deepcopy(self.manifest.counters)

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(record.size for record in self.manifest.files.values())

    def learner_state(self) -> dict[str, NDArray[Any]]:
        """The learner's arrays by name.

        Raises:
          BadCheckpoint: they cannot be read.
        """
        try:
            arrays = msgspec.msgpack.decode((self.path / _LEARNER).read_bytes(), type=dict[str, Array])
        except (OSError, msgspec.MsgspecError) as error:
            raise BadCheckpoint(f"{_LEARNER} cannot be read: {error}") from None
        return {name: array.numpy() for name, array in arrays.items()}

    def check_sizes(self) -> None:
        """Checks that every file is there with all its bytes; see `manifest.check_sizes`."""
        manifest.check_sizes(self.path, self.manifest.files)

    def verify(self) -> None:
        """Reads every file and compares it with what was written; see `manifest.verify`."""
        manifest.verify(self.path, self.manifest.files)


def good(folder: Path, say: Callable[[str], None] = log.warning) -> Iterator[Checkpoint]:
    """Every checkpoint of a folder that is whole, verified as it is asked for, the newest first.

    A checkpoint that its run removes meanwhile is none.

    Args:
      folder: of a run's checkpoints.
      say: takes a sentence about each that is skipped.
    """
    for path in _paths(folder):
        try:
            found = Checkpoint(path)
            found.verify()
        except BadCheckpoint as bad:
            if path.exists():
                say(f"checkpoint {path} is skipped: {bad}")
            continue
        yield found


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a folder that is whole, or None; see `good`."""
    found = next(good(folder), None)
    if found is None and _paths(folder) and any(map(_is_complete, _paths(folder))):
        found = next(good(folder), None)  # its run has replaced all that there were while they were read
    return found


def exists(folder: Path) -> bool:
    """Whether a folder has a checkpoint, whole or not."""
    return bool(_paths(folder))


def reverb_folder(folder: Path) -> Path:
    """Where Reverb writes its own checkpoints; emptied, so that a server starts from what it is given."""
    path = folder / _REVERB
    shutil.rmtree(path, ignore_errors=True)
    return path


def write(
    folder: Path,
    config: bytes,
    counters: Counters,
    learner_state: Mapping[str, Array],
    write_replay: Callable[[], Path | None],
    keep: int,
) -> Checkpoint:
    """Writes a checkpoint, and removes all but the newest `keep` and the best.

    The best is the first one after the evaluation that `Counters.best` tells of; the link `best` points at it.

    Args:
      folder: of the run's checkpoints.
      config: the run's, for its checksum.
      counters: go into the manifest; the gradient steps are in the checkpoint's name.
      learner_state: the learner's arrays by name.
      write_replay: writes the replay and returns its directory; None of one that is kept elsewhere.
      keep: how many of the newest to keep.

    Raises:
      OSError: it could not be written. Nothing of it is left, and those before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_parts(folder)
    name = f"{_next_number(folder):06d}-{counters.gradient_steps:012d}"
    part = folder / f"{name}{_PART}"
    try:
        part.mkdir()
        (part / _LEARNER).write_bytes(msgspec.msgpack.encode(learner_state))
        if (replay := write_replay()) is not None:
            shutil.copytree(replay, part / _REPLAY, copy_function=link_or_copy)
        manifest.seal(part, _manifest(part, config, counters))
        for path in (part, *part.rglob("*")):
            _to_disk(path)
        part.rename(folder / name)
    except OSError:
        for unfinished in (part, folder / _REVERB):  # what it holds is linked where it is needed
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _to_disk(folder)
    written = Checkpoint(folder / name)
    try:
        _remove_old(folder, written, keep)
    except OSError as error:
        log.warning("checkpoints that are not needed any more could not be removed: %s", error)
    return written


def link_or_copy(source: str | Path, copy_to: str | Path) -> None:
    """A second name for a file, or a copy of it where the file system has no links or is another one."""
    try:
        os.link(source, copy_to)
    except OSError:
        shutil.copy2(source, copy_to)


def _paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    return sorted((path for path in folder.glob("[0-9]*") if _NAME.fullmatch(path.name)), key=_order, reverse=True)


def _order(path: Path) -> tuple[int, int]:
    number, _, gradient_steps = path.name.rpartition("-")
    return int(number or 0), int(gradient_steps)


def _is_complete(path: Path) -> bool:
    try:
        Checkpoint(path).check_sizes()
    except BadCheckpoint:
        return False
    return True


def _next_number(folder: Path) -> int:
    return 1 + max((_order(path)[0] for path in _paths(folder)), default=0)


def _manifest(part: Path, config: bytes, counters: Counters) -> Manifest:
    return Manifest(
        written_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={name: metadata.version(name) for name in _PACKAGES},
        config=hashlib.sha256(config).hexdigest(),
        mean_return=counters.evaluation.mean_return if counters.evaluation else None,
        counters=counters,
        files=manifest.records(part),
    )


def _remove_old(folder: Path, written: Checkpoint, keep: int) -> None:
    """Removes what is neither among the newest nor the best, and what is damaged; points `best` at the best."""
    whole, best = [written], written
    for path in _paths(folder):
        try:
            found = Checkpoint(path)
            found.check_sizes()
        except BadCheckpoint:
            _remove(path)
            continue
        if path != written.path:
            whole.append(found)
        if found.manifest.counters.best == written.manifest.counters.best:
            best = found
    kept = [*whole[:keep], *([best] if written.manifest.counters.best else [])]
    for old in whole[keep:]:
        if old not in kept:
            _remove(old.path)
    if written.manifest.counters.best:
        link = folder / f"{_BEST}{_PART}"
        link.unlink(missing_ok=True)
        link.symlink_to(best.path.name)
        link.rename(folder / _BEST)


def _remove(path: Path) -> None:
    """Removes a checkpoint; one that is only half removed has another name."""
    gone = path.with_name(path.name + _PART)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _remove_parts(folder: Path) -> None:
    """Removes what writes and removals that were killed have left."""
    for path in folder.glob(f"*{_PART}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
