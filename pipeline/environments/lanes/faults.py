"""Faults of environments: what they cost, and when there are too many of them."""

import logging
from collections import deque

log = logging.getLogger(__name__)

EPISODES = 1_000
"""Newest episodes of which the share of faulty ones is taken."""
_LOGGED_FIRST = 10
_LOGGED_EVERY = 100


class EnvironmentFault(Exception):
    """An environment broke its contract too often; says which environment, lane and step."""


class ShieldFault(EnvironmentFault):
    """A shield raised, or returned no mask that leaves an action: nothing may be done until it is mended."""


class Faults:
    """The book of one lane environment's faults.

    Args:
      name: of the environment, for messages.
      share: of the newest 1,000 episodes, those that may be dropped for a fault; if not 0, at least one.
    """

    def __init__(self, name: str, share: float) -> None:
        self._name, self._share = name, share
        self._allowed = max(1, int(share * EPISODES)) if share else 0
        self._episodes = 0
        self._faulty: deque[int] = deque()  # which of the episodes, of the newest ones
        self._count = 0
        self.dropped_episodes = 0
        """Episodes cut off, by a fault of their own or because their lane could not be kept."""
        self.newest = ""
        """The newest fault: environment, lane, step and what was wrong."""

    def end(self, episodes: int) -> None:
        """Counts episodes that ended without a fault."""
        self._episodes += episodes

    def add(self, lane: int | None, step: int, what: str) -> None:
        """Enters a fault that costs an episode.

        Args:
          lane: that it happened in; None where the environment does not say.
          step: vector steps taken before and with it.
          what: was wrong.

        Raises:
          EnvironmentFault: there are now more than allowed.
        """
        where = "" if lane is None else f", lane {lane}"
        self.newest = f"environment {self._name!r}{where}, step {step}: {what}"
        self._episodes += 1
        self._count += 1
        self._faulty.append(self._episodes)
        while self._faulty[0] <= self._episodes - EPISODES:
            self._faulty.popleft()
        if len(self._faulty) > self._allowed:
            raise EnvironmentFault(f"{self.newest} ({self._rate()})")
        if self._count <= _LOGGED_FIRST or self._count % _LOGGED_EVERY == 0:
            log.warning("%s; its episode is dropped (fault %d)", self.newest, self._count)

    def exhausted(self, why: str) -> EnvironmentFault:
        """What to raise where no episode can be begun any more."""
        return EnvironmentFault(f"{self.newest} ({why}; {self._rate()})")

    def _rate(self) -> str:
        return (
            f"faulty episodes: {len(self._faulty)} of the last {min(self._episodes, EPISODES):,}; "
            f"collect.faulty_episodes={self._share:g} allows {self._allowed} of {EPISODES:,}"
        )
