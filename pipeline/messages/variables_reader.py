"""Fetches the learner's publications from a server, in a thread. No TensorFlow."""

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from pipeline import UsageError
from pipeline.experiment.resume import refuse_other_config
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import accepts, respelled
from pipeline.messages.channel import ANSWER_SECONDS, refuse_to_wait, server_answers, take
from pipeline.messages.contents import VARIABLES_TABLE, WEIGHTS_TABLE, Announcement, Variables, Weights
from pipeline.runtime import native
from pipeline.runtime.signs_of_life import RunningClock

log = logging.getLogger(__name__)

_HURRY_SECONDS = 0.001
_MOST_HURRY_SECONDS = 0.2
"""Between fetches for one who waits for new weights, at least and at most."""
_PROBE_SECONDS = 0.5
_LEFTOVER_SECONDS = 3.0
"""In which a restored server forgets the messages of its checkpoint."""


class VariablesReader:
    """Fetches the newest announcement, and its weights if they are new, in a thread: its owner never waits for them.

    Args:
      address: of the replay server.
      seconds: between fetches.
      only_announcements: leave the weights out, and the config with them.
    """

    def __init__(self, address: str, seconds: float, only_announcements: bool = False) -> None:
        self._address, self._seconds, self._only_announcements = address, seconds, only_announcements
        self._client = native.reverb_client(address)
        self._newest: Variables | None = None
        self._weights: Weights | None = None
        self._announced, self._told_at = (0, 0, 0), 0.0  # version of the newest announcement, and when it last came
        self._arrived, self._hurried = threading.Event(), threading.Event()
        self._clock = RunningClock()
        self.fetched_at = self._clock()
        """Of the newest fetch, by that clock; it stands still when the server does not answer."""
        self._fetcher: threading.Thread | None = None
        self._is_closed, self._unreadable = False, ""
        threading.Thread(target=self._keep_fetching, name="variables watch", daemon=True).start()

    @property
    def newest(self) -> Variables | None:
        """The newest publication that has arrived."""
        return self._newest

    def wait(self, seconds: float, who: str) -> Variables:
        """The first publication.

        Raises:
          TimeoutError: there was none within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self._arrived.wait(min(_PROBE_SECONDS, seconds)) or self._newest is None:
            refuse_to_wait()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{who} waited {seconds:.0f} s for the learner's first weights at {self._address}")
        return self._newest

    def join(self, experiment: Experiment, seconds: float, who: str) -> Variables:
        """The first publication of the run that this process is to take part in.

        A server that was restored has the messages of its checkpoint for a moment: of a run that has ended, or of the
        one that a dataset is of. What would send this process away counts once it is told again after that: from then
        until its learner's first publication such a server tells nothing.

        Raises:
          TimeoutError: there was none within `seconds`.
          UsageError: the run is one of another experiment.
        """
        began = time.monotonic()
        self.wait(seconds, who)
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            is_late = self._told_at >= deadline  # read before what was told: that is as new, or newer
            newest = self.wait(seconds, who)
            try:
                refuse_other_config(experiment, newest.config)
                if is_late or not newest.stopping:
                    return newest
            except UsageError:
                if is_late:
                    raise
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{who} waited {seconds:.0f} s for a learner's first weights at {self._address}")
            refuse_to_wait()
            time.sleep(_MOST_HURRY_SECONDS)

    def newer_than(self, version: tuple[int, int, int], keep_waiting: Callable[[], bool]) -> Variables | None:
        """The first publication of weights newer than those of that version; fetches without pause meanwhile.

        Args:
          version: `Variables.version` of the older weights.
          keep_waiting: asked again and again; False gives up.

        Returns:
          None if it gave up.
        """
        self._hurried.set()
        try:
            while (newest := self._newest) is None or newest.version <= version:
                if not keep_waiting():
                    return None
                time.sleep(_HURRY_SECONDS)
            return newest
        finally:
            self._hurried.clear()

    def await_fetch(self, keep_waiting: Callable[[], bool]) -> None:
        """Waits for the next fetch, which is made at once; ends early once `keep_waiting` says False."""
        seen = self._newest
        self._hurried.set()
        while self._newest is seen and keep_waiting():
            time.sleep(_HURRY_SECONDS)
        self._hurried.clear()

    def refuse_silence(self, seconds: float, who: str) -> None:
        """Checks that the server has answered of late.

        Raises:
          TimeoutError: the last fetch is longer ago than that many seconds.
        """
        silence = self._clock() - self.fetched_at
        if silence > seconds:
            raise TimeoutError(f"{who} has not heard from the replay at {self._address} for {silence:.0f} s")

    def close(self) -> None:
        """Has the threads end, after the fetch under way; one from a server that is away keeps its thread."""
        self._is_closed = True
        self._hurried.set()

    def _keep_fetching(self) -> None:
        """Has a thread fetch, and another one in its place when the server was away and is back.

        A fetch from a server that goes away waits until gRPC tries again, which may take half a minute. Nothing ends
        it: so there is no other one before the server answers again, and none at all while it is only slow.
        """
        spellings = respelled(self._address)
        while not self._is_closed:
            self._fetcher = fetcher = threading.Thread(target=self._fetch_for_ever, name="variables", daemon=True)
            fetcher.start()
            while not self._is_closed and not self._is_away():
                self._clock()  # its owner may be in a call of the environment for longer than the clock counts at once
                time.sleep(_PROBE_SECONDS)
            client = native.reverb_client(next(spellings))
            while not self._is_closed and not (
                accepts(self._address, ANSWER_SECONDS) and server_answers(client, ANSWER_SECONDS)
            ):
                self._clock()
                time.sleep(_PROBE_SECONDS)
                client = native.reverb_client(next(spellings))
            self._client = client

    def _is_away(self) -> bool:
        """Whether the server does not answer, for another reason than that it or the way to it is slow."""
        asked = time.monotonic()
        if server_answers(self._client, ANSWER_SECONDS):
            return False
        return time.monotonic() - asked < ANSWER_SECONDS / 2 or not accepts(self._address, ANSWER_SECONDS)

    def _fetch_for_ever(self) -> None:
        while threading.current_thread() is self._fetcher and not self._is_closed:
            started = time.monotonic()
            try:
                take(self._client, VARIABLES_TABLE, Announcement, 1, self._accept)
            except Exception as error:  # the server is away: that is seen in `fetched_at`, and it is asked again
                if isinstance(error, msgspec.MsgspecError) and str(error) != self._unreadable:
                    self._unreadable = str(error)
                    log.warning(
                        "what %s has for a publication is none, and the next is waited for: %s", self._address, error
                    )
                time.sleep(self._seconds)
            took = time.monotonic() - started
            if self._hurried.wait(self._seconds):
                # Half of the time, so that large weights leave the learner some. One that waited for a server that
                # was away took its time for another reason.
                time.sleep(min(max(_HURRY_SECONDS, took), _MOST_HURRY_SECONDS))

    def _accept(self, announcement: Announcement) -> None:
        self.fetched_at = self._clock()
        begins_anew = announcement.version < self._announced  # what there was is of another run
        if self._only_announcements:
            self._keep(Weights(announcement.version, b"", ()))
        elif begins_anew or self._weights is None or self._weights.version < announcement.version:
            take(self._client, WEIGHTS_TABLE, Weights, 1, self._keep)
        self._announced = announcement.version
        if self._weights is not None:
            self._newest = Variables.of(announcement, self._weights)
            self._told_at = time.monotonic()
            self._arrived.set()

    def _keep(self, weights: Weights) -> None:
        self._weights = weights
        self.fetched_at = self._clock()
