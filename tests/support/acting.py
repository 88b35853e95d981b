"""Acting servers for tests, each in a thread of the test's process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from waiting import SECONDS

from pipeline.acting.acting_server import ActingServer
from pipeline.acting.central_actor import CentralActor
from pipeline.messages import listening


class Serving:
    """A server that answers until it is told to stop."""

    def __init__(self, experiment: Any, specs: Any, variables: Any, address: str) -> None:
        self.bound = listening.at(address, "--inference")
        self.address = listening.address_of(self.bound)
        self.server = ActingServer(experiment, specs, self.bound, variables)
        self._turn = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.is_set():
            with self._turn:
                self.server.serve(0.002)
                self.server.tend()
            time.sleep(0.001)  # for who waits to hold it back

    def hold_back(self) -> None:
        """It answers nobody until `go_on`."""
        self._turn.acquire()

    def go_on(self) -> None:
        self._turn.release()

    def stop(self) -> None:
        """As if the process had been killed."""
        self._ends.set()
        self._thread.join(SECONDS)
        self.server.close()
        listening.close(self.bound)


@contextmanager
def serving(experiment: Any, specs: Any, variables: Any, address: str = "127.0.0.1:0") -> Iterator[Serving]:
    """A server for the length of the block."""
    found = Serving(experiment, specs, variables, address)
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def asking(
    address: str,
    experiment: Any,
    specs: Any,
    process: str = "collector-0.0",
    keep_waiting: Callable[[], bool] = lambda: True,
) -> Iterator[CentralActor]:
    """A collector's side for the length of the block."""
    actor = CentralActor(address, experiment, specs, process, keep_waiting)
    try:
        yield actor
    finally:
        actor.close()
