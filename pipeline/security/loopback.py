"""A server of gRPC's on the loopback address alone: no other machine reaches it. No TensorFlow here.

Reverb and TensorFlow listen on `[::]` and have no option for it. A library calls the C library's `bind` through an
entry of its global offset table. While a server is made, that entry leads to a function that puts the loopback address
in the place of "every address" for the server's port; then it is as it was. What the port listens on is asked of the
kernel.
"""

import contextlib
import ctypes
import ipaddress
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.messages.ports import free_port
from pipeline.runtime import native

_ATTEMPT = "import sys; from pipeline.security import loopback; sys.exit(loopback.attempt() or 0)"
_SECONDS = 60.0
_LOAD, _DYNAMIC = 1, 2
_STRINGS, _SYMBOLS, _RELOCATIONS, _RELOCATIONS_SIZE, _CALLS, _CALLS_SIZE = 5, 6, 7, 8, 23, 2
_SYMBOL_BYTES = 24
"""Of which the first four are the name's place among the strings."""
_RELOCATION = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_TABLE_ENTRIES = (6, 7)  # R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT
_LISTENING = "0A"
_BIND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, use_errno=True)
_patching = threading.Lock()


class LoopbackError(Exception):
    """Reverb's library could not be patched to bind to the loopback address; says why."""


@contextlib.contextmanager
def bound(port: int, library: Path | None = None) -> Iterator[None]:
    """What a loaded library (Reverb's if none) makes within listens on `port` of the loopback address, to IPv4.

    Raises:
      LoopbackError: it cannot be; before anything is made.
      OSError: nor can the library be read.
    """
    with _patching:
        library = (library or Path(native.reverb_bindings().__file__ or "")).resolve()
        entries = [_base(library) + offset for offset in table_entries(library, "bind")]
        if not entries:
            raise LoopbackError(f"{library} does not call bind through its global offset table")
        pointers = [ctypes.c_void_p.from_address(entry) for entry in entries]
        before = [pointer.value for pointer in pointers]
        ours = _rewriting(port, _BIND(before[0] or 0))
        try:
            for entry, pointer in zip(entries, pointers, strict=True):
                _write(entry, pointer, ctypes.cast(ours, ctypes.c_void_p).value)
            yield
        finally:
            for entry, pointer, value in zip(entries, pointers, before, strict=True):
                if pointer.value != value:
                    _write(entry, pointer, value)


def listeners(port: int) -> list[str]:
    """The addresses on which something in this network namespace listens to a TCP port, IPv4 in its own notation."""
    found = set()
    for name in ("tcp", "tcp6"):
        path = Path(f"/proc/thread-self/net/{name}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:  # of a kernel without IPv6 there is one
            _, local, _, state, *_ = line.split()
            host, _, number = local.partition(":")
            if state == _LISTENING and int(number, 16) == port:
                found.add(str(_address(host)))
    return sorted(found)


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address).is_loopback


def obstacle() -> str:
    """Why a server cannot be kept to the loopback address on this machine, tried in a process of its own; or ""."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _ATTEMPT], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a Reverb server did not start within {_SECONDS:.0f} s"
    return "" if result.returncode == 0 else (result.stderr.strip().splitlines() or ["it failed"])[-1]


def attempt() -> str:
    """What `obstacle` says, tried in this process: it loads Reverb."""
    port = free_port()
    try:
        with bound(port):
            server = native.reverb_bindings().Server([], port, None)
    except (LoopbackError, OSError) as error:
        return str(error)
    addresses = listeners(port)
    server.Stop()
    return "" if addresses and all(map(is_loopback, addresses)) else f"a Reverb server listened on {addresses}"


def _rewriting(port: int, real: "ctypes._FuncPointer") -> "ctypes._FuncPointer":
    """`bind` with the loopback address in the place of every address, at that port."""
    head4, head6 = (struct.pack("=H", family) + port.to_bytes(2, "big") for family in (socket.AF_INET, socket.AF_INET6))
    # A socket of IPv6 has 127.0.0.1 in its mapped form: with ::1, nobody would listen on 127.0.0.1. Under "localhost"
    # clients look at both.
    loopback4 = ctypes.create_string_buffer(head4 + ipaddress.ip_address("127.0.0.1").packed + bytes(8), 16)
    mapped = ipaddress.ip_address("::ffff:127.0.0.1").packed
    loopback6 = ctypes.create_string_buffer(head6 + bytes(4) + mapped + bytes(4), 28)

    def bind(descriptor: int, address: int, length: int) -> int:
        given = ctypes.string_at(address, length)
        if given[:8] == head4 + bytes(4):
            return int(real(descriptor, ctypes.addressof(loopback4), 16))
        if given[:4] == head6 and given[8:24] == bytes(16):
            return int(real(descriptor, ctypes.addressof(loopback6), 28))
        return int(real(descriptor, address, length))

    return _BIND(bind)


def _mappings() -> Iterator[tuple[range, str, int, str]]:
    """Of this process's memory: addresses, protection such as "r--p", offset in the file, the file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, protection, offset, _, _, *file = line.split(maxsplit=5)
        first, end = (int(address, 16) for address in addresses.split("-"))
        yield range(first, end), protection, int(offset, 16), "".join(file)


def _base(library: Path) -> int:
    """Where a library lies in this process's memory."""
    for addresses, _, offset, file in _mappings():
        if file == str(library) and offset == 0:
            return addresses.start
    raise LoopbackError(f"{library} is not in this process's memory")


def _write(entry: int, pointer: ctypes.c_void_p, value: int | None) -> None:
    """Writes an entry, which the loader may have made read-only, and leaves its page as it was."""
    page = entry - entry % mmap.PAGESIZE
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    letters = next(protection for addresses, protection, _, _ in _mappings() if entry in addresses)
    flags = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "x": mmap.PROT_EXEC}
    before = sum(flag for letter, flag in flags.items() if letter in letters)
    if protect(page, mmap.PAGESIZE, before | mmap.PROT_WRITE) != 0:
        raise LoopbackError(f"the library's offset table cannot be written: {os.strerror(ctypes.get_errno())}")
    pointer.value = value
    protect(page, mmap.PAGESIZE, before)


def table_entries(library: Path, symbol: str) -> list[int]:
    """Where in a shared library of x86-64 the entries of its global offset table for a symbol lie, from its start.

    Raises:
      LoopbackError: it is no such library.
    """
    try:
        with library.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # TensorFlow's has 900 MB
        return _table_entries(data, np.frombuffer(symbol.encode() + b"\0", np.uint8))
    except (struct.error, LookupError, ValueError, OverflowError, StopIteration) as error:
        raise LoopbackError(f"{library} cannot be read as a shared library: {error!r}") from None


def _table_entries(data: mmap.mmap, symbol: NDArray[np.uint8]) -> list[int]:
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + size * index) for index in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length, *_ in headers if kind == _LOAD]

    def in_file(address: int) -> int:
        first, offset = next(load[:2] for load in loads if 0 <= address - load[0] < load[2])
        return int(address - first + offset)

    found: list[int] = []
    (dynamic,) = (header for header in headers if header[0] == _DYNAMIC)
    tags = dict(struct.iter_unpack("<qQ", data[dynamic[2] : dynamic[2] + dynamic[5] // 16 * 16]))
    strings, symbols, letters = in_file(tags[_STRINGS]), in_file(tags[_SYMBOLS]), np.frombuffer(data, np.uint8)
    for table, length in ((_RELOCATIONS, _RELOCATIONS_SIZE), (_CALLS, _CALLS_SIZE)):
        if not tags.get(length):
            continue
        relocations = np.frombuffer(data, _RELOCATION, tags[length] // _RELOCATION.itemsize, in_file(tags[table]))
        entries = relocations[np.isin(relocations["kind"], _TABLE_ENTRIES)]
        places = symbols + _SYMBOL_BYTES * entries["symbol"].astype(np.int64)
        names = strings + letters[places[:, None] + np.arange(4)].copy().view("<u4")[:, 0].astype(np.int64)
        is_it = (letters[names[:, None] + np.arange(len(symbol))] == symbol).all(axis=1)
        found.extend(entries["offset"][is_it].tolist())
    return found


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel's tables write it: words of four bytes, each in the machine's order."""
    packed = b"".join(int(host[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(host), 8))
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address
