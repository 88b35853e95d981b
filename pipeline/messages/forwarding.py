"""Copies the learner's publications from one server to another. No TensorFlow."""

from pipeline.messages.channel import Publisher
from pipeline.messages.contents import Variables
from pipeline.messages.variables_reader import VariablesReader


class Relay:
    """Copies the learner's publications from one server to another.

    Args:
      reader: of the one.
      address: of the other.
    """

    def __init__(self, reader: VariablesReader, address: str) -> None:
        self._reader, self._publisher = reader, Publisher([address])
        self._given: Variables | None = None

    def tend(self) -> None:
        """Sends on the publication that arrived since the last call, if any."""
        newest = self._reader.newest
        if newest is not None and newest is not self._given:
            self._publisher.publish(newest, wait_for_all=newest.stopping)
            self._given = newest
