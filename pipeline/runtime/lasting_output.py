"""Output that a process outlives: its reader may go, its terminal hang up and its disk fill up."""

import contextlib
import os
import select
from typing import Any, TextIO


class LastingOutput:
    """A text stream whose writing never raises and never waits for a reader; what cannot be written is dropped.

    Args:
      stream: to write to; None drops everything, as of a process that was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes it, if that can be done now."""
        if self._stream is not None and self._is_ready():
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: somebody has closed it
                self._discard()
        return len(text)

    def flush(self) -> None:
        """Does nothing: what was written is out."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _is_ready(self) -> bool:
        """Whether a write would not wait: of a pipe, that its reader reads; of a terminal, that it is not held."""
        assert self._stream is not None
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0.0)[1])
        except (OSError, ValueError):  # no file, as in a notebook; or closed
            return True

    def _discard(self) -> None:
        """Empties the stream's buffer, which would be written with the next text, and at exit."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            assert self._stream is not None
            number = self._stream.fileno()
            nowhere, kept = os.open(os.devnull, os.O_WRONLY), os.dup(number)
            try:
                os.dup2(nowhere, number)
                self._stream.flush()
                os.dup2(kept, number)
            finally:
                os.close(nowhere)
                os.close(kept)
