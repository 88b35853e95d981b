"""Environments in lockstep, one lane each, with what the data path needs to know of every step."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from agents.exploration import greedy
from pipeline.environments.lanes.faults import Faults, ShieldFault
from pipeline.environments.lanes.shield import Shield
from pipeline.environments.lanes.spaces import first_action, leaf_readers, specs_of
from pipeline.experiment.config import UsageError

Vector = gymnasium.vector.VectorEnv[Any, Any, Any]


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
    cut: NDArray[np.bool_] | None = None
    """bool [lanes]: the step failed and counts as none. The episode ends where the action was chosen, as if truncated
    there, and the observation is the first of another. None where no lane's step failed."""


class EpisodeEnds(NamedTuple):
    """The episodes that a step ended, in raw reward, one entry an ended lane."""

    lanes: list[int]
    returns: list[float]
    lengths: list[int]
    """In environment steps."""


_NO_ENDS = EpisodeEnds([], [], [])
_SMALL = 4_096
"""Elements up to which a product with itself is the fastest way to touch them all; BLAS starts threads for many."""
_RESET_TRIES = 5
"""In a row; then an environment counts as one that cannot be reset."""


class LaneEnvironment:
    """A gymnasium vector environment that resets an ended lane in the step after (`AutoresetMode.NEXT_STEP`).

    A lane whose environment breaks its contract loses its episode: the environment is made anew and begins another.
    Where the vector cannot renew one lane, all are made anew. A shield that fails is no such fault and always raises.

    Args:
      vector: the lanes.
      name: of the environment, for messages.
      shield: forbids actions beside the environment's own mask; see `pipeline.environments.lanes.shield`.
      make: makes `vector` anew.
      faulty_episodes: share that faults may cost, see `collect.faulty_episodes`; 0 raises at the first.
    """

    def __init__(
        self,
        vector: Vector,
        name: str,
        shield: Shield | None = None,
        make: Callable[[], Vector] | None = None,
        faulty_episodes: float = 0.0,
    ) -> None:
        if vector.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise UsageError(f"environment {name!r} must reset in the step after an episode's end (NEXT_STEP)")
        self.vector = vector
        self.lanes = vector.num_envs
        self.name = name
        self.faults = Faults(name, faulty_episodes)
        self.specs = specs_of(vector.single_observation_space, vector.single_action_space, masked=False)
        self._make = make
        self._readers = leaf_readers(vector.single_observation_space)
        self._floats = [leaf for leaf, spec in self.specs.leaves().items() if spec.dtype == "float32"]
        self._first_action = first_action(vector.single_action_space)
        self._masked = False
        self._shield = shield
        self._given: NDArray[np.bool_] | None = None  # the newest masks: the environment's own, and with the shield
        self._allowed: NDArray[np.bool_] | None = None
        self._shielded: NDArray[np.bool_] | None = None  # what the shield itself allows
        self._lane_faults: Mapping[int, str] = getattr(vector, "faults", {})  # that the vector itself has found
        self._found: dict[int | None, str] = {}  # faults of the newest step by lane; None says no lane
        self._seed = self._renewals = 0
        self._all_lanes = np.arange(self.lanes)
        self._none = np.zeros(self.lanes, np.bool_)
        self._steps = 0
        self._returns = np.zeros(self.lanes, np.float64)
        self._began = np.zeros(self.lanes, np.int64)  # the step that each lane's episode began in
        self.resetting = self._none
        """bool [lanes]: the lane's episode has ended, its next step is a reset."""
        self.any_resetting = False
        """Whether any lane is in `resetting`; asked at every step, and most steps end no episode."""

    def reset(self, seed: int) -> LaneStep:
        """Starts new episodes in all lanes; each lane has a seed of its own, derived from `seed`.

        Raises:
          EnvironmentFault: see `step`.
        """
        self._seed, self._renewals = seed, 0
        nothing = np.zeros(self.lanes, np.float32)
        try:
            observation, mask = self._begin([seed + lane for lane in range(self.lanes)])
        except Exception as error:
            self._found[None] = f"a reset raised {error!r}"
        if self._found:
            observation, mask, _ = self._renewed(None)
        self._returns[:] = 0.0
        self._began[:] = self._steps
        self.resetting, self.any_resetting = self._none, False
        step = LaneStep(observation, mask, nothing, self._none, self._none)
        self._given = self._allowed = mask
        return step if self._shield is None else self._with_shield(step, self._none)

    def step(self, actions: NDArray[np.int64]) -> LaneStep:
        """Steps every lane; lanes in `resetting` ignore their action and begin an episode.

        Args:
          actions: int64 [lanes], from 0.

        Raises:
          EnvironmentFault: more often than is allowed, an environment raised, an observation was not of its space's
            shape and kind of number, or not finite, a reward was no finite number, or a mask was missing or allowed
            nothing. Or an environment cannot be reset.
          ShieldFault: the shield raised or left no action.
          ForbiddenAction: of a lane that is not in `resetting`, the mask or the shield forbids the action.
        """
        if self._allowed is not None:
            self._refuse_forbidden(actions)
        self._steps += 1
        try:
            step, ended = self._stepped(actions)
        except Exception as error:
            self._found[None] = f"it raised {error!r}"
        if self._found:
            unknown = None in self._found
            step, ended = self._mended(None if unknown else step, self._none if unknown else ended)
        self._returns += step.reward
        if self.any_resetting:
            self._began[self.resetting] = self._steps
        if step.cut is not None:
            self._returns[step.cut] = 0.0
            self._began[step.cut] = self._steps
        self.resetting = ended
        ends = np.count_nonzero(ended)
        self.any_resetting = ends > 0
        if ends:
            self.faults.end(int(ends))
        if self._shield is not None:
            return self._with_shield(step, ended)
        self._given = self._allowed = step.mask
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

    def _stepped(self, actions: NDArray[np.int64]) -> tuple[LaneStep, NDArray[np.bool_]]:
        """What the vector's step returned, and in which lanes it ended the episode; its faults are in `_found`."""
        if self._first_action:
            actions = actions + self._first_action
        batch, reward, terminated, truncated, info = self.vector.step(actions)
        reward = np.asarray(reward, np.float32)
        ended = terminated | truncated
        if "life_lost" in info:
            terminated = terminated | info["life_lost"]
        if self._lane_faults:
            self._found.update(self._lane_faults.items())
        observation = {leaf: read(batch) for leaf, read in self._readers.items()}
        # A sum of squares is finite only if all its terms are: one pass without a temporary mask in the usual case.
        total = np.vdot(reward, reward)
        for leaf in self._floats:
            values = observation[leaf]
            total += np.vdot(values, values) if values.size <= _SMALL else np.add.reduce(values, axis=None)
        if not math.isfinite(total):
            self._find_infinite(observation, reward)
        mask = self._mask(info, ended) if self._masked else None
        return LaneStep(observation, mask, reward, terminated, truncated), ended

    def _begin(
        self, seeds: Sequence[int], lanes: Sequence[int] | None = None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
        """Begins episodes in all lanes, or makes some anew: the observations of all lanes and the masks of those."""
        vector: Any = self.vector
        if lanes is not None:
            batch, info = vector.renew(lanes, seeds)
            self._found.update(self._lane_faults.items())
        else:
            own_loop = isinstance(vector, (SyncVectorEnv, AsyncVectorEnv))
            batch, info = vector.reset(seed=list(seeds) if own_loop else seeds[0])
            self._masked = self._masked or "action_mask" in info
        observation = {leaf: read(batch) for leaf, read in self._readers.items()}
        self._find_infinite(observation, np.zeros(self.lanes, np.float32))
        return observation, self._mask(info, self._none) if self._masked else None

    def _mended(self, step: LaneStep | None, ended: NDArray[np.bool_]) -> tuple[LaneStep, NDArray[np.bool_]]:
        """A step in which lanes failed, with new episodes there; None if nothing can be known of any lane's."""
        observation, mask, anew = self._renewed(None if step is None else step.mask)
        cut = anew & ~self.resetting
        if step is None or anew.all():
            nothing = np.zeros(self.lanes, np.float32)
            return LaneStep(observation, mask, nothing, self._none, self._none, cut), self._none
        reward = np.where(anew, np.float32(0.0), step.reward)
        step = LaneStep(observation, mask, reward, step.terminated & ~anew, step.truncated & ~anew, cut)
        return step, ended & ~anew

    def _renewed(
        self, mask: NDArray[np.bool_] | None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None, NDArray[np.bool_]]:
        """Makes the lanes with faults anew, or all: every lane's observations and masks, and which are new."""
        some = sorted(lane for lane in self._found if lane is not None)
        alone = len(some) == len(self._found) and hasattr(self.vector, "renew")
        anew = np.full(self.lanes, not alone)
        anew[some] = True
        self.faults.dropped_episodes += max(len(some), int(np.count_nonzero(anew & ~self.resetting)))
        lanes = np.flatnonzero(anew).tolist()
        for _ in range(_RESET_TRIES):
            found, self._found = self._found, {}
            for lane, what in found.items():
                self.faults.add(lane, self._steps, what)
            self._renewals += 1
            try:
                if not alone:
                    self._make_anew()
                observation, masks = self._begin([self._seed_of(lane) for lane in lanes], lanes if alone else None)
            except Exception as error:
                self._found[None] = f"a reset raised {error!r}"
                continue
            self._found = {lane: what for lane, what in self._found.items() if lane in lanes}
            if self._found:
                continue
            if mask is not None and masks is not None:
                masks = np.where(anew[:, np.newaxis], masks, mask)
            return observation, masks, anew
        for what in self._found.values():
            self.faults.newest += f"; then {what}"
        raise self.faults.exhausted(f"{_RESET_TRIES} resets in a row failed")

    def _make_anew(self) -> None:
        if self._make is None:
            raise TypeError("these lanes cannot be made anew")
        with contextlib.suppress(Exception):  # it is broken
            self.vector.close(**({"terminate": True} if isinstance(self.vector, AsyncVectorEnv) else {}))
        self.vector = self._make()
        self._lane_faults = getattr(self.vector, "faults", {})

    def _seed_of(self, lane: int) -> int:
        """Of the lane's next environment: a stream of its own, the same after the same faults."""
        return int(np.random.SeedSequence([self._seed, lane, self._renewals]).generate_state(1)[0] >> 1)

    def _with_shield(self, step: LaneStep, ended: NDArray[np.bool_]) -> LaneStep:
        self._given = step.mask
        self._apply_shield(step.observation, ended)
        return step._replace(mask=self._allowed)

    def _apply_shield(self, observation: dict[str, NDArray[Any]], ended: NDArray[np.bool_]) -> None:
        try:
            shield: Any = self._shield
            allowed = np.asarray(shield(self.specs.pack(observation)))
        except UsageError:  # it says that it does not go with this environment
            raise
        except Exception as error:
            raise ShieldFault(f"environment {self.name!r}, step {self._steps}: the shield raised {error!r}") from error
        shape = (self.lanes, self.specs.num_actions)
        if allowed.shape != shape or allowed.dtype != np.bool_:
            raise ShieldFault(
                f"environment {self.name!r}, step {self._steps}: the shield returned {allowed.dtype} {allowed.shape}, "
                f"and bool {shape} is wanted, lanes and actions"
            )
        both = allowed if self._given is None else allowed & self._given
        nothing = ~both.any(axis=1)
        if np.count_nonzero(nothing & ~ended):
            lane = int(np.flatnonzero(nothing & ~ended)[0])
            raise ShieldFault(
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

    def _find_infinite(self, observation: dict[str, NDArray[Any]], reward: NDArray[np.float32]) -> None:
        """Enters each lane whose reward or observation is not finite into `_found`."""
        for what, values in [
            ("reward", reward),
            *((f"observation {leaf}".strip(), observation[leaf]) for leaf in self._floats),
        ]:
            bad = ~np.isfinite(values).reshape(self.lanes, -1).all(axis=1)
            for lane in np.flatnonzero(bad).tolist():
                self._found.setdefault(lane, f"{what} is not finite ({values[lane]})")

    def _mask(self, info: dict[str, Any], ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Masks [lanes, actions]; each lane whose own is missing or of no use is entered into `_found`."""
        mask = np.zeros((self.lanes, self.specs.num_actions), np.bool_)
        given = np.asarray(info.get("_action_mask", np.full(self.lanes, "action_mask" in info)), np.bool_)
        for lane in np.flatnonzero(given).tolist():
            row = np.asarray(info["action_mask"][lane], np.bool_)
            if row.shape == mask[lane].shape:
                mask[lane] = row
            else:
                wrong = f"info['action_mask'] has shape {row.shape}, there are {self.specs.num_actions} actions"
                self._found.setdefault(lane, wrong)
        unusable = ~mask.any(axis=1)
        if np.count_nonzero(unusable):
            for lane in np.flatnonzero(unusable & ~ended).tolist():
                self._found.setdefault(lane, "info['action_mask'] is missing or allows no action")
            mask[unusable] = True  # of ended ones: none is taken; a truncated one that has a mask is bootstrapped by it
        return mask
