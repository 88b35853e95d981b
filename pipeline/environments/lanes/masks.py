"""Which actions lanes allow: by the environment's own masks, and by a shield beside them.

Imported for environments that mask actions, might, or are shielded.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.dimensions import allows, usable
from agents.exploration import greedy
from pipeline.environments.lanes.contract import ForbiddenAction, ShieldFault
from pipeline.environments.lanes.lane_environment import LaneEnvironment, LaneStep
from pipeline.environments.lanes.shield import Shield
from pipeline.environments.lanes.spaces import LIKE_MASK, Getter, leaves_of, of_vectors
from pipeline.experiment.config import UsageError

SOURCE = "info['action_mask']"
_COUNTED, _ADDED = 1, 2


class MaskReader:
    """Makes bool masks of what environments give: bool, 0 and 1, or 0 and -inf as added to logits.

    Zeros alone forbid everything as 0 and 1 and nothing as 0 and -inf. What a lane has given before decides; before
    that, floats are taken for what is added to logits.

    Args:
      actions: of the environment.
      lanes: that give masks.
      source: of the masks, for messages.
      flat: makes one row of a lane's mask, of actions of several dimensions; see `action_spaces.flat_mask`.
    """

    def __init__(
        self, actions: int, lanes: int, source: str = SOURCE, flat: Callable[[Any], NDArray[Any]] | None = None
    ) -> None:
        self._actions, self.source, self._flat = actions, source, flat
        self._forms = np.zeros(lanes, np.int8)

    def read(self, rows: Any, lanes: NDArray[np.int64]) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Masks of lanes, bool [n, actions], and what is wrong with them by lane.

        Args:
          rows: what each lane gave: an array [n, actions] or a sequence.
          lanes: int64 [n], which.
        """
        if self._flat is not None and not (isinstance(rows, np.ndarray) and rows.shape[1:] == (self._actions,)):
            rows = [self._flat(row) for row in rows]
        if not isinstance(rows, np.ndarray) or rows.dtype == np.object_:
            arrays = [np.asarray(row) for row in rows]
            if len({(array.dtype, array.shape) for array in arrays}) > 1:
                each = [self.read(array[np.newaxis], lanes[i : i + 1]) for i, array in enumerate(arrays)]
                return np.concatenate([mask for mask, _ in each]), {k: v for _, wrong in each for k, v in wrong.items()}
            rows = np.stack(arrays)
        if rows.shape[1:] != (self._actions,):
            wrong = f"{self.source} has shape {rows.shape[1:]}, there are {self._actions} actions"
            return np.ones((len(lanes), self._actions), np.bool_), dict.fromkeys(lanes.tolist(), wrong)
        if rows.dtype == np.bool_:
            return rows.copy(), {}
        if rows.dtype.kind not in "fiu":
            wrong = f"{self.source} has dtype {rows.dtype}: give bool, true where an action is allowed"
            return np.ones(rows.shape, np.bool_), dict.fromkeys(lanes.tolist(), wrong)
        zero, one, minus = rows == 0, rows == 1, rows == -np.inf
        counted, added = one.any(axis=1), minus.any(axis=1)
        forms = self._forms[lanes]
        other = (
            ~(zero | one | minus).all(axis=1) | (counted & (added | (forms == _ADDED))) | (added & (forms == _COUNTED))
        )
        is_added = added | ((forms == _ADDED) if rows.dtype.kind != "f" else (forms != _COUNTED) & ~counted)
        self._forms[lanes[counted & ~other]], self._forms[lanes[added & ~other]] = _COUNTED, _ADDED
        mask = np.where(is_added[:, np.newaxis], zero, one)
        if not np.count_nonzero(other):
            return mask, {}
        mask[other] = True
        return mask, {
            int(lanes[i]): f"{self.source} is {rows[i].tolist()}: give bool, or 0 and 1, or 0 and -inf, always alike"
            for i in np.flatnonzero(other).tolist()
        }


class Masks:
    """The newest masks of a lane environment.

    Args:
      lanes: of which they are.
      shield: forbids actions beside the environment's own masks; see `pipeline.environments.lanes.shield`.
      part: takes them from a batch of observations; None where they are in the info alone.
      key: name of that part.
    """

    def __init__(
        self, lanes: LaneEnvironment, shield: Shield | None, part: Getter | None = None, key: str = ""
    ) -> None:
        self._lanes, self._shield, self._part = lanes, shield, part
        actions, self._sizes = lanes.specs.num_actions, lanes.specs.action_sizes
        flat = of_vectors(lanes.vector.single_action_space, "flat_mask")
        self._of_info = MaskReader(actions, lanes.lanes, flat=flat)
        self._of_part = MaskReader(actions, lanes.lanes, f"observation {key}", flat)
        self._at_resets = False  # whether a reset has given one
        self._given: NDArray[np.bool_] | None = None  # the newest masks: the environment's own, and with the shield
        self._allowed: NDArray[np.bool_] | None = None
        self._shielded: NDArray[np.bool_] | None = None  # what the shield itself allows
        self._all_lanes = np.arange(lanes.lanes)

    def given_by(
        self, batch: Any, info: dict[str, Any], ended: NDArray[np.bool_], began: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The environment's masks [lanes, actions]; each lane whose own is missing or of no use is a fault.

        Args:
          batch: of observations.
          info: of the same.
          ended: bool [lanes], whose episode is over: they may lack a mask.
          began: bool [lanes], whose episode has begun: they may lack one if no reset has given any.
        """
        lanes, found = self._lanes, self._lanes.found
        mask = np.ones((lanes.lanes, lanes.specs.num_actions), np.bool_)
        wrong: dict[int, str] = {}
        if self._part is not None:
            rows = np.asarray(self._part(batch))
            mask, wrong = self._of_part.read(rows, self._all_lanes)
        if self._part is None or "action_mask" in info:
            given = self._given_in(info)
            which = np.flatnonzero(given)
            if len(which):
                rows = info["action_mask"]
                every = len(which) == lanes.lanes
                read, more = self._of_info.read(rows if every else [rows[lane] for lane in which], which)
                mask[which] &= read
                wrong |= more
            self._at_resets = self._at_resets or bool(np.count_nonzero(given & began))
            if self._part is None:
                missing = ~given & ~ended if self._at_resets else ~given & ~ended & ~began
                wrong |= dict.fromkeys(np.flatnonzero(missing).tolist(), f"{SOURCE} is missing, and was given before")
        for lane, what in wrong.items():
            found.setdefault(lane, what)
        unusable = ~usable(mask, self._sizes)
        if np.count_nonzero(unusable):
            source = self._of_info.source if self._part is None else self._of_part.source
            what = "nothing of some dimension of the action" if self._sizes else "no action"
            for lane in np.flatnonzero(unusable & ~ended).tolist():
                found.setdefault(lane, f"{source} allows {what}")
            mask[unusable] = True  # of ended ones: none is taken; a truncated one that has a mask is bootstrapped by it
        return mask

    def _given_in(self, info: dict[str, Any]) -> NDArray[np.bool_]:
        """bool [lanes], whether the info has a lane's mask."""
        if "action_mask" not in info:
            return self._lanes.none
        rows = info["action_mask"]
        if len(rows) != self._lanes.lanes:
            raise ValueError(f"{SOURCE} is of {len(rows)} lanes, there are {self._lanes.lanes}")
        given = info.get("_action_mask")
        if not isinstance(rows, np.ndarray) or rows.dtype == np.object_:
            given = np.array([row is not None for row in rows])
        return np.ones(len(rows), np.bool_) if given is None else np.asarray(given, np.bool_)

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
        forbidden = ~allows(self._allowed, actions, self._sizes) & ~self._lanes.resetting
        if np.count_nonzero(forbidden):
            lane = int(np.flatnonzero(forbidden)[0])
            raise ForbiddenAction(f"{self._where(1, lane)}: action {actions[lane]} is forbidden")

    def overruled(self, scores: NDArray[np.float32]) -> int:
        """See `LaneEnvironment.overruled`."""
        if self._shielded is None:
            return 0
        allowed = allows(self._shielded, greedy(scores, self._given, self._sizes), self._sizes)
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
        nothing = ~usable(both, self._sizes)
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


class MaskPart(NamedTuple):
    """The part of an observation that is a mask, and the rest."""

    get: Getter
    """Takes it from one observation or a batch."""
    rest: spaces.Dict
    """The space without it."""


def mask_part(observation: spaces.Space[Any], key: str, actions: int) -> MaskPart:
    """The part of an observation that `environment.mask_key` names.

    Raises:
      UsageError: there is none, it is no mask by its space, or nothing else is observed.
    """
    said = f"environment.mask_key={key!r}"
    leaves = {name: (space, get) for name, space, get in leaves_of(observation)}
    rest = _without(observation, key)
    if rest is None or key not in leaves:
        raise UsageError(f"{said} is no part of a Dict observation; there are {', '.join(map(repr, leaves))}")
    space, get = leaves[key]
    if space.shape != (actions,):
        raise UsageError(f"{said} is {space}: a mask has one number for each of the {actions} actions")
    if len(leaves) == 1:
        raise UsageError(f"{said} is all of the observation: a network has to observe something, too")
    return MaskPart(get, rest)


def _without(space: spaces.Space[Any], key: str) -> spaces.Dict | None:
    """The space without the part of that name; None where it has none."""
    if not isinstance(space, spaces.Dict):
        return None
    if key in space.spaces:
        return spaces.Dict({name: part for name, part in space.spaces.items() if name != key})
    for name, part in space.spaces.items():
        if key.startswith(f"{name}/") and (rest := _without(part, key[len(name) + 1 :])) is not None:
            return spaces.Dict({**space.spaces, name: rest})
    return None


def refuse_overlooked(name: str, observation: spaces.Space[Any], info: Mapping[str, Any], actions: int) -> None:
    """Looks for masks where nobody would obey them.

    Args:
      name: of the environment.
      observation: its space.
      info: that it has given.
      actions: how many there are.

    Raises:
      UsageError: there are; says how to give them.
    """
    for leaf, space, _ in leaves_of(observation):
        if LIKE_MASK.search(leaf) and space.shape == (actions,) and _is_binary(space):
            raise UsageError(
                f"environment {name!r} observes {leaf!r}, which looks like a mask of actions, and nobody would obey "
                f"it: set environment.mask_key={leaf!r} (or rename that part if it is none)"
            )
    for key, value in ((str(key), value) for key, value in info.items()):
        if LIKE_MASK.search(key) and not key.startswith("_") and _chooses(value, actions, "mask" not in key.lower()):
            raise UsageError(
                f"environment {name!r} gives info[{key!r}], which looks like a mask of actions, and nobody would obey "
                f"it: give it as {SOURCE}"
            )


def _chooses(value: Any, actions: int, by_number: bool) -> bool:
    """Whether a value is a mask, or numbers of actions where `by_number`; of one lane or of several."""
    try:
        row = np.asarray(value)
    except ValueError:  # rows of several lengths
        return False
    if row.dtype.kind not in "biuf" or row.ndim not in (1, 2) or not row.size:
        return False
    is_mask = row.shape[-1] == actions and bool(np.isin(row, (0, 1, -np.inf)).all())
    numbers = row.dtype.kind in "iu" and row.min() >= 0 and row.max() < actions and len(set(row.flat)) == row.size
    return is_mask or (by_number and bool(numbers))


def _is_binary(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Box):
        return bool(np.isin(space.low, (0, -np.inf)).all() and np.isin(space.high, (0, 1)).all())
    return isinstance(space, spaces.MultiBinary) or (
        isinstance(space, spaces.MultiDiscrete) and bool((space.nvec == 2).all())
    )
