"""Environments: one factory for gymnasium ids, registered modules and classes of one's own."""

import copy
import functools
import importlib
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agents import Specs
from pipeline.config import UsageError
from pipeline.environments.lanes import EnvironmentFault, LaneEnvironment, LaneStep
from pipeline.environments.serial import SerialVectorEnv
from pipeline.environments.spaces import specs_of
from pipeline.sections import EnvironmentConfig

__all__ = ["EnvironmentFault", "LaneEnvironment", "LaneStep", "describe", "make"]

EXTRAS = {"ALE": "atari", "MinAtar": "minatar", "LunarLander": "box2d", "BipedalWalker": "box2d", "CarRacing": "box2d"}
"""Optional dependencies of the project by the start of the environment ids that need them."""


def make(config: EnvironmentConfig, lanes: int) -> LaneEnvironment:
    """Makes `lanes` environments stepped in lockstep.

    Raises:
      UsageError: it does not exist, is not installed, or its spaces are not supported.
    """
    spec = _spec(config)
    mode = config.vectorization
    if mode == "auto":  # one lane has nothing to vectorise: stepping the environment itself costs a third
        own = spec.vector_entry_point is not None and (lanes > 1 or spec.entry_point is None)
        mode = "vector_entry_point" if own else "sync"
    try:
        if mode == "sync":
            vector: Any = SerialVectorEnv([functools.partial(gymnasium.make, spec)] * lanes)
        else:
            vector = gymnasium.make_vec(spec, num_envs=lanes, vectorization_mode=mode)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"environment {spec.id!r} is not installed: {_how_to_install(spec.id, str(error))}") from None
    except Exception as error:  # whatever its constructor makes of environment.kwargs
        reason = str(error).replace("\n", " ")
        raise UsageError(f"environment {spec.id!r} cannot be made: {type(error).__name__}: {reason}") from None
    return LaneEnvironment(vector, spec.id)


def describe(config: EnvironmentConfig) -> Specs:
    """The environment's interface, from one reset of one lane.

    Raises:
      UsageError: as `make`.
      EnvironmentFault: its first observation is not finite.
    """
    environment = make(config, 1)
    try:
        masked = environment.reset(seed=0).mask is not None
    finally:
        environment.close()
    return specs_of(environment.vector.single_observation_space, environment.vector.single_action_space, masked)


def _spec(config: EnvironmentConfig) -> EnvSpec:
    module_name, _, class_name = config.import_path.partition(":")
    if config.import_path:
        try:
            module = importlib.import_module(module_name)
        except (ImportError, TypeError, ValueError) as error:
            raise UsageError(f"environment.import_path={config.import_path!r} cannot be imported: {error}") from None
        if class_name:
            entry_point: Any = getattr(module, class_name, None)
            if entry_point is None:
                raise UsageError(f"module {module_name!r} has no {class_name!r} (environment.import_path)")
            return EnvSpec(f"{class_name}-v0", entry_point=entry_point, kwargs=dict(config.kwargs))
    try:
        spec = copy.deepcopy(gymnasium.spec(config.id))  # the registry's own must not get our arguments
    except gymnasium.error.Error as error:
        raise UsageError(f"no environment {config.id!r}: {_how_to_install(config.id, str(error))}") from None
    spec.kwargs = {**spec.kwargs, **config.kwargs}
    return spec


def _how_to_install(environment_id: str, reason: str) -> str:
    for start, extra in EXTRAS.items():
        if environment_id.startswith(start):
            return f"install its extra with `.venv/bin/pip install -e '.[{extra}]'`"
    return reason.replace("\n", " ").strip()
