"""Reads checkpoints back: finds the newest that is whole, checks its files, hands out what it holds, goes on from it.

Imported by what goes on from a checkpoint, rolls back to one or looks into one; `pipeline.records.checkpoint_writer`
says what they are. No TensorFlow.
"""

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.messages.contents import Array
from pipeline.records.checkpoint_writer import FORMAT, LEARNER, MANIFEST, REPLAY, FileRecord, Manifest, paths, sha256_of
from pipeline.records.counters import Counters

log = logging.getLogger(__name__)


class BadCheckpoint(Exception):
    """A checkpoint that cannot be used; says why."""


class _Sealed(msgspec.Struct, frozen=True):
    """The manifest's file: the checksum is of the very bytes of the manifest."""

    format: int
    sha256: str = ""
    manifest: msgspec.Raw = msgspec.Raw(b"")


class Checkpoint:
    """A checkpoint on disk.

    Args:
      path: of its directory.

    Raises:
      BadCheckpoint: its manifest is missing, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.replay = path, path / REPLAY
        self.manifest = _manifest(path)

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
            arrays = msgspec.msgpack.decode((self.path / LEARNER).read_bytes(), type=prepared(dict[str, Array]))
        except (OSError, msgspec.MsgspecError) as error:
            raise BadCheckpoint(f"{LEARNER} cannot be read: {error}") from None
        return {name: array.numpy() for name, array in arrays.items()}

    def check_sizes(self) -> None:
        """Checks that every file is there with all its bytes; see the function of that name."""
        check_sizes(self.path, self.manifest.files)

    def verify(self) -> None:
        """Reads every file and compares it with what was written; see `verify_files`."""
        verify_files(self.path, self.manifest.files)


def good(folder: Path, say: Callable[[str], None] = log.warning) -> Iterator[Checkpoint]:
    """Every checkpoint of a folder that is whole, verified as it is asked for, the newest first.

    A checkpoint that its run removes meanwhile is none.

    Args:
      folder: of a run's checkpoints.
      say: takes a sentence about each that is skipped.
    """
    for path in paths(folder):
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
    if found is None and paths(folder) and any(map(_is_complete, paths(folder))):
        found = next(good(folder), None)  # its run has replaced all that there were while they were read
    return found


def restore(
    folder: Path,
    use: Callable[[Checkpoint], None],
    say: Callable[[str], None] = log.warning,
    pass_over: int = 0,
) -> Checkpoint | None:
    """Goes on from the newest checkpoint that can be used.

    Args:
      folder: of the run's checkpoints.
      use: takes a whole checkpoint; raises `BadCheckpoint` if it turns out not to be of use.
      say: takes a sentence about each that is skipped.
      pass_over: whole checkpoints to leave out, the newest first, as long as there is one before them: learners that
        went on from them failed, so that what they hold may be what ends them.

    Returns:
      The checkpoint that was used; None if there is none at all.

    Raises:
      UsageError: there are checkpoints, and none of them can be used.
    """
    reasons = []

    def skip(sentence: str) -> None:
        reasons.append(sentence)
        say(sentence)

    candidates = good(folder, skip)
    if pass_over:
        whole = list(candidates)
        left_out = max(0, min(pass_over, len(whole) - 1))
        for found in whole[:left_out]:
            say(f"checkpoint {found.path} is passed over: a learner that went on from it failed at once")
        candidates = iter(whole[left_out:])
    for found in candidates:
        try:
            use(found)
        except BadCheckpoint as bad:
            skip(f"checkpoint {found.path} is skipped: {bad}")
            continue
        log.info("resumed from %s", found.path)
        return found
    if reasons:
        raise UsageError(
            f"no checkpoint in {folder} can be used; remove that folder to start the run anew. The newest: {reasons[0]}"
        )
    return None


def exists(folder: Path) -> bool:
    """Whether a folder has a checkpoint, whole or not."""
    return bool(paths(folder))


def _is_complete(path: Path) -> bool:
    try:
        Checkpoint(path).check_sizes()
    except BadCheckpoint:
        return False
    return True


def _manifest(folder: Path) -> Manifest:
    """A checkpoint's manifest.

    Raises:
      BadCheckpoint: it is missing, damaged or of another format.
    """
    try:
        sealed = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=prepared(_Sealed))
    except FileNotFoundError:
        raise BadCheckpoint(f"it has no {MANIFEST}") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{MANIFEST} is damaged: {error}") from None
    if sealed.format != FORMAT:
        age = "an older" if sealed.format < FORMAT else "a newer"
        raise BadCheckpoint(
            f"it has format {sealed.format} of {age} version of this library, which reads format {FORMAT}: go on with "
            "that version, or start another run"
        )
    if hashlib.sha256(bytes(sealed.manifest)).hexdigest() != sealed.sha256:
        raise BadCheckpoint(f"{MANIFEST} is damaged: its checksum is not the one that was written")
    try:
        return msgspec.json.decode(sealed.manifest, type=prepared(Manifest))
    except msgspec.MsgspecError as error:
        raise BadCheckpoint(f"{MANIFEST} is of another version of this library: {error}") from None


def check_sizes(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Checks that every file is there with all its bytes.

    Raises:
      BadCheckpoint: says which is not.
    """
    for name, record in files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise BadCheckpoint(f"{name} cannot be read: {error.strerror}") from None
        if size != record.size:
            raise BadCheckpoint(f"{name} has {size} bytes and had {record.size} when it was written")


def verify_files(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Reads every file and compares it with what was written.

    Raises:
      BadCheckpoint: says which differs.
    """
    check_sizes(folder, files)
    for name, record in files.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise BadCheckpoint(f"{name} cannot be read: {error.strerror}") from None
        if found != record.sha256:
            raise BadCheckpoint(f"{name} is damaged: its checksum is not the one that was written")
