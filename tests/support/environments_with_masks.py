"""Environments that give masks in every way there is, and refuse what they forbid; used by import path."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS = 3


def allowed(seed: int, step: int) -> Any:
    """What is allowed after so many steps of an episode: bool [3], one or more."""
    mask = np.random.default_rng([seed, step]).random(ACTIONS) < 0.5
    mask[(seed + step) % ACTIONS] = True
    return mask


def in_form(mask: Any, form: str) -> Any:
    """A mask as bool, 0 and 1 of some dtype, 0 and -inf of some dtype ("added ..."), or a list."""
    if form.startswith("added"):
        return np.where(mask, 0.0, -np.inf).astype(form.split()[1])
    return mask.tolist() if form == "list" else mask.astype(form)


class Choosy(gymnasium.Env[Any, Any]):
    """Raises at what its newest mask forbids; episodes of six steps, each with a seed that the first one gives.

    Args:
      form: see `in_form`.
      at: where masks are given: "all", "steps", "first resets" (not at later ones), "late" (from the fourth step on).
      where: "info", or the key of the part of the observation that the mask is.
      wrong: a mask given at the third step instead.
      shared: whether all lanes write their masks and observations into arrays of the class.
    """

    action_space = spaces.Discrete(ACTIONS)
    seen = np.zeros(2, np.float32)
    masks: ClassVar[dict[Any, Any]] = {}
    """By dtype; these arrays are of all lanes."""

    def __init__(
        self, form: str = "bool", at: str = "all", where: str = "info", wrong: Any = None, shared: bool = False
    ) -> None:
        self.form, self.at, self.where, self.wrong, self.shared = form, at, where, wrong, shared
        self.lane, self.taken, self.episode = 0, 0, -1
        seen = spaces.Box(-1e6, 1e6, (2,), np.float32)
        dtype: Any = np.dtype("int8" if form == "list" else form.split()[-1]).type
        mask = spaces.Box(0, 1, (ACTIONS,), dtype)
        if form.startswith("added"):
            mask = spaces.Box(-np.inf, 0, (ACTIONS,), dtype)
        self.observation_space: Any = spaces.Dict({"seen": seen} if where == "info" else {"seen": seen, where: mask})
        self.mask: Any = np.ones(ACTIONS, np.bool_)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.lane = self.lane if seed is None else seed % 1000
        self.episode, self.taken = self.episode + 1, 0
        given = self.at == "all" or (self.at == "first resets" and self.episode == 0)
        return self._returned(given)

    def step(self, action: Any) -> Any:
        if not self.mask[action]:
            raise ValueError(f"illegal move {action}")
        self.taken += 1
        observation, info = self._returned(self.at != "late" or self.taken > 3)
        return observation, 1.0, False, self.taken == 6, info

    def _returned(self, given: bool) -> Any:
        self.mask = allowed(self.lane, self.taken) if given else np.ones(ACTIONS, np.bool_)
        mask = in_form(self.mask, self.form)
        if self.wrong is not None and self.taken == 3:
            mask = self.wrong
        seen = np.array([self.lane, self.taken], np.float32)
        if self.shared:
            self.seen[:] = seen
            seen, array = self.seen, np.asarray(mask)
            mask = self.masks.setdefault(array.dtype, np.zeros(ACTIONS, array.dtype))
            mask[:] = array
        if self.where == "info":
            return {"seen": seen}, {"action_mask": mask} if given else {}
        return {"seen": seen, self.where: mask}, {}


class Elsewhere(Choosy):
    """Gives its masks in the info under another name."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self._name, self._value = name, value

    def _returned(self, given: bool) -> Any:
        observation, _ = super()._returned(given)
        return observation, {self._name: self._value}


def vector_of_choosy(num_envs: int, **kwargs: Any) -> Any:
    """`Choosy` as an environment that vectorises itself."""
    return gymnasium.vector.SyncVectorEnv([lambda: Choosy(**kwargs)] * num_envs)


gymnasium.register("ChoosyForTests-v0", entry_point=Choosy, vector_entry_point=vector_of_choosy)
