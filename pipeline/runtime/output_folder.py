"""A folder that a command writes for its user: whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import refuse_no_folder


def refuse_taken(folder: Path) -> None:
    """Refuses a name for an output folder that cannot be had; an empty folder can.

    Raises:
      UsageError: there is something of that name, or a file on the way to it.
    """
    if folder.is_symlink() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"--out={folder} exists and is not empty: choose another, as nothing is replaced")
    refuse_no_folder(folder, "--out")
    there = next(path for path in (folder.absolute().parent, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out={folder} cannot be written: {there} is not yours to write to")


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Has a folder written under another name; it gets its own once it is complete.

    Args:
      folder: to write; not there, or empty.
      write: fills the folder that it is given.

    Raises:
      UsageError: there is something of its name, or it cannot be written; nothing of it is left.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"--out={folder} cannot be written: {error.strerror}") from None
    try:
        write(part)
        part.chmod(0o755)  # a temporary directory is its owner's alone
        os.replace(part, folder)
    except OSError as error:
        raise UsageError(f"--out={folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
