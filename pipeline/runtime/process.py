"""What processes of a run do at their start, and what memory there is for them."""

import importlib
import os
import re
import shlex
import signal
import sys
import warnings
from ctypes import CDLL
from pathlib import Path

from pipeline.runtime.notices import import_tensorflow
from pipeline.runtime.stop_signals import Interruption

_PR_SET_PDEATHSIG = 1
GIB = 2.0**30
_CGROUP = Path("/sys/fs/cgroup")


def program(name: str) -> str:
    """The path of a program that was installed with this Python, as a shell takes it."""
    path = Path(sys.executable).with_name(name)
    return shlex.quote(min(str(path), os.path.relpath(path), key=len))


def die_with_parent(parent: int = 0) -> None:
    """Asks Linux to kill this process when its parent dies, however it dies.

    Args:
      parent: its process id; where it has died already, this process ends now. 0 does not know it.
    """
    CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def interruption() -> Interruption:
    """An event that SIGTERM, SIGINT and SIGHUP set, whatever an environment does with these signals."""
    return Interruption().hold()


def set_compiler_flags() -> None:
    """Puts the flags that suit small networks before the user's own; XLA reads them when it first compiles.

    One thread: small networks' products take less time than handing parts of them to threads that replay has use for.
    No tree reductions: for norms, biases and means of this size they take longer than the sums that they replace.
    """
    ours = "--xla_cpu_multi_thread_eigen=false --xla_disable_hlo_passes=tree_reduction_rewriter"
    given = os.environ.get("XLA_FLAGS", "")
    if ours not in given:
        os.environ["XLA_FLAGS"] = f"{ours} {given}".rstrip()


def quieten_gym() -> None:
    """Imports TensorFlow, and the gym that TF-Agents brings, without their notices: no other message is lost."""
    import_tensorflow()
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115
    try:
        importlib.import_module("gym")
    finally:
        sys.stderr.close()
        sys.stderr = stderr


def settle_flags() -> None:
    """Lets a user's module read flags that it defines with absl: where nobody parses them they have their defaults."""
    importlib.import_module("absl.flags").FLAGS.mark_as_parsed()


def prepare_pygame() -> None:
    """Has pygame, by which most environments draw, import and start without a word and without a sound card."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # of the pygame that TF-Agents pins


def available_memory() -> float:
    """Bytes that processes may still take of the machine, within its container's limit; 0 where Linux does not say."""
    kibibytes = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    free = int(kibibytes[1]) * 1024.0 if kibibytes else 0.0
    for limit, usage, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),  # of cgroups' version 1
    ):
        if (most := _number(_CGROUP / limit)) is not None:
            used = (_number(_CGROUP / usage) or 0.0) - _inactive(_CGROUP / statistics)
            free = min(free, max(0.0, most - used))
    return free


def _number(path: Path) -> float | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None  # "max" is no limit


def _inactive(path: Path) -> float:
    """Bytes of files that the kernel gives up when memory is wanted."""
    try:
        found = re.search(r"^(?:total_)?inactive_file (\d+)", path.read_text(), flags=re.MULTILINE)
    except OSError:
        return 0.0
    return float(found[1]) if found else 0.0
