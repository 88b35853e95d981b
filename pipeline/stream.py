"""A dataset that may wait for ever, read in a thread that can be left behind."""

import contextlib
import queue
import threading
from typing import Any

import tensorflow as tf


class Stream:
    """The elements of a dataset as they come, one ahead.

    Nothing ends the wait of a dataset whose server is gone: it keeps its thread, and the process ends without it.

    Args:
      dataset: without end.
    """

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._elements: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._abandoned = threading.Event()
        threading.Thread(target=self._read, args=(dataset,), name="stream", daemon=True).start()

    def next(self, timeout: float) -> Any:
        """The next element; None if there is none within `timeout` seconds. Raises what the dataset raised."""
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

    def _read(self, dataset: tf.data.Dataset) -> None:
        try:
            for element in dataset:
                self._put(element)
                if self._abandoned.is_set():
                    return
        except tf.errors.OpError as error:
            self._put(error)

    def _put(self, element: Any) -> None:
        while not self._abandoned.is_set():
            with contextlib.suppress(queue.Full):
                self._elements.put(element, timeout=0.5)
                return
