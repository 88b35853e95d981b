"""What a replay gives, which may make its reader wait for ever: read in a thread that can be left behind."""

import contextlib
import queue
import threading
from collections.abc import Iterable
from typing import Any


class Stream:
    """Elements as they come, one ahead.

    Nothing ends the wait for a server that is gone: it keeps its thread, and the process ends without it.

    Args:
      elements: a dataset or a generator, without end.
    """

    def __init__(self, elements: Iterable[Any]) -> None:
        self._elements: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._abandoned = threading.Event()
        threading.Thread(target=self._read, args=(elements,), name="stream", daemon=True).start()

    def next(self, timeout: float) -> Any:
        """The next element; None if there is none within `timeout` seconds. Raises what reading raised."""
        try:
            element = self._elements.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(element, Exception):
            raise element
        return element

    def abandon(self) -> None:
        """Has the thread end when it can."""
        self._abandoned.set()

    def _read(self, elements: Iterable[Any]) -> None:
        try:
            for element in elements:
                self._put(element)
                if self._abandoned.is_set():
                    return
        except Exception as error:  # `next` raises it
            self._put(error)

    def _put(self, element: Any) -> None:
        while not self._abandoned.is_set():
            with contextlib.suppress(queue.Full):
                self._elements.put(element, timeout=0.5)
                return
