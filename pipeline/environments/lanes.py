"""Environments in lockstep, one lane each, with what the data path needs to know of every step."""

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.exploration import greedy
from pipeline.config import UsageError
from pipeline.environments.shield import Shield
from pipeline.environments.spaces import leaf_readers, specs_of


class EnvironmentFault(Exception):
    """An environment broke its contract; says which environment, lane and step."""


class ForbiddenAction(Exception):
    """An action that mask or shield forbids was about to be taken: an error of whoever chose it."""


class LaneStep(NamedTuple):
    """What one vector step returned. Arrays are valid until the next step."""

    observation: dict[str, NDArray[Any]]
    """By leaf name, [lanes, ...]."""
    mask: NDArray[np.bool_] | None
    """bool [lanes, actions], the allowed actions; None where there is no shield and no `info["action_mask"]`."""
    reward: NDArray[np.float32]
    """float32 [lanes]; 0 in lanes that were reset."""
    terminated: NDArray[np.bool_]
    """bool [lanes]: nothing is earned from here on: a terminal state or, where `info["life_lost"]` says so, one that
    counts as such though its episode goes on."""
    truncated: NDArray[np.bool_]
    """bool [lanes]: the episode was cut off elsewhere."""


class EpisodeEnds(NamedTuple):
    """The episodes that a step ended, in raw reward, one entry an ended lane."""

    lanes: list[int]
    returns: list[float]
    lengths: list[int]
    """In environment steps."""


_NO_ENDS = EpisodeEnds([], [], [])
_SMALL = 4_096
"""Elements up to which a product with itself is the fastest way to touch them all; BLAS starts threads for many."""


class LaneEnvironment:
    """A gymnasium vector environment that resets an ended lane in the step after (`AutoresetMode.NEXT_STEP`).

    Args:
      vector: the lanes.
      name: of the environment, for messages.
      shield: forbids actions beside the environment's own mask; see `pipeline.environments.shield`.
    """

    def __init__(
        self, vector: gymnasium.vector.VectorEnv[Any, Any, Any], name: str, shield: Shield | None = None
    ) -> None:
        if vector.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise UsageError(f"environment {name!r} must reset in the step after an episode's end (NEXT_STEP)")
        self.vector = vector
        self.lanes = vector.num_envs
        self.name = name
        self.specs = specs_of(vector.single_observation_space, vector.single_action_space, masked=False)
        self._readers = leaf_readers(vector.single_observation_space)
        self._floats = [leaf for leaf, spec in self.specs.leaves().items() if spec.dtype == "float32"]
        self._first_action = int(getattr(vector.single_action_space, "start", 0))
        self._masked = False
        self._shield = shield
        self._given: NDArray[np.bool_] | None = None  # the newest masks: the environment's own, and with the shield
        self._allowed: NDArray[np.bool_] | None = None
        self._shielded: NDArray[np.bool_] | None = None  # what the shield itself allows
        self._all_lanes = np.arange(self.lanes)
        self._steps = 0
        self._returns = np.zeros(self.lanes, np.float64)
        self._began = np.zeros(self.lanes, np.int64)  # the step that each lane's episode began in
        self.resetting = np.zeros(self.lanes, np.bool_)
        """bool [lanes]: the lane's episode has ended, its next step is a reset."""
        self.any_resetting = False
        """Whether any lane is in `resetting`; asked at every step, and most steps end no episode."""

    def reset(self, seed: int) -> LaneStep:
        """Starts new episodes in all lanes; each lane has a seed of its own, derived from `seed`."""
        own_loop = isinstance(self.vector, (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv))
        seeds: Any = [seed + lane for lane in range(self.lanes)] if own_loop else seed
        batch, info = self.vector.reset(seed=seeds)
        self._masked = "action_mask" in info
        self._returns[:] = 0.0
        self._began[:] = self._steps
        self.resetting = np.zeros(self.lanes, np.bool_)
        self.any_resetting = False
        no = np.zeros(self.lanes, np.bool_)
        return self._checked(batch, info, np.zeros(self.lanes, np.float32), no, no, no)

    def step(self, actions: NDArray[np.int64]) -> LaneStep:
        """Steps every lane; lanes in `resetting` ignore their action and begin an episode.

        Args:
          actions: int64 [lanes], from 0.

        Raises:
          EnvironmentFault: an observation or reward is not finite, a mask is missing or allows nothing, or the
            environment raised.
          ForbiddenAction: of a lane that is not in `resetting`, the mask or the shield forbids the action.
        """
        if self._allowed is not None:
            self._refuse_forbidden(actions)
        self._steps += 1
        try:
            if self._first_action:
                actions = actions + self._first_action
            batch, reward, terminated, truncated, info = self.vector.step(actions)
        except Exception as error:
            raise EnvironmentFault(f"environment {self.name!r} raised at step {self._steps}: {error!r}") from error
        reward = np.asarray(reward, np.float32)
        self._returns += reward
        if self.any_resetting:
            self._began[self.resetting] = self._steps
        ended = terminated | truncated
        if "life_lost" in info:
            terminated = terminated | info["life_lost"]
        step = self._checked(batch, info, reward, terminated, truncated, ended)
        self.resetting = ended
        self.any_resetting = np.count_nonzero(ended) > 0
        return step

    def episode_ends(self) -> EpisodeEnds:
        """Statistics of the episodes that the last step ended; clears them for the next ones. Call it once a step."""
        if not self.any_resetting:
            return _NO_ENDS
        ended = self.resetting
        lengths = self._steps - self._began[ended]
        ends = EpisodeEnds(np.flatnonzero(ended).tolist(), self._returns[ended].tolist(), lengths.tolist())
        self._returns[ended] = 0.0
        return ends

    def overruled(self, scores: NDArray[np.float32]) -> int:
        """In how many lanes the shield forbids what would be the best action without it.

        Args:
          scores: float32 [lanes, actions], of the newest observations.
        """
        if self._shielded is None:
            return 0
        allowed = self._shielded[self._all_lanes, greedy(scores, self._given)]
        return int(np.count_nonzero(~allowed & ~self.resetting))

    def close(self) -> None:
        """Releases the environments."""
        self.vector.close()

    def _checked(
        self,
        batch: Any,
        info: dict[str, Any],
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        ended: NDArray[np.bool_],
    ) -> LaneStep:
        observation = {leaf: read(batch) for leaf, read in self._readers.items()}
        # A sum of squares is finite only if all its terms are: one pass without a temporary mask in the usual case.
        total = np.vdot(reward, reward)
        for leaf in self._floats:
            values = observation[leaf]
            total += np.vdot(values, values) if values.size <= _SMALL else np.add.reduce(values, axis=None)
        if not math.isfinite(total):
            self._explain(observation, reward)
        self._given = self._allowed = self._mask(info, ended) if self._masked else None
        if self._shield is not None:
            self._apply_shield(self._shield, observation, ended)
        return LaneStep(observation, self._allowed, reward, terminated, truncated)

    def _apply_shield(self, shield: Shield, observation: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> None:
        try:
            allowed = np.asarray(shield(self.specs.pack(observation)))
        except UsageError:  # it says that it does not go with this environment
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"environment {self.name!r}, step {self._steps}: the shield raised {error!r}"
            ) from error
        shape = (self.lanes, self.specs.num_actions)
        if allowed.shape != shape or allowed.dtype != np.bool_:
            raise EnvironmentFault(
                f"environment {self.name!r}, step {self._steps}: the shield returned {allowed.dtype} {allowed.shape}, "
                f"and bool {shape} is wanted, lanes and actions"
            )
        both = allowed if self._given is None else allowed & self._given
        nothing = ~both.any(axis=1)
        if np.count_nonzero(nothing & ~ended):
            lane = int(np.flatnonzero(nothing & ~ended)[0])
            raise EnvironmentFault(
                f"environment {self.name!r}, lane {lane}, step {self._steps}: the shield leaves no action: it has to "
                "allow one of every observation"
            )
        self._shielded = allowed
        self._allowed = both | nothing[:, np.newaxis] if np.count_nonzero(nothing) else both

    def _refuse_forbidden(self, actions: NDArray[np.int64]) -> None:
        allowed: Any = self._allowed
        forbidden = ~allowed[self._all_lanes, actions] & ~self.resetting
        if np.count_nonzero(forbidden):
            lane = int(np.flatnonzero(forbidden)[0])
            raise ForbiddenAction(
                f"environment {self.name!r}, lane {lane}, step {self._steps + 1}: action {actions[lane]} is forbidden"
            )

    def _explain(self, observation: dict[str, NDArray[Any]], reward: NDArray[np.float32]) -> None:
        for what, values in [
            ("reward", reward),
            *((f"observation {leaf}".strip(), observation[leaf]) for leaf in self._floats),
        ]:
            bad = ~np.isfinite(values).reshape(self.lanes, -1).all(axis=1)
            if bad.any():
                lane = int(np.flatnonzero(bad)[0])
                raise EnvironmentFault(
                    f"environment {self.name!r}, lane {lane}, step {self._steps}: {what} is not finite "
                    f"({values[lane]}); the transition is not stored"
                )

    def _mask(self, info: dict[str, Any], ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        mask = np.zeros((self.lanes, self.specs.num_actions), np.bool_)
        given = np.asarray(info.get("_action_mask", np.full(self.lanes, "action_mask" in info)), np.bool_)
        for lane in np.flatnonzero(given):
            row = np.asarray(info["action_mask"][lane], np.bool_)
            if row.shape != mask[lane].shape:
                raise EnvironmentFault(
                    f"environment {self.name!r}, lane {lane}, step {self._steps}: info['action_mask'] has shape "
                    f"{row.shape}, there are {self.specs.num_actions} actions"
                )
            mask[lane] = row
        unusable = ~mask.any(axis=1)
        mask[ended & unusable] = True  # no action is taken there; a truncated one that has a mask is bootstrapped by it
        wrong = ~ended & unusable
        if wrong.any():
            lane = int(np.flatnonzero(wrong)[0])
            raise EnvironmentFault(
                f"environment {self.name!r}, lane {lane}, step {self._steps}: info['action_mask'] is missing or "
                "allows no action"
            )
        return mask
