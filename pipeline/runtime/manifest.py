"""A folder of files whose manifest has the size and checksum of each, and a checksum of its own. No TensorFlow here."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

FORMAT = 2
NAME = "manifest.json"
_CHUNK = 1 << 20
_Contents = TypeVar("_Contents")


class FileRecord(msgspec.Struct, frozen=True):
    """What a file has to be."""

    size: int
    """Bytes."""
    sha256: str


class _Sealed(msgspec.Struct, frozen=True):
    """The manifest's file: the checksum is of the very bytes of the manifest."""

    format: int
    sha256: str = ""
    manifest: msgspec.Raw = msgspec.Raw(b"")


class BadCheckpoint(Exception):
    """A checkpoint that cannot be used; says why."""


def records(folder: Path) -> dict[str, FileRecord]:
    """Every file of a folder, by its path within it."""
    return {
        str(path.relative_to(folder)): FileRecord(path.stat().st_size, _sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def seal(folder: Path, manifest: Any) -> None:
    """Writes a folder's manifest."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    head = b'{"format": %d, "sha256": "%s", "manifest": ' % (FORMAT, hashlib.sha256(text).hexdigest().encode())
    (folder / NAME).write_bytes(head + text + b"}")


def read(folder: Path, kind: type[_Contents]) -> _Contents:
    """A folder's manifest.

    Raises:
      BadCheckpoint: it is missing, damaged or of another format.
    """
    try:
        sealed = msgspec.json.decode((folder / NAME).read_bytes(), type=_Sealed)
    except FileNotFoundError:
        raise BadCheckpoint(f"it has no {NAME}") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{NAME} is damaged: {error}") from None
    if sealed.format != FORMAT:
        age = "an older" if sealed.format < FORMAT else "a newer"
        raise BadCheckpoint(
            f"it has format {sealed.format} of {age} version of this library, which reads format {FORMAT}: go on with "
            "that version, or start another run"
        )
    if hashlib.sha256(bytes(sealed.manifest)).hexdigest() != sealed.sha256:
        raise BadCheckpoint(f"{NAME} is damaged: its checksum is not the one that was written")
    try:
        return msgspec.json.decode(sealed.manifest, type=kind)
    except msgspec.MsgspecError as error:
        raise BadCheckpoint(f"{NAME} is of another version of this library: {error}") from None


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


def verify(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Reads every file and compares it with what was written.

    Raises:
      BadCheckpoint: says which differs.
    """
    check_sizes(folder, files)
    for name, record in files.items():
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise BadCheckpoint(f"{name} cannot be read: {error.strerror}") from None
        if found != record.sha256:
            raise BadCheckpoint(f"{name} is damaged: its checksum is not the one that was written")


def _sha256(path: Path) -> str:
    digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            digest.update(chunk[:count])  # lets other threads run meanwhile
    return digest.hexdigest()
