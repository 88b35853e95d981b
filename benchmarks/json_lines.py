"""Files of results: a line of JSON for each, appended as soon as it is there, so that a broken benchmark goes on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Record = TypeVar("Record")


def read(path: Path, kind: type[Record]) -> list[Record]:
    """The records of a file; none where there is no file.

    Args:
      path: of the file.
      kind: of its records: a dataclass or a `msgspec.Struct`.
    """
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=kind) for line in path.read_text().splitlines() if line.strip()]


def append(path: Path, record: Any) -> None:
    """Adds a record to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(record) + b"\n")


def write(path: Path, records: Iterable[Any]) -> None:
    """Makes a file of these records and no others."""
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
