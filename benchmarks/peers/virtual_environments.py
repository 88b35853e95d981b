"""A virtual environment for each peer, made from its pinned requirements and kept for the next run."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


class Unavailable(Exception):
    """A peer cannot be installed here; says why."""


def python_of(peer: str, folder: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The Python of a peer's environment, made first where the folder does not have it yet.

    The pins name every package, so pip resolves nothing (`--no-deps`): a peer that asks for torch gets the one build
    named, and no accelerator's libraries beside it.

    Args:
      peer: name of its file of requirements.
      folder: holds the environments, one for each version of each file of requirements.
      requirements: folder of the files.

    Raises:
      Unavailable: the installation failed.
    """
    pins = requirements / f"{peer}.txt"
    made = folder / f"{peer}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    python = made / "bin" / "python"
    if (made / "complete").exists():
        return python
    shutil.rmtree(made, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(made)],
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(pins)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise Unavailable(next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "?"))
    (made / "complete").touch()
    return python


def warm(python: Path) -> None:
    """Reads the libraries and modules of an environment once, so that they are in the page cache."""
    for path in (python.parents[1] / "lib").rglob("*"):
        if (path.suffix in (".py", ".pyc") or ".so" in path.suffixes) and path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass
