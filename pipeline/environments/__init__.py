"""Environments: one factory for gymnasium's, those of optional suites, and classes of one's own."""

import copy
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agents import Specs
from pipeline.config import UsageError
from pipeline.environments import suites
from pipeline.environments.custom import adapted
from pipeline.environments.lanes import EnvironmentFault, LaneEnvironment, LaneStep
from pipeline.environments.serial import SerialVectorEnv
from pipeline.environments.shield import load as load_shield
from pipeline.environments.skipping import FrameSkip
from pipeline.environments.spaces import specs_of
from pipeline.sections import EnvironmentConfig

__all__ = ["EnvironmentFault", "LaneEnvironment", "LaneStep", "describe", "gymnasium_vector", "make"]

Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Wrapper[Any, Any, Any, Any]]


def make(config: EnvironmentConfig, lanes: int) -> LaneEnvironment:
    """Makes `lanes` environments stepped in lockstep.

    Raises:
      UsageError: it does not exist, is not installed, or its spaces or settings are not supported.
    """
    shield = load_shield(config.shield) if config.shield else None
    suite = None if ":" in config.import_path else suites.suite_of(config.id)
    try:
        module = suites.prepare(suite) if suite else None
        own_vector: Callable[[EnvironmentConfig, int], Any] | None = getattr(module, "vector", None)
        if config.engine == "envpool":
            vector = importlib.import_module("pipeline.environments.envpool").vector(config, lanes)
        elif own_vector is not None:
            vector = own_vector(config, lanes)
        else:
            vector = gymnasium_vector(config, lanes)
    except UsageError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        how = suites.how_to_install(suite) if suite else str(error)
        raise UsageError(f"environment {config.id!r} is not installed: {_one_line(how)}") from None
    except Exception as error:  # whatever its constructor makes of environment.kwargs
        name = config.id or config.import_path
        reason = _one_line(str(error))
        raise UsageError(f"environment {name!r} cannot be made: {type(error).__name__}: {reason}") from None
    return LaneEnvironment(vector, config.import_path.partition(":")[2] or config.id, shield)


def describe(config: EnvironmentConfig) -> Specs:
    """The environment's interface, from one reset of one lane; its observations are single ones, not stacks.

    Raises:
      UsageError: as `make`.
      EnvironmentFault: its first observation is not finite, or its shield or mask allows no action there.
    """
    environment = make(config, 1)
    try:
        masked = environment.reset(seed=0).mask is not None
    finally:
        environment.close()
    return specs_of(environment.vector.single_observation_space, environment.vector.single_action_space, masked)


def gymnasium_vector(config: EnvironmentConfig, lanes: int, suite_wrappers: Sequence[Wrap] = ()) -> Any:
    """Lanes of a registered environment or of a class, vectorised as the config says.

    Args:
      config: the environment.
      lanes: stepped in lockstep.
      suite_wrappers: put around each lane, the innermost first.

    Raises:
      UsageError: it does not exist, or its settings contradict each other.
    """
    spec = _spec(config)
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
        return gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode, wrappers=wrappers)

    def make_one() -> gymnasium.Env[Any, Any]:
        environment: gymnasium.Env[Any, Any] = gymnasium.make(spec)
        for wrap in wrappers:
            environment = wrap(environment)
        return environment

    return SerialVectorEnv([make_one] * lanes)


def _spec(config: EnvironmentConfig) -> EnvSpec:
    module_name, _, attribute = config.import_path.partition(":")
    if config.import_path:
        try:
            module = importlib.import_module(module_name)
        except (ImportError, TypeError, ValueError) as error:
            raise UsageError(f"environment.import_path={config.import_path!r} cannot be imported: {error}") from None
        if attribute:
            entry_point: Any = getattr(module, attribute, None)
            if entry_point is None:
                raise UsageError(f"module {module_name!r} has no {attribute!r} (environment.import_path)")
            return EnvSpec(f"{attribute}-v0", entry_point=adapted(entry_point), kwargs=dict(config.kwargs))
    try:
        spec = copy.deepcopy(gymnasium.spec(config.id))  # the registry's own must not get our arguments
    except gymnasium.error.Error as error:
        raise UsageError(f"no environment {config.id!r}: {_one_line(str(error))}") from None
    spec.kwargs = {**spec.kwargs, **config.kwargs}
    return spec


def _one_line(text: str) -> str:
    return " ".join(text.split())
