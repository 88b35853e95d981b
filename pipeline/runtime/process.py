"""What processes of a run do at their start."""

import importlib
import os
import signal
import sys
import warnings
from ctypes import CDLL

from pipeline.runtime.stop_signals import Interruption

_PR_SET_PDEATHSIG = 1


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


def quieten_gym() -> None:
    """Imports the gym that TF-Agents brings without its notice about being unmaintained: no other message is lost."""
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115
    try:
        importlib.import_module("gym")
    finally:
        sys.stderr.close()
        sys.stderr = stderr


def prepare_pygame() -> None:
    """Has pygame, by which most environments draw, import and start without a word and without a sound card."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # of the pygame that TF-Agents pins
