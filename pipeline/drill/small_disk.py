"""A small file system of this process and its children, to see what a full disk does."""

import ctypes
import os
from pathlib import Path

from pipeline.experiment.config import UsageError
from pipeline.security.network_namespace import stay_oneself

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


def mount(folder: Path, mebibytes: int) -> None:
    """Mounts a tmpfs of that size on a folder, seen by this process and those it starts from now on; it ends with them.

    Call it while the process has one thread: it enters a mount namespace of its own, and where it may not, a user
    namespace first, in which it may.

    Raises:
      UsageError: the system allows neither.
    """
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWNS) != 0:
        if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            raise UsageError(f"no small disk can be mounted ({_reason()}): run as root, or allow user namespaces")
        stay_oneself(user, group)
    _call(b"none", b"/", None, _MS_REC_PRIVATE, None)
    _call(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={mebibytes}m,mode=0755".encode())


def _call(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    if _libc.mount(source, target, kind, flags, data) != 0:
        raise UsageError(f"no small disk can be mounted on {os.fsdecode(target)}: {_reason()}")


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
