"""Faults of environments: what they cost, when there are too many, and lanes made anew after one.

Imported with the first fault.
"""

import logging
import re
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from pipeline.environments.lanes.contract import EnvironmentFault, MasksIgnored, closing
from pipeline.environments.lanes.lane_environment import FaultCounts, LaneEnvironment, LaneStep
from pipeline.runtime import signs_of_life

log = logging.getLogger(__name__)

EPISODES = 1_000
"""Newest episodes of which the share of faulty ones is taken."""
_LOGGED_FIRST = 10
_LOGGED_EVERY = 100
_RESET_TRIES = 5
"""In a row; then an environment counts as one that cannot be reset."""


class Faults(FaultCounts):
    """Counts the faults of one lane environment and says when there are too many.

    Args:
      name: of the environment, for messages.
      share: of the newest 1,000 episodes, those that may be dropped for a fault; if not 0, at least one.
    """

    def __init__(self, name: str, share: float) -> None:
        super().__init__()
        self._name, self._share = name, share
        self._allowed = max(1, int(share * EPISODES)) if share else 0
        self._faulty: deque[int] = deque()  # which of the episodes, of the newest ones
        self._count = 0

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
        self.newest = f"environment {self._name!r}{where}, step {step}: {what}{_of_no_network(what)}"
        self.episodes += 1
        self._count += 1
        self._faulty.append(self.episodes)
        while self._faulty[0] <= self.episodes - EPISODES:
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
            f"faulty episodes: {len(self._faulty)} of the last {min(self.episodes, EPISODES):,}; "
            f"collect.faulty_episodes={self._share:g} allows {self._allowed} of {EPISODES:,}"
        )


_NO_NETWORK = re.compile(
    r"connection refused|network is unreachable|no route to host|name resolution|name or service not known|failed to "
    r"connect",
    re.IGNORECASE,
)


def _of_no_network(what: str) -> str:
    """What to set for a fault of which a network namespace may be the cause; empty if this process sees a network."""
    if not _NO_NETWORK.search(what) or any(name != "lo" for _, name in socket.if_nameindex()):
        return ""
    return ' (a run in a network namespace of its own sees no network: set replay.private="loopback")'


def infinite(numbers: Mapping[str, NDArray[Any]]) -> dict[int, str]:
    """What is not finite of numbers [lanes, ...] by name, by lane: the first of each."""
    found: dict[int, str] = {}
    for what, values in numbers.items():
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for lane in np.flatnonzero(bad).tolist():
            found.setdefault(lane, f"{what} is not finite ({values[lane]})")
    return found


def mended(
    lanes: LaneEnvironment, step: LaneStep | None, ended: NDArray[np.bool_]
) -> tuple[LaneStep, NDArray[np.bool_]]:
    """A step in which lanes failed, with new episodes there, and in which lanes it ended the episode.

    Args:
      lanes: which failed are in its `found`.
      step: None if nothing can be known of any lane's.
      ended: bool [lanes].

    Raises:
      EnvironmentFault: there have been too many, or an environment cannot be reset.
    """
    observation, mask, anew = renewed(lanes, None if step is None else step.mask)
    cut = anew & ~lanes.resetting
    if step is None or anew.all():
        nothing = np.zeros(lanes.lanes, np.float32)
        return LaneStep(observation, mask, nothing, lanes.none, lanes.none, cut), lanes.none
    reward = np.where(anew, np.float32(0.0), step.reward)
    step = LaneStep(observation, mask, reward, step.terminated & ~anew, step.truncated & ~anew, cut)
    return step, ended & ~anew


def renewed(
    lanes: LaneEnvironment, mask: NDArray[np.bool_] | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """Makes the lanes with faults anew, or all: every lane's observations and masks, and which are new."""
    faults = _faults_of(lanes)
    some = sorted(lane for lane in lanes.found if lane is not None)
    alone = len(some) == len(lanes.found) and hasattr(lanes.vector, "renew")
    anew = np.full(lanes.lanes, not alone)
    anew[some] = True
    faults.dropped_episodes += max(len(some), int(np.count_nonzero(anew & ~lanes.resetting)))
    these = np.flatnonzero(anew).tolist()
    for _ in range(_RESET_TRIES):
        found, lanes.found = lanes.found, {}
        for lane, what in found.items():
            faults.add(lane, lanes.steps, what)
        lanes.renewals += 1
        try:
            if not alone:
                _make_anew(lanes)
            observation, masks = lanes.begin([_seed_of(lanes, lane) for lane in these], these if alone else None)
        except (KeyboardInterrupt, MasksIgnored):
            raise
        except BaseException as error:
            lanes.found[None] = f"a reset raised {error!r}"
            continue
        lanes.found = {lane: what for lane, what in lanes.found.items() if lane in these}
        if lanes.found:
            continue
        if mask is not None and masks is not None:
            masks = np.where(anew[:, np.newaxis], masks, mask)
        return observation, masks, anew
    for what in lanes.found.values():
        faults.newest += f"; then {what}"
    raise faults.exhausted(f"{_RESET_TRIES} resets in a row failed")


def _faults_of(lanes: LaneEnvironment) -> Faults:
    """Counts of the lanes' faults; they begin with the first one."""
    if not isinstance(lanes.faults, Faults):
        faults = Faults(lanes.name, lanes.faulty_share)
        faults.episodes, lanes.faults = lanes.faults.episodes, faults
        return faults
    return lanes.faults


def _make_anew(lanes: LaneEnvironment) -> None:
    if lanes.make_vector is None:
        raise TypeError("these lanes cannot be made anew")
    with closing(f"environment {lanes.name!r}"):
        lanes.vector.close(**({"terminate": True} if isinstance(lanes.vector, AsyncVectorEnv) else {}))
    with signs_of_life.in_call(signs_of_life.MAKING):
        lanes.vector = lanes.make_vector()
    lanes.vector_faults = getattr(lanes.vector, "faults", {})


def _seed_of(lanes: LaneEnvironment, lane: int) -> int:
    """Of the lane's next environment: a stream of its own, the same after the same faults."""
    return int(np.random.SeedSequence([lanes.seed, lane, lanes.renewals]).generate_state(1)[0] >> 1)
