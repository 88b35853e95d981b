"""Those whom a run keeps out, or runs as: other users of this machine, and a second machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

NOBODY = 65534
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close(); print('in')"
AS_NOBODY = f"import encodings.idna, os, socket; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); "


def attempt(host: str, port: int, *prefix: str, before: str = "") -> str:
    """Tries a TCP connection in a process of its own: "in", or what the error was."""
    command = [*prefix, sys.executable, "-I", "-S", "-c", before + CONNECT, host, str(port)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return (result.stdout.strip() or result.stderr.strip()).splitlines()[-1]


def can(*command: str) -> bool:
    """Whether a command is there and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unprivileged(*command: str) -> list[str]:
    """A command as a user without privileges: this one or, of root, nobody, for whom this Python is opened to read.

    Root's Python may lie where others cannot go. In a mount namespace of the command's own, each closed folder on the
    way holds nothing but what is needed, and is open.
    """
    if os.geteuid() != 0:
        return list(command)
    needed = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(__file__).resolve().parents[2]}
    lines = ["set -e", "mount -t tmpfs tmpfs /mnt"]
    closed = {}
    for number, path in enumerate(sorted(needed)):
        ways = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
        if ways:
            lines += [f"mkdir /mnt/{number}", f"mount --bind '{path}' /mnt/{number}"]
            closed[number] = ways[0], path
    lines += [f"mount -t tmpfs -o mode=755 tmpfs '{folder}'" for folder in sorted({way for way, _ in closed.values()})]
    lines += [f"mkdir -p '{path}'; mount --bind /mnt/{number} '{path}'" for number, (_, path) in closed.items()]
    lines += [f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh", *command]


class SecondHost(NamedTuple):
    """A machine beside this one, in a network namespace."""

    name: str
    """Of its namespace, for `ip netns exec`."""
    ours: str
    """The address by which it reaches this machine."""

    def attempt(self, port: int) -> str:
        """`attempt` from there."""
        return attempt(self.ours, port, "ip", "netns", "exec", self.name)


@contextmanager
def second_host() -> Iterator[SecondHost]:
    """Makes one, joined to this machine by a cable of two virtual interfaces; needs root and iproute2."""
    pid = os.getpid()
    name, cable, network = f"outside-{pid}", f"o{pid}", f"198.18.{pid // 64 % 256}.{pid % 64 * 4}"
    base, last = network.rsplit(".", 1)
    ours, theirs = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", f"{cable}a", "type", "veth", "peer", "name", f"{cable}b", "netns", name)
        ip("address", "add", f"{ours}/30", "dev", f"{cable}a")
        ip("link", "set", f"{cable}a", "up")
        ip("-netns", name, "address", "add", f"{theirs}/30", "dev", f"{cable}b")
        ip("-netns", name, "link", "set", f"{cable}b", "up")
        yield SecondHost(name, ours)
    finally:
        subprocess.run(["ip", "link", "delete", f"{cable}a"], check=False, capture_output=True)
        ip("netns", "delete", name)


def library_without_entry(folder: Path) -> None:
    """Lays a `reverb` package out in `folder` whose library calls `bind` otherwise than through its offset table.

    Its relocation is an absolute address (R_X86_64_64) in the place of a jump slot: the loader puts the same in.
    """
    import importlib.util
    import struct

    from pipeline.security.loopback import table_entries

    spec = importlib.util.find_spec("reverb")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    for path in package.parent.glob("_solib*"):
        (folder / path.name).symlink_to(path)
    (folder / "reverb").mkdir()
    for path in package.iterdir():
        if path.name not in ("libpybind.so", "__pycache__"):
            (folder / "reverb" / path.name).symlink_to(path)
    data = (package / "libpybind.so").read_bytes()
    (entry,) = table_entries(package / "libpybind.so", "bind")
    start = data.index(struct.pack("<Q", entry))
    symbol, kind = data[start + 12 : start + 16], data[start + 8 : start + 12]
    assert kind == struct.pack("<I", 7)
    changed = struct.pack("<QI", entry, 1) + symbol
    (folder / "reverb" / "libpybind.so").write_bytes(data[:start] + changed + data[start + 16 :])
