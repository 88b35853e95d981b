"""The learner's publications on their way to the servers that hand them out. No TensorFlow."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.messages.channel import VARIABLES_TABLE, WEIGHTS_TABLE, Sender
from pipeline.messages.contents import Variables

_SEND_SECONDS = 10.0
_REPEAT_SECONDS = 5.0
"""Weights that have not changed are sent again after this time: a server that was restarted has lost them."""


class Publisher:
    """Sends publications to servers, which hand them out: what it costs does not grow with those who fetch them.

    Each server has a thread and connections of its own, so that one that is away holds up no other.

    Args:
      addresses: of the servers.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._lines = [_Line(address) for address in addresses]

    def publish(self, variables: Variables, wait_for_all: bool = False) -> bool:
        """Sends a publication; a server that is still being sent an earlier one is left out.

        Args:
          variables: to send.
          wait_for_all: leave none out, and come back when all have it or are found to be away.

        Returns:
          Whether all have it; False without waiting.
        """
        for line in self._lines:
            line.send(variables, wait_for_all)
        if not wait_for_all:
            return False
        arrived = [line.sending.result() for line in self._lines if line.sending is not None]
        return all(arrived)

    def close(self) -> None:
        """Waits for what is on its way and ends the connections."""
        for line in self._lines:
            line.close()


class _Line:
    def __init__(self, address: str) -> None:
        self._announcements, self._weights = Sender(address, VARIABLES_TABLE), Sender(address, WEIGHTS_TABLE)
        self._thread = ThreadPoolExecutor(1, "publication")
        self.sending: Future[bool] | None = None
        self._version: tuple[int, int, int] | None = None  # of the weights that the server has
        self._sent_at = 0.0

    def send(self, variables: Variables, behind_earlier: bool) -> None:
        if self.sending is not None:
            if not self.sending.done() and not behind_earlier:
                return
            if self.sending.done():
                self.sending.result()
        self.sending = self._thread.submit(self._send, variables)

    def _send(self, variables: Variables) -> bool:
        announcement, weights = variables.parts()
        # The weights first: who reads the announcement finds them.
        if weights.version != self._version or time.monotonic() - self._sent_at > _REPEAT_SECONDS:
            if not self._weights.send(weights, _SEND_SECONDS):
                return False
            self._version, self._sent_at = weights.version, time.monotonic()
        return self._announcements.send(announcement, _SEND_SECONDS)

    def close(self) -> None:
        self._thread.shutdown()
        self._announcements.close()
        self._weights.close()
