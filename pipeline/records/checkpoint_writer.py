"""Writes checkpoints: the learner's state, the counters and the replay's contents as one consistent set.

A checkpoint is a directory `checkpoints/<number>-<gradient steps>` that is complete once it has that name: it is
written under another one and renamed. Its manifest has the size and checksum of every file, so that a damaged one is
told from a good one. Reverb keeps only its newest checkpoint and deletes what else it finds in its folder, so it gets a
folder of its own, from which the finished files are linked. `pipeline.records.checkpoint` reads them. No TensorFlow.
"""

import datetime
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.messages.contents import Array
from pipeline.records.counters import BestEvaluation, Counters

log = logging.getLogger(__name__)

FORMAT = 2
MANIFEST, LEARNER, REPLAY = "manifest.json", "learner.msgpack", "replay"
_REVERB, _BEST, _PART = "reverb", "best", ".part"
NAME = re.compile(r"\d{6,}-\d{12,}|\d{12,}")
"""Number and gradient steps; of format 1, gradient steps alone."""
_PACKAGES = ("tensorflow", "tf-agents", "dm-reverb", "numpy")
_CHUNK = 1 << 20


class FileRecord(msgspec.Struct, frozen=True):
    """What a file has to be."""

    size: int
    """Bytes."""
    sha256: str


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


class Written(NamedTuple):
    """A checkpoint that has been written."""

    path: Path
    size: int
    """Bytes of all its files but the manifest."""


def write(
    folder: Path,
    config: bytes,
    counters: Counters,
    learner_state: Mapping[str, Array],
    write_replay: Callable[[], Path | None],
    keep: int,
) -> Written:
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
        (part / LEARNER).write_bytes(msgspec.msgpack.encode(learner_state))
        if (replay := write_replay()) is not None:
            shutil.copytree(replay, part / REPLAY, copy_function=link_or_copy)
        manifest = _manifest(part, config, counters)
        _seal(part, manifest)
        for path in (part, *part.rglob("*")):
            _to_disk(path)
        part.rename(folder / name)
    except OSError:
        for unfinished in (part, folder / _REVERB):  # what it holds is linked where it is needed
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _to_disk(folder)
    written = folder / name
    try:
        _remove_old(folder, written, counters.best, keep)
    except OSError as error:
        log.warning("checkpoints that are not needed any more could not be removed: %s", error)
    return Written(written, sum(record.size for record in manifest.files.values()))


def link_or_copy(source: str | Path, copy_to: str | Path) -> None:
    """A second name for a file, or a copy of it where the file system has no links or is another one."""
    try:
        os.link(source, copy_to)
    except OSError:
        shutil.copy2(source, copy_to)


def reverb_folder(folder: Path) -> Path:
    """Where Reverb writes its own checkpoints; emptied, so that a server starts from what it is given."""
    path = folder / _REVERB
    shutil.rmtree(path, ignore_errors=True)
    return path


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Every file of a folder, by its path within it."""
    return {
        str(path.relative_to(folder)): FileRecord(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not, the newest first."""
    return sorted((path for path in folder.glob("[0-9]*") if NAME.fullmatch(path.name)), key=order_of, reverse=True)


def order_of(path: Path) -> tuple[int, int]:
    """What checkpoints are sorted by: their number, and the gradient steps taken then."""
    number, _, gradient_steps = path.name.rpartition("-")
    return int(number or 0), int(gradient_steps)


def _next_number(folder: Path) -> int:
    return 1 + max((order_of(path)[0] for path in paths(folder)), default=0)


def _manifest(part: Path, config: bytes, counters: Counters) -> Manifest:
    return Manifest(
        written_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={name: metadata.version(name) for name in _PACKAGES},
        config=hashlib.sha256(config).hexdigest(),
        mean_return=counters.evaluation.mean_return if counters.evaluation else None,
        counters=counters,
        files=file_records(part),
    )


def _seal(folder: Path, manifest: Manifest) -> None:
    """Writes a folder's manifest."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    head = b'{"format": %d, "sha256": "%s", "manifest": ' % (FORMAT, hashlib.sha256(text).hexdigest().encode())
    (folder / MANIFEST).write_bytes(head + text + b"}")


def _remove_old(folder: Path, written: Path, best: BestEvaluation | None, keep: int) -> None:
    """Removes what is neither among the newest nor the best, and what is damaged; points `best` at the best."""
    whole, first_of_best = [written], written
    if others := [path for path in paths(folder) if path != written]:
        from pipeline.records.checkpoint import BadCheckpoint, Checkpoint  # there is none to read before the second

        for path in others:
            try:
                found = Checkpoint(path)
                found.check_sizes()
            except BadCheckpoint:
                _remove(path)
                continue
            whole.append(path)
            if found.manifest.counters.best == best:
                first_of_best = path
    for old in whole[keep:]:
        if not (best and old == first_of_best):
            _remove(old)
    if best:
        link = folder / f"{_BEST}{_PART}"
        link.unlink(missing_ok=True)
        link.symlink_to(first_of_best.name)
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


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])  # lets other threads run meanwhile
    return digest.hexdigest()
