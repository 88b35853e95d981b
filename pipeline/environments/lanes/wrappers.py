"""Wrappers of one lane's environment: frame skip, observations held against their space, an end with the collector;
and lanes that observe their previous step.

Imported where the config asks for one of them, or an observation looks unusual.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents import Specs
from agents.dimensions import allows
from pipeline.environments.interfaces.action_spaces import inward, sizes_of
from pipeline.environments.lanes.lane_environment import LaneEnvironment, LaneStep
from pipeline.environments.lanes.spaces import (
    EXACT,
    KINDS,
    Misfit,
    first_action,
    harmless_dtypes,
    leaves_of,
    of_vectors,
    path_of,
    specs_of,
)
from pipeline.experiment.config import UsageError
from pipeline.runtime.process import die_with_parent

if TYPE_CHECKING:
    from pipeline.environments.lanes.masks import MaskReader


log = logging.getLogger(__name__)

_SHOWN = 80
"""Characters of a value in a message."""


class FrameSkip(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action and adds up the rewards; an end within, or a mask that forbids the action, cuts it short.

    Gymnasium's own wrapper for it, MaxAndSkipObservation, merges the last two observations: right for the flicker of an
    Atari, wrong for a speed or a price.

    Args:
      env: one lane's.
      frames: that an action is taken for.
      mask_key: see `environment.mask_key`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], frames: int, mask_key: str = "") -> None:
        super().__init__(env)
        self._frames = frames
        self._masks = LaneMasks(env, mask_key)
        if rate := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": rate / frames}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes the action for as many frames as it is allowed in; observation and info are the last one's.

        Raises:
          Misfit: what a frame returned cannot be a mask or a reward.
        """
        total = 0.0
        for frame in range(self._frames):
            observation, reward, terminated, truncated, info = self.env.step(action)
            reward, terminated, truncated = checked_outcome(reward, terminated, truncated)
            total += reward
            if terminated or truncated or frame + 1 == self._frames:
                break
            mask = self._masks.read(observation, info)
            if mask is not None and not self._masks.allow(mask, action):
                break
        return observation, total, terminated, truncated, info


ACTION, REWARD = "previous_action", "previous_reward"
"""Names of what `ObservingPreviousStep` adds to an observation."""


class ObservingPreviousStep(LaneEnvironment):
    """Lanes that also observe the action and the reward of the step before (Kapturowski et al. 2019, section 2.3).

    They are parts of each observation, beside those of a Dict, else beside a part `observation`: the action counted
    from 1, as a category (of several dimensions each), and the reward as the environment gave it, float32. Both are 0
    where an episode begins. A shield sees them, too. For arguments see `LaneEnvironment`.

    Raises:
      UsageError: a part of the observation has one of their names.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        observed, actions = self.observation_space, self.vector.single_action_space
        is_dict = isinstance(observed, spaces.Dict)
        parts = dict(observed.spaces) if isinstance(observed, spaces.Dict) else {"observation": observed}
        if taken := {ACTION, REWARD} & set(parts):
            raise UsageError(
                f"environment {self.name!r} observes {min(taken)!r} by itself: set environment.previous_step=false"
            )
        own = [name for name, _, _ in leaves_of(observed)]
        self._names = {name: name if is_dict else path_of("observation", name).strip("/") for name in own}
        sizes = self.specs.action_sizes
        parts[ACTION] = (
            spaces.MultiDiscrete(np.array(sizes) + 1) if sizes else spaces.Discrete(self.specs.num_actions + 1)
        )
        parts[REWARD] = spaces.Box(-np.inf, np.inf, (), np.float32)
        self.observation_space = spaces.Dict(parts)
        self.specs = specs_of(self.observation_space, actions, masked=False)
        self._action = np.zeros((self.lanes, *self.specs.action_shape), np.int32)
        self._reward = np.zeros(self.lanes, np.float32)

    def begin(
        self, seeds: Sequence[int], lanes: Sequence[int] | None = None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]:
        """See `LaneEnvironment.begin`."""
        observation, mask = super().begin(seeds, lanes)
        begun = slice(None) if lanes is None else list(lanes)
        self._action[begun], self._reward[begun] = 0, 0.0
        return self._with_previous(observation), mask

    def _stepped(self, actions: NDArray[np.int64]) -> tuple[LaneStep, NDArray[np.bool_]]:
        step, ended = super()._stepped(actions)
        resets = self.resetting if actions.ndim == 1 else self.resetting[:, np.newaxis]
        self._action = np.where(resets, 0, actions + 1).astype(np.int32)
        self._reward = np.where(self.resetting, np.float32(0.0), step.reward)
        return step._replace(observation=self._with_previous(step.observation)), ended

    def _with_previous(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        own = {self._names[name]: leaf for name, leaf in observation.items()}
        return {**own, ACTION: self._action, REWARD: self._reward}


def without_previous_step(specs: Specs) -> Specs:
    """The specs of what the environment itself observes, of those with its previous step."""
    own = {name: leaf for name, leaf in specs.leaves().items() if name not in (ACTION, REWARD)}
    return specs._replace(observation=own)


class LaneMasks:
    """The masks that one lane's environment gives.

    Args:
      env: the lane's.
      mask_key: see `environment.mask_key`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], mask_key: str = "") -> None:
        self._key, self._given = mask_key, False
        self._reader: MaskReader | None = None
        self._space: Any = env.action_space
        self._get: Any = None
        self._observed = env.observation_space
        self._sizes = () if isinstance(self._space, spaces.Discrete) else sizes_of(self._space)
        self._count = sum(self._sizes) if self._sizes else int(self._space.n)

    def allow(self, mask: NDArray[np.bool_], action: Any) -> bool:
        """Whether a mask bool [actions] allows an action as the environment takes it."""
        if not self._sizes:
            return bool(mask[int(action) - first_action(self._space)])
        return bool(allows(mask[np.newaxis], inward(self._space, action)[np.newaxis], self._sizes)[0])

    def read(self, observation: Any, info: Any) -> NDArray[np.bool_] | None:
        """What one step allows, bool [actions]; None where the environment masks nothing.

        Raises:
          Misfit: it cannot be a mask, or is missing where the last step gave one.
        """
        row = checked_info(info).get("action_mask") if not self._key else self._part(observation)
        if row is None:
            if self._given:
                raise Misfit("info['action_mask'] is missing, and was given before")
            return None
        self._given = True
        if self._reader is None:
            from pipeline.environments.lanes.masks import SOURCE, MaskReader

            source = f"observation {self._key}" if self._key else SOURCE
            self._reader = MaskReader(self._count, 1, source, of_vectors(self._space, "flat_mask"))
        mask, wrong = self._reader.read([row], np.zeros(1, np.int64))
        if wrong:
            raise Misfit(wrong[0])
        allowed: NDArray[np.bool_] = mask[0]
        return allowed

    def _part(self, observation: Any) -> Any:
        if self._get is None:
            from pipeline.environments.lanes.masks import mask_part

            self._get = mask_part(self._observed, self._key, self._count).get
        return self._get(observation)


class ContractCheck(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises Misfit where a worker's environment returns what is not of its space, or no number, flag or mask.

    Shared memory and gymnasium's arrays of infos would silently repeat or cast it. Masks become bool, as those arrays
    take the first lane's dtype for all. Of the infos nothing else is passed on, but for that of an episode's end: what
    it has of plain values, as `ended_info`, in a tuple that no array of infos takes apart.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._masks: LaneMasks | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._checked(observation), self._mask(info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        outcome = checked_outcome(reward, terminated, truncated)
        passed_on = self._mask(info)
        if terminated or truncated:
            passed_on["ended_info"] = (plain_values(info),)
        return self._checked(observation), *outcome, passed_on

    def _checked(self, observation: Any) -> Any:
        if wrong := misfit(self.observation_space, observation):
            raise Misfit(wrong)
        return observation

    def _mask(self, info: Any) -> dict[str, Any]:
        if checked_info(info).get("action_mask") is None:
            return {}
        self._masks = self._masks or LaneMasks(self.env)
        return {"action_mask": self._masks.read(None, info)}


def plain_values(info: Mapping[str, Any]) -> dict[str, Any]:
    """What an info, or its part `episode`, has of numbers, text and arrays of one element."""
    found: dict[str, Any] = {}
    for key, value in info.items():
        if key == "episode" and isinstance(value, Mapping):
            found[key] = plain_values(value)
        elif isinstance(value, (bool, int, float, str, np.generic)) or (
            isinstance(value, np.ndarray) and value.size == 1
        ):
            found[key] = value
    return found


class Copies(list[Any]):
    """The lanes' observations in gymnasium's own loop, which reads them late, when lanes may have shared one."""

    def __setitem__(self, lane: Any, observation: Any) -> None:
        super().__setitem__(lane, copy.deepcopy(observation))


def misfit(space: spaces.Space[Any], observation: Any) -> str | None:
    """What is wrong with one observation of a space: its parts, shape, dtype or values; None if it can be taken.

    Numbers of another size of the same kind are taken, integers as floats too, where the space's dtype holds them;
    floats as integers are not. Values are not compared with the space's bounds.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in parts:
            try:
                value = observation[key]
            except (KeyError, IndexError, TypeError) as error:
                return f"the observation lacks {key!r} ({error!r})"
            if wrong := misfit(part, value):
                return f"{key}: {wrong}"
        return None
    values = np.asarray(observation)
    if values.shape != space.shape:
        return f"an observation of shape {values.shape} in a space of {space.shape}"
    if space.dtype is None or values.dtype.kind not in KINDS[space.dtype.kind]:
        return f"an observation of dtype {values.dtype} in a space of {space.dtype}"
    if values.dtype.kind in "iu" and values.dtype.char not in harmless_dtypes(space):
        least, most = (
            (-EXACT, EXACT) if space.dtype.kind == "f" else (np.iinfo(space.dtype).min, np.iinfo(space.dtype).max)
        )
        wrong_ones = values[(values < least) | (values > most)]
        if wrong_ones.size:
            return f"{wrong_ones.flat[0]} does not fit into {space.dtype}"
    return None


def checked_outcome(reward: Any, terminated: Any, truncated: Any) -> tuple[float, bool, bool]:
    """What one lane's step earned and whether it ended the episode, as plain values.

    Raises:
      Misfit: one is not what its name says.
    """
    return _number(reward), _flag("terminated", terminated), _flag("truncated", truncated)


def checked_outcomes(
    reward: NDArray[Any], terminated: NDArray[Any], truncated: NDArray[Any], lanes: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Flags of all lanes, bool [lanes], of a vector environment that gives them otherwise.

    Raises:
      Misfit: they or the rewards are not what their names say.
    """
    for name, array, kinds in (
        ("rewards", reward, "fiub"),
        ("terminated", terminated, "biu"),
        ("truncated", truncated, "biu"),
    ):
        if array.shape != (lanes,) or array.dtype.kind not in kinds:
            raise Misfit(f"{name} of dtype {array.dtype} and shape {array.shape}, there are {lanes} lanes")
    for name, array in (("terminated", terminated), ("truncated", truncated)):
        if np.count_nonzero((array != 0) & (array != 1)):
            raise Misfit(f"{name} is {_shown(array)}: true or false is wanted")
    return terminated.astype(np.bool_), truncated.astype(np.bool_)


def checked_info(info: Any) -> Mapping[str, Any]:
    """A lane's info.

    Raises:
      Misfit: it is no dict.
    """
    if not isinstance(info, Mapping):
        raise Misfit(f"the info is {_shown(info)}: a dict is wanted")
    return info


def _number(reward: Any) -> float:
    array = np.asarray(reward)
    if array.size == 1 and (array.dtype.kind in "fiub" or hasattr(array.item(), "__float__")):
        return float(array.item())
    raise Misfit(f"the reward is {_shown(reward)}: a number is wanted")


def _flag(name: str, flag: Any) -> bool:
    array = np.asarray(flag)
    if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
        return bool(array.item())
    raise Misfit(f"{name} is {_shown(flag)}: true or false is wanted")


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def warn_of_bounds(environment: str, part: str, space: spaces.Space[Any], values: NDArray[Any]) -> None:
    """Says that an environment does not keep to the bounds that it declares; what is observed stays as it is."""
    with np.errstate(invalid="ignore"):
        least, most = np.min(values), np.max(values)
    what = f"observation {part!r}" if part else "the observation"
    log.warning(
        "environment %r: %s has values from %g to %g, beyond the bounds of its space, %s; they are taken as they are",
        environment,
        what,
        least,
        most,
        space,
    )


def ending_with_collector(environment: Any) -> Any:
    """Has the worker's process, in which this runs, end with the one that started it, however that ends."""
    die_with_parent()
    return environment
