"""What a program costs its user beside time: CPU seconds and memory of all of its processes together."""

import contextlib
import threading

import psutil

_MIB = 2.0**20
_PERIOD = 0.2


class Cost:
    """Looks at a process and all that it has started five times a second, until `read` is called.

    CPU time that a process used after it was last looked at is missing, a fifth of a second of each at most; memory is
    the proportional set size, in which a page that two processes share counts once.

    Args:
      pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seconds: dict[tuple[int, float], float] = {}
        self._largest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def read(self) -> dict[str, float]:
        """Ends it: `cpu_seconds`, and the largest `mib` there were at once."""
        self._ended.set()
        self._thread.join()
        return {"cpu_seconds": round(sum(self._seconds.values()), 2), "mib": round(self._largest)}

    def _look(self) -> None:
        while True:
            memory = 0.0
            with contextlib.suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                        times = process.cpu_times()
                        self._seconds[process.pid, process.create_time()] = times.user + times.system
                        memory += process.memory_full_info().pss / _MIB
            self._largest = max(self._largest, memory)
            if self._ended.wait(_PERIOD):
                return
