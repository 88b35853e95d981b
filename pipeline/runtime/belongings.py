"""What a role's process leaves behind when it ends, however it ends: other processes, and Python that TensorFlow wrote.

A variable of its environment names a folder of its own. Every process that descends from it inherits that, also one
that has begun a session of its own, so whoever started it finds them all.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

VARIABLE = "PIPELINE_PROCESS"
_GENERATED = "__autograph_generated_file"
_STARTING_SECONDS = 1.0
"""For processes that are being started; others may have an empty environment for good."""
_POLL_SECONDS = 0.01


def folder_for(name: str) -> str:
    """A new folder for what a process of a role leaves; where the disk has no room, a name alone."""
    try:
        return tempfile.mkdtemp(prefix=f"pipeline-{name}-")
    except OSError:
        return os.path.join(tempfile.gettempdir(), f"pipeline-{name}-{os.getpid()}")


def keep_generated_code() -> None:
    """Has TensorFlow write the Python that it generates into this process's folder, if it has one.

    Else every process that is killed, or ends without what is left for exit, leaves a dozen files in the system's
    folder for temporary ones.
    """
    folder = os.environ.get(VARIABLE, "")
    make: Any = tempfile.NamedTemporaryFile
    if not os.path.isdir(folder):
        return

    def named(*arguments: Any, prefix: Any = None, **options: Any) -> Any:
        if prefix == _GENERATED and options.get("dir") is None and os.path.isdir(folder):
            options["dir"] = folder
        return make(*arguments, prefix=prefix, **options)

    tempfile.NamedTemporaryFile = named


def remove(folder: str) -> None:
    """Kills what descends from a process that has ended, and removes its folder."""
    marker = f"{VARIABLE}={folder}".encode()
    deadline = time.monotonic() + _STARTING_SECONDS
    while _kill(marker) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def _kill(marker: bytes) -> bool:
    """Kills each process that has an entry in its environment; whether one is being started, which shows none yet."""
    is_starting = False
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if marker in content.split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
            elif not content:
                (path.parent / "exe").readlink()  # the kernel's own threads and those that have ended have no program
                is_starting = True
    return is_starting
