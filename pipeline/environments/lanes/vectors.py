"""Lanes of environments with gymnasium's interface: registered, or of a class of one's own."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gymnasium
import msgspec
from gymnasium.envs.registration import EnvSpec

from pipeline.environments.lanes.contract import ContractCheck
from pipeline.environments.lanes.custom import adapted, imported
from pipeline.environments.lanes.serial import SerialVectorEnv
from pipeline.environments.lanes.skipping import FrameSkip
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime.process import die_with_parent

_Options = TypeVar("_Options")
Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Wrapper[Any, Any, Any, Any]]


def gymnasium_vector(
    config: EnvironmentConfig, lanes: int, suite_wrappers: Sequence[Wrap] = (), *, render: bool = False
) -> Any:
    """Lanes of a registered environment or of a class, vectorised as the config says.

    Args:
      config: the environment.
      lanes: stepped in lockstep.
      suite_wrappers: put around each lane, the innermost first.
      render: whether they are to draw.

    Raises:
      UsageError: it does not exist, or its settings contradict each other.
      NotRendered: it does not draw.
    """
    spec = _spec(config)
    if render:
        from pipeline.environments.lanes.rendering import ask_for_pictures

        ask_for_pictures(spec, config.import_path.partition(":")[2] or config.id)
    skip, limit = config.frame_skip or 1, config.max_episode_steps or None
    mode = config.vectorization
    if mode == "auto":  # one lane has nothing to vectorise: stepping the environment itself costs a third
        own = spec.vector_entry_point is not None and (lanes > 1 or spec.entry_point is None)
        mode = "vector_entry_point" if own and skip == 1 and limit is None else "sync"
    if mode == "vector_entry_point":
        if skip > 1 or limit:
            raise UsageError(
                f"environment {spec.id!r} vectorises itself, where frames are not skipped nor episodes cut: set "
                "environment.vectorization='sync', or frame_skip=0 and max_episode_steps=0"
            )
        return gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode)
    if limit:
        spec.max_episode_steps = limit
    wrappers: list[Wrap] = [*suite_wrappers, *([functools.partial(FrameSkip, frames=skip)] if skip > 1 else [])]
    if mode == "async":
        wrappers += [ContractCheck, _ending_with_collector]
        return gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode, wrappers=wrappers)

    def make_one() -> gymnasium.Env[Any, Any]:
        environment: gymnasium.Env[Any, Any] = gymnasium.make(spec)
        for wrap in wrappers:
            environment = wrap(environment)
        return environment

    return SerialVectorEnv([make_one] * lanes)


def _ending_with_collector(environment: Any) -> Any:
    """Has the worker's process, in which this runs, end with the one that started it, however that ends."""
    die_with_parent()
    return environment


def _spec(config: EnvironmentConfig) -> EnvSpec:
    if config.import_path:
        found = imported(config.import_path, "environment.import_path")
        if attribute := config.import_path.partition(":")[2]:
            return EnvSpec(f"{attribute}-v0", entry_point=adapted(found), kwargs=dict(config.kwargs))
    try:
        spec = copy.deepcopy(gymnasium.spec(config.id))  # the registry's own must not get our arguments
    except gymnasium.error.Error as error:
        raise UsageError(f"no environment {config.id!r}: {one_line(str(error))}") from None
    spec.kwargs = {**spec.kwargs, **config.kwargs}
    return spec


def options_of(config: EnvironmentConfig, kind: type[_Options], task: str) -> _Options:
    """`environment.kwargs` as the options of a suite.

    Args:
      config: the environment.
      kind: the struct that they make.
      task: what has them, for the message.

    Raises:
      UsageError: there is no such option, or it has another type.
    """
    try:
        return msgspec.convert(config.kwargs, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"environment.kwargs of {task}: {error}") from None


def one_line(text: str) -> str:
    """A message without its line breaks."""
    return " ".join(text.split())
