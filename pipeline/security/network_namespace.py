"""A network namespace with nothing but a loopback interface: what listens in it is reached from within it alone.

No privilege is needed where the kernel lets users make namespaces: a user namespace then owns the network's. A process
with threads can neither make nor enter one, and NumPy starts some. So this file is also run by itself, in an
interpreter that imports nothing else: to make the namespace, and to enter it and become the command meant for it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_SECONDS = 20.0
"""For a process that imports next to nothing, on a machine however busy."""


class Namespace:
    """A network namespace that lives as long as this object or a process in it. This process stays where it is.

    Raises:
      OSError: this user cannot make one here, or not enter it.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            self.descriptors: tuple[int, ...] = ()
            _run([*_interpreter(), "make", str(theirs.fileno())], (theirs.fileno(),))
            _, received, *_ = socket.recv_fds(ours, 1, 2, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        self.descriptors = tuple(received)
        try:
            _run(self.command([sys.executable, "-I", "-S", "-c", ""]), self.descriptors)
        except OSError:
            self.close()
            raise

    def command(self, command: Sequence[str]) -> list[str]:
        """The command in the namespace; it keeps its process id. Its process has to be given `descriptors`."""
        return [*_interpreter(), "enter", ",".join(map(str, self.descriptors)), *command]

    def close(self) -> None:
        """Lets go of it; processes in it go on."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def _interpreter() -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve())]


def _run(command: list[str], descriptors: tuple[int, ...]) -> None:
    """Runs one of this file's commands; raises its last words."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=descriptors,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"no network namespace within {_SECONDS:.0f} s") from None
    if result.returncode:
        raise OSError(errno.EPERM, (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1])


def _make(channel: int) -> None:
    """Moves this process into a new network namespace, brings its loopback up and sends its descriptors."""
    names = ["net"]
    try:
        _call("unshare", _CLONE_NEWNET)
    except PermissionError:
        _unshare_user_and_network()
        names = ["user", "net"]  # in the order in which they are entered
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), _SECONDS).close()
    with contextlib.ExitStack() as stack, socket.socket(fileno=channel) as receiver:
        files = [stack.enter_context(open(f"/proc/self/ns/{name}", "rb")) for name in names]
        socket.send_fds(receiver, [b"."], [file.fileno() for file in files])


def _unshare_user_and_network() -> None:
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
    # The user is mapped to itself, so that files keep their owners. The kernel asks that setgroups be given up first.
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path(f"/proc/self/{name}").write_text(line)


def _enter(descriptors: str, command: list[str]) -> None:
    """Becomes `command` in the namespaces; what capabilities entering gave a user is lost with that."""
    for descriptor in map(int, descriptors.split(",")):
        _call("setns", descriptor, 0)
        os.close(descriptor)
    os.execv(command[0], command)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "make":
            _make(int(sys.argv[2]))
        else:
            _enter(sys.argv[2], sys.argv[3:])
    except OSError as error:
        sys.exit(error.strerror)
