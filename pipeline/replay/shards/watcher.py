"""What the learner knows of a replay's server in another process: a thread that asks it, so that nobody else waits."""

import logging
import threading
import time

import reverb

from pipeline.messages.addresses import accepts, respelled
from pipeline.messages.channel import take
from pipeline.messages.contents import SERVER_TABLE, Served
from pipeline.records.counters import NOTHING, Seen, Tally
from pipeline.runtime import native

log = logging.getLogger(__name__)

_SECONDS = 0.25
"""Between questions."""
_TIMEOUT_SECONDS = 2
_AWAY_SECONDS = 3.0
"""Without an answer after which a server is away: a question to one that dies is answered when it is back."""


class Watch:
    """Asks one server again and again how it does.

    Args:
      address: of the server.
      table: of experience.
    """

    def __init__(self, address: str, table: str) -> None:
        self.address, self._table = address, table
        self._client, self._messages = reverb.Client(address), native.reverb_client(address)
        self._spellings = respelled(address)
        self.seen: Seen | None = None
        """None until it has answered once."""
        self._refused = True
        self._changed, self._hurry = threading.Condition(), threading.Event()
        threading.Thread(target=self._ask_for_ever, name=f"watch {address}", daemon=True).start()

    @property
    def is_away(self) -> bool:
        """Whether it does not answer."""
        return self._refused or self.seen is None or time.monotonic() - self.seen.at > _AWAY_SECONDS

    @property
    def silence(self) -> float:
        """Seconds since it answered last, of a server that is away; else 0."""
        return time.monotonic() - self.seen.at if self.seen is not None and self.is_away else 0.0

    @property
    def identity(self) -> str:
        """Of the process that answered last."""
        return self.seen.served.identity if self.seen is not None else ""

    @property
    def tally(self) -> Tally:
        """The newest there is."""
        return self.seen.tally if self.seen is not None else NOTHING

    def wait(self, deadline: float) -> bool:
        """Waits for an answer to a question that is asked from now on; False if there is none by a monotonic time."""
        asked = time.monotonic()
        self._hurry.set()
        with self._changed:
            while self.seen is None or self.seen.at < asked:
                if (left := deadline - time.monotonic()) <= 0.0:
                    return False
                self._changed.wait(left)
        return True

    def _ask_for_ever(self) -> None:
        while True:
            seen = self._ask()
            if (seen is None) != self._refused:
                log.info("the replay at %s %s", self.address, "answers" if seen else "does not answer")
            with self._changed:
                self.seen, self._refused = seen or self.seen, seen is None
                self._changed.notify_all()
            self._hurry.wait(_SECONDS)
            self._hurry.clear()
            if seen is None and accepts(self.address, _TIMEOUT_SECONDS):  # else a client would put off its next attempt
                spelling = next(self._spellings)
                self._client, self._messages = reverb.Client(spelling), native.reverb_client(spelling)

    def _ask(self) -> Seen | None:
        """None if it did not answer, or was replaced by another process meanwhile."""
        at = time.monotonic()
        served: list[Served] = []
        try:
            self._client.server_info(timeout=_TIMEOUT_SECONDS)
            take(self._messages, SERVER_TABLE, Served, 1, served.append)
            info = self._client.server_info(timeout=_TIMEOUT_SECONDS)
            take(self._messages, SERVER_TABLE, Served, 1, served.append)
        except Exception:  # Reverb's several ways to say that nobody is there
            return None
        if served[0].identity != served[1].identity or self._table not in info:
            return None
        limiter = info[self._table].rate_limiter_info
        inserted, sampled = limiter.insert_stats.completed, limiter.sample_stats.completed
        if any(each.is_stored for each in served) and not self._goes_on(served[0], inserted):
            return None
        return Seen(served[0], Tally(inserted, sampled, info[self._table].current_size), info, at)

    def _goes_on(self, served: Served, inserted: int) -> bool:
        """Whether it is the process that has answered until now, not one that was restored from its checkpoint."""
        before = self.seen
        if before is None or time.monotonic() - before.at > _AWAY_SECONDS:
            return False
        return before.served.identity == served.identity and before.tally.inserted <= inserted
