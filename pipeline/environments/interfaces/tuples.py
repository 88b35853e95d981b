"""Environments whose reset() and step() return tuples: gymnasium's, gym's of any version, and what lies between.

Before 0.26, gym's reset() returned an observation and its step() four values, `done` among them. Classes that were
converted by half do one of both. What a class does is seen at its first reset and its first step.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from pipeline.experiment.config import UsageError

log = logging.getLogger(__name__)

_KEYWORDS = ("seed", "options", "return_info")
_STEP = 5
_OLD_STEP = 4
_said: set[str] = set()


def say_once(sentence: str) -> None:
    """Logs a warning about an environment; once in a process, however many lanes there are of it."""
    if sentence not in _said:
        _said.add(sentence)
        log.warning("%s", sentence)


class _Calls:
    """reset() and step() of an environment, whatever form they have, in gymnasium's."""

    def __init__(self, environment: Any, name: str) -> None:
        self.environment, self.name = environment, name
        self._keywords = self._taken()
        self.usual = 0
        """Calls that had gymnasium's form: 1 a reset, 2 a step, 3 both."""

    def refusal(self, words: str) -> UsageError:
        """What to raise about this environment."""
        return UsageError(f"environment {self.name!r} ({type(self.environment).__name__}): {words}")

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        given = {"seed": seed, "options": options, "return_info": True}
        if "seed" not in self._keywords and seed is not None:
            self._seed(seed)
        while True:
            try:
                result = self.environment.reset(**{name: given[name] for name in self._keywords})
                break
            except TypeError as error:  # reset(**kwargs) that hands on what its own environment does not take
                refused = [name for name in self._keywords if f"unexpected keyword argument '{name}'" in str(error)]
                if not refused:
                    raise
                self._keywords = tuple(name for name in self._keywords if name not in refused)
                if "seed" in refused and seed is not None:
                    self._seed(seed)
        space = getattr(self.environment, "observation_space", None)
        if result is None:
            raise self.refusal("reset() returned nothing: return observation, info")
        if not _is_pair(result, space):
            say_once(
                f"environment {self.name!r} has gym's interface of before 0.26: reset() returns the observation alone; "
                "it is taken as such"
            )
            return result, {}
        observation, info = result
        if "return_info" not in self._keywords and set(self._keywords) == {"seed", "options"} and info is not None:
            self.usual |= 1
        return observation, info if info is not None else {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes an action."""
        result = self.environment.step(action)
        count = len(result) if isinstance(result, (tuple, list)) else 0
        if count == _STEP:
            observation, reward, terminated, truncated, info = result
            if isinstance(reward, Mapping):
                raise self.refusal(
                    "step() returns a reward for each of several agents: wrap it in a gymnasium.Env of one agent that "
                    "plays for the others"
                )
            if isinstance(info, Mapping):
                self.usual |= 2
                return observation, reward, terminated, truncated, dict(info)
            if info is None:
                return observation, reward, terminated, truncated, {}
            raise self.refusal(f"step() returns {type(info).__name__} for info: return a dict, such as {{}}")
        if count == _OLD_STEP:
            observation, reward, done, info = result
            say_once(
                f"environment {self.name!r} has gym's interface of before 0.26: step() returns 4 values; an episode's "
                "end is taken as terminal unless info['TimeLimit.truncated'] is true (return terminated and truncated "
                "apart to tell a time limit)"
            )
            info = dict(info or {})
            truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
            return observation, reward, bool(done) and not truncated, truncated, info
        what = f"{count} values" if count else "nothing" if result is None else type(result).__name__
        raise self.refusal(f"step() returns {what}: return observation, reward, terminated, truncated, info")

    def _taken(self) -> tuple[str, ...]:
        """Which of `_KEYWORDS` reset() takes, and every wrapper of another package inside it."""
        environment, taken = self.environment, set(_KEYWORDS)
        taken_by_name = False
        while True:
            try:
                parameters = inspect.signature(environment.reset).parameters.values()
            except (TypeError, ValueError):  # of C
                parameters = ()  # type: ignore[assignment]
            names = {parameter.name for parameter in parameters}
            taken_by_name |= "return_info" in names
            if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
                taken &= names
            needed = [
                parameter.name
                for parameter in parameters
                if parameter.default is parameter.empty
                and parameter.kind
                in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
                and parameter.name not in _KEYWORDS
            ]
            if needed:
                raise self.refusal(f"reset() wants {needed[0]!r}: it is called as reset(seed=..., options=...)")
            inner = getattr(environment, "env", None)
            if isinstance(environment, gymnasium.Env) or not hasattr(inner, "reset") or inner is environment:
                break
            environment = inner
        if not taken_by_name:
            taken.discard("return_info")
        return tuple(name for name in _KEYWORDS if name in taken)

    def _seed(self, seed: int) -> None:
        """Seeds an environment whose reset() takes no seed."""
        if callable(own := getattr(self.environment, "seed", None)):
            own(seed)
            return
        if isinstance(self.environment, gymnasium.Env):  # its `np_random`, where it uses that
            gymnasium.Env.reset(self.environment, seed=seed)
        say_once(
            f"environment {self.name!r}: reset() takes no seed, so its episodes cannot be repeated (take seed=None, "
            "and call super().reset(seed=seed))"
        )


def _is_pair(result: Any, space: Any) -> bool:
    """Whether a reset returned observation and info, and not an observation that is a tuple itself."""
    if not isinstance(result, tuple) or len(result) != 2:
        return False
    if not isinstance(result[1], Mapping) and result[1] is not None:
        return False
    return not (isinstance(space, spaces.Tuple) and len(space.spaces) == 2 and space.contains(result))


def _space_of(calls: _Calls, field: str) -> spaces.Space[Any]:
    """The environment's observation or action space, as gymnasium's; some have it only once they were reset."""
    for is_last in (False, True):
        space = getattr(calls.environment, field, None)
        if space is not None and not callable(space):
            return converted(space, calls, field)
        if not is_last:
            calls.reset(0, None)
    raise calls.refusal(f"it has no {field}: set self.{field} in its __init__() to one of gymnasium.spaces")


def converted(space: Any, calls: _Calls, field: str) -> spaces.Space[Any]:
    """A space of gymnasium's from one of gym's, which have the same names and fields."""
    if isinstance(space, spaces.Space):
        return space
    kinds = {kind.__name__ for kind in type(space).__mro__}
    if "Box" in kinds:
        return spaces.Box(space.low, space.high, space.shape, space.dtype.type)
    if "Discrete" in kinds:
        return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    if "MultiDiscrete" in kinds:
        return spaces.MultiDiscrete(space.nvec)
    if "MultiBinary" in kinds:
        return spaces.MultiBinary(space.n)
    if "Dict" in kinds:
        return spaces.Dict({key: converted(part, calls, field) for key, part in space.spaces.items()})
    if "Tuple" in kinds:
        return spaces.Tuple([converted(part, calls, field) for part in space.spaces])
    raise calls.refusal(f"its {field} is {space!r}, which is no space: set it to one of gymnasium.spaces")


class Converted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A `gymnasium.Env` whose calls may have another form than gymnasium's; of one in order it costs nothing."""

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._calls = _Calls(env, name)
        for field in ("observation_space", "action_space"):
            if not isinstance(getattr(env, field, None), spaces.Space):
                setattr(self, field, _space_of(self._calls, field))

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's own: gymnasium is not to know of this wrapper."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; the environment's own method from the first on that has gymnasium's form."""
        result = self._calls.reset(seed, options)
        if self._calls.usual & 1:
            self.reset = self.env.reset  # type: ignore[method-assign]
        return result

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes an action; the environment's own method from the first on that has gymnasium's form."""
        result = self._calls.step(action)
        if self._calls.usual & 2:
            self.step = self.env.step  # type: ignore[method-assign]
        return result


class OtherClass(gymnasium.Env[Any, Any]):
    """An environment with gym's interface, of whatever version, that is no `gymnasium.Env`."""

    def __init__(self, environment: Any, name: str) -> None:
        self._calls = _Calls(environment, name)
        metadata = getattr(environment, "metadata", None)
        self.metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
        self.metadata.setdefault("render_modes", self.metadata.pop("render.modes", []))
        self.render_mode = getattr(environment, "render_mode", None)
        self.observation_space = _space_of(self._calls, "observation_space")
        self.action_space = _space_of(self._calls, "action_space")
        masks = getattr(environment, "action_masks", None)
        self._masks = masks if callable(masks) else None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._calls.environment, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, info = self._calls.reset(seed, options)
        return observation, info if self._masks is None else with_mask(info, self._masks)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes an action."""
        observation, reward, terminated, truncated, info = self._calls.step(action)
        if self._masks is not None and not terminated:
            info = with_mask(info, self._masks)
        return observation, reward, bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """The environment's own picture."""
        return self._calls.environment.render()

    def close(self) -> None:
        """Releases the environment."""
        if hasattr(self._calls.environment, "close"):
            self._calls.environment.close()


class MethodMasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts into info what an environment's method says of its actions, as sb3-contrib's `action_masks()` does."""

    def __init__(self, env: gymnasium.Env[Any, Any], method: str) -> None:
        super().__init__(env)
        self._masks = env.get_wrapper_attr(method)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The environment's own: gymnasium is not to know of this wrapper."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, with_mask(info, self._masks)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info if terminated else with_mask(info, self._masks)


def with_mask(info: dict[str, Any], masks: Any) -> dict[str, Any]:
    """An info with the action mask that a method returns, unless it has one."""
    return info if "action_mask" in info else {**info, "action_mask": masks()}
