"""Environments in lockstep, one lane each, with what the data path needs to know of every step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from pipeline.environments.lanes.contract import MasksIgnored, closing
from pipeline.environments.lanes.spaces import Misfit, first_action, leaf_readers, of_vectors, specs_of
from pipeline.experiment.config import UsageError
from pipeline.runtime import signs_of_life

if TYPE_CHECKING:
    from pipeline.environments.lanes.leaves import InfoNumbers
    from pipeline.environments.lanes.masks import Masks
    from pipeline.environments.lanes.shield import Shield

Vector = gymnasium.vector.VectorEnv[Any, Any, Any]


class LaneStep(NamedTuple):
    """What one vector step returned. Arrays are valid until the next step."""

    observation: dict[str, NDArray[Any]]
    """By leaf name, [lanes, ...]."""
    mask: NDArray[np.bool_] | None
    """bool [lanes, actions], the allowed actions; None where there is no shield, and no mask has been given."""
    reward: NDArray[np.float32]
    """float32 [lanes]; 0 in lanes that were reset."""
    terminated: NDArray[np.bool_]
    """bool [lanes]: the step led to a terminal state, after which nothing is earned. A lost life counts as one
    (`info["life_lost"]`), though its episode goes on."""
    truncated: NDArray[np.bool_]
    """bool [lanes]: the episode was cut off in a state that is not terminal, as by a time limit."""
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
_BOOL, _FLOAT = np.dtype(np.bool_), np.dtype(np.float32)
_SMALL = 4_096
"""Elements up to which a product with itself is the fastest way to touch them all; BLAS starts threads for many."""


class FaultCounts:
    """Counts one environment's episodes and those lost to faults; the first fault puts `faults.Faults` in its place."""

    def __init__(self) -> None:
        self.episodes = 0
        """Episodes that ended or were dropped for a fault."""
        self.dropped_episodes = 0
        """Episodes cut off, by a fault of their own or because their lane could not be kept."""
        self.newest = ""
        """The newest fault: environment, lane, step and what was wrong."""

    def end(self, episodes: int) -> None:
        """Counts episodes that ended without a fault."""
        self.episodes += episodes


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
      mask_key: part of the observation that is a mask; see `environment.mask_key`.
      masked: whether the run has a place for masks; None: whether there are any shows as it goes.
    """

    def __init__(
        self,
        vector: Vector,
        name: str,
        shield: "Shield | None" = None,
        make: Callable[[], Vector] | None = None,
        faulty_episodes: float = 0.0,
        mask_key: str = "",
        masked: bool | None = None,
    ) -> None:
        if vector.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise UsageError(f"environment {name!r} must reset in the step after an episode's end (NEXT_STEP)")
        self.vector = vector
        self.lanes = vector.num_envs
        self.name = name
        self.faults = FaultCounts()
        self.faulty_share = faulty_episodes
        self.specs = specs_of(vector.single_observation_space, vector.single_action_space, masked=False)
        self.observation_space = vector.single_observation_space
        """Of one lane, without a part that is a mask."""
        self.make_vector = make
        self._readers = leaf_readers(self.observation_space)
        part = None
        if mask_key:
            from pipeline.environments.lanes.masks import mask_part

            part = mask_part(self.observation_space, mask_key, self.specs.num_actions)
            self.observation_space = part.rest
            self.specs = specs_of(part.rest, vector.single_action_space, masked=False)
            del self._readers[mask_key]
        self._floats = [leaf for leaf, spec in self.specs.leaves().items() if spec.dtype == "float32"]
        self._first_action = first_action(vector.single_action_space)
        self._outward = of_vectors(vector.single_action_space, "outward")
        self._masks_fit = masked is not False or shield is not None
        self._gives_masks = part is not None or (masked is True and shield is None)
        self._masks: Masks | None = None
        """Of actions; None where all are allowed."""
        if self._gives_masks or shield is not None:
            from pipeline.environments.lanes import masks

            self._masks = masks.Masks(self, shield, part.get if part else None, mask_key)
        self.vector_faults: Mapping[int, str] = getattr(vector, "faults", {})
        """Faults of the newest step by lane that the vector itself has found."""
        self.info_numbers: InfoNumbers | None = None
        """Reads what `collect.info_keys` names; None where it names nothing."""
        self.ended_infos: dict[int, dict[str, float]] = {}
        """By lane whose episode the newest step ended, those numbers by key."""
        self.found: dict[int | None, str] = {}
        """Faults of the newest step by lane; None says no lane."""
        self.seed = self.renewals = 0
        """Of the newest `reset`, and how often lanes were made anew since."""
        self.none = np.zeros(self.lanes, np.bool_)
        """bool [lanes], none of them."""
        self.steps = 0
        """Vector steps taken."""
        self._returns = np.zeros(self.lanes, np.float64)
        self._began = np.zeros(self.lanes, np.int64)  # the step that each lane's episode began in
        self.resetting = self.none
        """bool [lanes]: the lane's episode has ended, its next step is a reset."""
        self.any_resetting = False
        """Whether any lane is in `resetting`; asked at every step, and most steps end no episode."""

    def reset(self, seed: int) -> LaneStep:
        """Starts new episodes in all lanes; each lane has a seed of its own, derived from `seed`.

        Raises:
          EnvironmentFault: see `step`.
        """
        self.seed, self.renewals, self.ended_infos = seed, 0, {}
        nothing = np.zeros(self.lanes, np.float32)
        try:
            observation, mask = self.begin([seed + lane for lane in range(self.lanes)])
        except (UsageError, MasksIgnored, KeyboardInterrupt):  # it has another interface than it seemed to have
            raise
        except BaseException as error:
            self.found[None] = f"a reset raised {error!r}"
        if self.found:
            from pipeline.environments.lanes import faults

            observation, mask, _ = faults.renewed(self, None)
        self._returns[:] = 0.0
        self._began[:] = self.steps
        self.resetting, self.any_resetting = self.none, False
        step = LaneStep(observation, mask, nothing, self.none, self.none)
        return step if self._masks is None else self._masks.see(step, self.none)

    def step(self, actions: NDArray[np.int64]) -> LaneStep:
        """Steps every lane; lanes in `resetting` ignore their action and begin an episode.

        Args:
          actions: int64 [lanes], from 0; of several dimensions [lanes, D].

        Raises:
          EnvironmentFault: more often than is allowed, an environment raised, an observation was not of its space's
            shape and kind of number, beyond what these hold, or not finite, a reward was no finite number, or a mask
            was missing, allowed nothing or was none. Or an environment cannot be reset.
          MasksIgnored: the run has no place for masks, and there is one.
          ShieldFault: the shield raised or left no action.
          ForbiddenAction: of a lane that is not in `resetting`, the mask or the shield forbids the action.
        """
        if self._masks is not None:
            self._masks.refuse_forbidden(actions)
        self.steps += 1
        try:
            step, ended = self._stepped(actions)
        except (UsageError, MasksIgnored, KeyboardInterrupt):  # see `reset`
            raise
        except BaseException as error:
            self.found[None] = str(error) if isinstance(error, Misfit) else f"it raised {error!r}"
        if self.found:
            from pipeline.environments.lanes import faults

            unknown = None in self.found
            step, ended = faults.mended(self, None if unknown else step, self.none if unknown else ended)
            self.ended_infos = {lane: numbers for lane, numbers in self.ended_infos.items() if ended[lane]}
        self._returns += step.reward
        if self.any_resetting:
            self._began[self.resetting] = self.steps
        if step.cut is not None:
            self._returns[step.cut] = 0.0
            self._began[step.cut] = self.steps
        self.resetting = ended
        ends = np.count_nonzero(ended)
        self.any_resetting = ends > 0
        if ends:
            self.faults.end(int(ends))
        return step if self._masks is None else self._masks.see(step, ended)

    def episode_ends(self) -> EpisodeEnds:
        """Statistics of the episodes that the last step ended; clears them for the next ones. Call it once a step."""
        if not self.any_resetting:
            return _NO_ENDS
        ended = self.resetting
        lengths = self.steps - self._began[ended]
        ends = EpisodeEnds(np.flatnonzero(ended).tolist(), self._returns[ended].tolist(), lengths.tolist())
        self._returns[ended] = 0.0
        return ends

    def under_way(self, least: int) -> EpisodeEnds:
        """Statistics of the episodes that go on and have at least so many steps; call it after `episode_ends`."""
        lengths = np.where(self.resetting, 0, self.steps - self._began)
        lanes = np.flatnonzero(lengths >= least)
        return EpisodeEnds(lanes.tolist(), self._returns[lanes].tolist(), lengths[lanes].tolist())

    def overruled(self, scores: NDArray[np.float32]) -> int:
        """In how many lanes the shield forbids the best action by these scores float32 [lanes, actions] of now."""
        return 0 if self._masks is None else self._masks.overruled(scores)

    def close(self) -> None:
        """Releases the environments, whatever one of them raises."""
        with closing(f"environment {self.name!r}"):
            self.vector.close()

    def _stepped(self, actions: NDArray[np.int64]) -> tuple[LaneStep, NDArray[np.bool_]]:
        """What the vector's step returned, and in which lanes it ended the episode; its faults are in `found`."""
        if self._first_action:
            actions = actions + self._first_action
        elif self._outward is not None:
            actions = self._outward(actions)
        place = signs_of_life.enter(signs_of_life.STEPPING)
        place[1] = signs_of_life.ALL_LANES
        batch, reward, terminated, truncated, info = self.vector.step(actions)
        place[0] = signs_of_life.NO_CALL
        reward, terminated, truncated = np.asarray(reward), np.asarray(terminated), np.asarray(truncated)
        if (
            not reward.shape == terminated.shape == truncated.shape == self.none.shape
            or reward.dtype.kind not in "fiub"
            or not terminated.dtype == truncated.dtype == _BOOL
        ):
            from pipeline.environments.lanes.wrappers import checked_outcomes

            terminated, truncated = checked_outcomes(reward, terminated, truncated, self.lanes)
        reward = reward if reward.dtype == _FLOAT else reward.astype(_FLOAT)
        ended = terminated | truncated
        if self.info_numbers is not None:
            self.ended_infos = self.info_numbers.of_ended(self.vector, info, ended)
        if "life_lost" in info:
            terminated = terminated | info["life_lost"]
        if self.vector_faults:
            self.found.update(self.vector_faults.items())
        observation = self._read(batch)
        self._refuse_infinite(observation, reward)
        return LaneStep(
            observation, self._mask(batch, info, ended, self.resetting), reward, terminated, truncated
        ), ended

    def begin(
        self, seeds: Sequence[int], lanes: Sequence[int] | None = None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
        """Begins episodes in all lanes, or makes some anew: the observations of all lanes and the masks of those."""
        vector: Any = self.vector
        began = np.ones(self.lanes, np.bool_)
        if lanes is not None:
            batch, info = vector.renew(lanes, seeds)
            began[:] = False
            began[list(lanes)] = True
        else:
            own_loop = isinstance(vector, (SyncVectorEnv, AsyncVectorEnv))
            with signs_of_life.in_call(signs_of_life.RESETTING):
                batch, info = vector.reset(seed=list(seeds) if own_loop else seeds[0])
        self.found.update(self.vector_faults.items())
        observation = self._read(batch)
        self._refuse_infinite(observation, np.zeros(self.lanes, np.float32))
        return observation, self._mask(batch, info, ~began, began)

    def _read(self, batch: Any) -> dict[str, NDArray[Any]]:
        """What the lanes observe, by leaf name; what agents cannot hold of it is in `found`."""
        observation = {leaf: read(batch, self.found, self.name) for leaf, read in self._readers.items()}
        for values in observation.values():
            if len(values) != self.lanes:
                raise ValueError(f"observations of {len(values)} lanes, there are {self.lanes}")
        return observation

    def _refuse_infinite(self, observation: dict[str, NDArray[Any]], reward: NDArray[np.float32]) -> None:
        """Enters each lane whose reward or observation is not finite into `found`."""
        # A sum of squares is finite only if all its terms are: one pass without a temporary mask in the usual case.
        total = np.vdot(reward, reward)
        for leaf in self._floats:
            values = observation[leaf]
            total += np.vdot(values, values) if values.size <= _SMALL else np.add.reduce(values, axis=None)
        if not math.isfinite(total):
            from pipeline.environments.lanes.faults import infinite

            floats = {f"observation {leaf}".strip(): observation[leaf] for leaf in self._floats}
            for lane, what in infinite({"reward": reward, **floats}).items():
                self.found.setdefault(lane, what)

    def _mask(
        self, batch: Any, info: dict[str, Any], ended: NDArray[np.bool_], began: NDArray[np.bool_]
    ) -> NDArray[np.bool_] | None:
        """The environment's own masks; see `Masks.given_by`."""
        if not self._gives_masks:
            if "action_mask" not in info:
                return None
            if not self._masks_fit:
                raise MasksIgnored(
                    f"environment {self.name!r}, step {self.steps}: it gives info['action_mask'], and this run would "
                    "ignore it, as neither its first reset nor its first step gave one: give one at every step"
                )
            self._gives_masks = True
        if self._masks is None:
            from pipeline.environments.lanes.masks import Masks

            self._masks = Masks(self, None)
        return self._masks.given_by(batch, info, ended, began)
