"""A relay: fetches the learner's publications once and hands them out to many. No TensorFlow.

Each collector of a host or a rack that asks a relay is one less that asks the replay's server.
"""

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from pipeline.experiment.sections import CollectConfig
from pipeline.messages.channel import Publisher
from pipeline.messages.contents import INTERRUPTED, VARIABLES_TABLE, WEIGHTS_TABLE, Variables
from pipeline.messages.ports import refuse_used_port
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records.recorder import Recorder
from pipeline.runtime import native
from pipeline.security.privacy import guarding

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 300.0
_GONE_SECONDS = 5.0
"""Of a run that stops: without an answer of the server after which that has left."""


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


_NO_BOUND = sys.float_info.max


def newest_server(tables: Sequence[str], port: int) -> Any:
    """A server of byte tables each of which keeps its newest item."""
    reverb = native.reverb_bindings()

    def table(name: str) -> Any:
        limiter = reverb.RateLimiter(1.0, 1, -_NO_BOUND, _NO_BOUND)
        return reverb.Table(name, reverb.LifoSelector(), reverb.FifoSelector(), 1, 0, limiter, [], None)

    return reverb.Server([table(name) for name in tables], port, None)


def run_relay(
    address: str, port: int, private: str, collect: CollectConfig, interrupted: threading.Event, recorder: Recorder
) -> int:
    """Relays until the run ends; returns the exit code.

    Args:
      address: of the server to fetch from.
      port: to listen on.
      private: as `replay.private`.
      collect: has the seconds between fetches, and those without an answer after which it gives up.
      interrupted: ends it.
      recorder: says that it is alive.

    Raises:
      TimeoutError: there is nothing to fetch, or the server has not answered for `collect.away_seconds`.
      UsageError: the port is in use.
    """
    refuse_used_port(port)
    with guarding(port, private):
        server = newest_server((VARIABLES_TABLE, WEIGHTS_TABLE), port)
    reader = VariablesReader(address, collect.variables_seconds)
    reader.wait(_CONNECT_SECONDS, "the relay")
    handing_on = Relay(reader, f"127.0.0.1:{port}")
    log.info("relays %s on port %d", address, port)
    while not interrupted.wait(collect.variables_seconds):
        recorder.beat()
        handing_on.tend()
        is_stopping = (newest := reader.newest) is not None and newest.stopping
        try:  # a server that leaves with the learner may not have been heard to say so
            reader.refuse_silence(_GONE_SECONDS if is_stopping else collect.away_seconds, "the relay")
        except TimeoutError:
            if is_stopping:
                break
            raise
        if newest is not None and newest.ended:
            break
    server.Stop()
    newest = reader.newest
    return newest.exit_code if newest is not None else INTERRUPTED
