"""Which actions lanes allow: by the environment's own masks, and by a shield beside them.

Imported for environments that mask actions or are shielded.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.exploration import greedy
from pipeline.environments.lanes.lane_environment import ForbiddenAction, LaneEnvironment, LaneStep, ShieldFault
from pipeline.environments.lanes.shield import Shield
from pipeline.experiment.config import UsageError


class Masks:
    """The newest masks of a lane environment.

    Args:
      lanes: of which they are.
      shield: forbids actions beside the environment's own masks; see `pipeline.environments.lanes.shield`.
    """

    def __init__(self, lanes: LaneEnvironment, shield: Shield | None) -> None:
        self._lanes, self._shield = lanes, shield
        self._given: NDArray[np.bool_] | None = None  # the newest masks: the environment's own, and with the shield
        self._allowed: NDArray[np.bool_] | None = None
        self._shielded: NDArray[np.bool_] | None = None  # what the shield itself allows
        self._all_lanes = np.arange(lanes.lanes)

    def given_by(self, info: dict[str, Any], ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The environment's masks [lanes, actions]; each lane whose own is missing or of no use is a fault."""
        actions = self._lanes.specs.num_actions
        mask = np.zeros((self._lanes.lanes, actions), np.bool_)
        given = np.asarray(info.get("_action_mask", np.full(self._lanes.lanes, "action_mask" in info)), np.bool_)
        for lane in np.flatnonzero(given).tolist():
            row = np.asarray(info["action_mask"][lane], np.bool_)
            if row.shape == mask[lane].shape:
                mask[lane] = row
            else:
                wrong = f"info['action_mask'] has shape {row.shape}, there are {actions} actions"
                self._lanes.found.setdefault(lane, wrong)
        unusable = ~mask.any(axis=1)
        if np.count_nonzero(unusable):
            for lane in np.flatnonzero(unusable & ~ended).tolist():
                self._lanes.found.setdefault(lane, "info['action_mask'] is missing or allows no action")
            mask[unusable] = True  # of ended ones: none is taken; a truncated one that has a mask is bootstrapped by it
        return mask

    def see(self, step: LaneStep, ended: NDArray[np.bool_]) -> LaneStep:
        """Takes a step's masks; returns it with what the shield leaves of them.

        Raises:
          ShieldFault: the shield raised or left no action.
        """
        self._given = self._allowed = step.mask
        if self._shield is None:
            return step
        self._apply(self._shield, step.observation, ended)
        return step._replace(mask=self._allowed)

    def refuse_forbidden(self, actions: NDArray[np.int64]) -> None:
        """Checks the lanes' next actions.

        Raises:
          ForbiddenAction: of a lane that is not in `resetting`, the mask or the shield forbids the action.
        """
        if self._allowed is None:
            return
        forbidden = ~self._allowed[self._all_lanes, actions] & ~self._lanes.resetting
        if np.count_nonzero(forbidden):
            lane = int(np.flatnonzero(forbidden)[0])
            raise ForbiddenAction(f"{self._where(1, lane)}: action {actions[lane]} is forbidden")

    def overruled(self, scores: NDArray[np.float32]) -> int:
        """See `LaneEnvironment.overruled`."""
        if self._shielded is None:
            return 0
        allowed = self._shielded[self._all_lanes, greedy(scores, self._given)]
        return int(np.count_nonzero(~allowed & ~self._lanes.resetting))

    def _apply(self, shield: Any, observation: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> None:
        try:
            allowed = np.asarray(shield(self._lanes.specs.pack(observation)))
        except UsageError:  # it says that it does not go with this environment
            raise
        except Exception as error:
            raise ShieldFault(f"{self._where()}: the shield raised {error!r}") from error
        shape = (self._lanes.lanes, self._lanes.specs.num_actions)
        if allowed.shape != shape or allowed.dtype != np.bool_:
            raise ShieldFault(
                f"{self._where()}: the shield returned {allowed.dtype} {allowed.shape}, and bool {shape} is wanted, "
                "lanes and actions"
            )
        both = allowed if self._given is None else allowed & self._given
        nothing = ~both.any(axis=1)
        if np.count_nonzero(nothing & ~ended):
            lane = int(np.flatnonzero(nothing & ~ended)[0])
            raise ShieldFault(
                f"{self._where(lane=lane)}: the shield leaves no action: it has to allow one of every observation"
            )
        self._shielded = allowed
        self._allowed = both | nothing[:, np.newaxis] if np.count_nonzero(nothing) else both

    def _where(self, later: int = 0, lane: int | None = None) -> str:
        """Environment, lane and step, for messages."""
        which = "" if lane is None else f", lane {lane}"
        return f"environment {self._lanes.name!r}{which}, step {self._lanes.steps + later}"
