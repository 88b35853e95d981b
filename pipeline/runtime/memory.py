"""Memory that is free for a run: the machine's, within the limit of its container. Nothing but Python is needed."""

import re
from pathlib import Path

GIB = 2.0**30
_CGROUP = Path("/sys/fs/cgroup")


def available() -> float:
    """Bytes that processes may still take; 0 where Linux does not say."""
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
