"""Environments of one's own, by import path or registration: which interface each has, and who adapts it."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agents import extensions
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

Entry = Callable[..., Any]


def spec_of_class(config: EnvironmentConfig) -> EnvSpec | None:
    """What makes the class that a configuration's `import_path` names; None where it names a module alone.

    Imports the module, in either case.

    Raises:
      UsageError: there is none, or the path names no class.
    """
    attribute = config.import_path.partition(":")[2]
    if attribute and not all(name.isidentifier() for name in attribute.split(".")):
        raise UsageError(
            f"environment.import_path={config.import_path!r} names no class: an id is written "
            f"environment.id={config.import_path!r}"
        )
    found = imported(config.import_path, "environment.import_path")
    if not attribute:
        return None
    entry_point = adapted(found, attribute, not config.mask_key)
    return EnvSpec(f"{attribute}-v0", entry_point=entry_point, kwargs=dict(config.kwargs))


def adapted(entry_point: Entry, name: str, splits: bool = True) -> Callable[..., gymnasium.Env[Any, Any]]:
    """A function that makes the environment that `entry_point` makes, with gymnasium's interface.

    Args:
      entry_point: a class or function that returns an environment of any interface that `as_gymnasium` knows.
      name: of the environment, for messages.
      splits: see `as_gymnasium`.

    Raises:
      UsageError: it makes nothing.
    """
    if not callable(entry_point):
        raise UsageError(
            f"environment {name!r} is an object of class {type(entry_point).__name__}: each lane makes its own, so "
            "name a class, or a function that returns an environment"
        )

    def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        return as_gymnasium(entry_point(**kwargs), name, splits)

    metadata = getattr(entry_point, "metadata", None)
    if isinstance(metadata, dict) and "render_modes" in metadata:
        make.__dict__["metadata"] = metadata  # gymnasium reads the class's before it makes one
    return make


def as_gymnasium(environment: Any, name: str, splits: bool = True) -> gymnasium.Env[Any, Any]:
    """An environment with gymnasium's interface: itself, or in an adapter.

    Args:
      environment: with the interface of gymnasium, gym (any version), dm_env, TF-Agents, or PettingZoo with one agent.
      name: its, for messages.
      splits: whether a part of a Dict that is a mask by the interface's convention is taken out of it, into info.

    Raises:
      UsageError: it has another interface; says which, and what to do.
    """
    kind = type(environment)
    if isinstance(environment, gymnasium.vector.VectorEnv) or _has(environment, "num_envs", "step_async"):
        raise UsageError(
            f"environment {name!r} ({kind.__name__}) is several in one, a vector environment: give what makes one of "
            "them, or register it with gymnasium's vector_entry_point"
        )
    if isinstance(environment, gymnasium.Env):
        return _checked(environment, name)
    if _has(environment, "observation_spec", "action_spec"):
        from pipeline.environments.interfaces.time_steps import TimeSteps

        return TimeSteps(environment, name, splits)
    if hasattr(environment, "possible_agents") or _has(environment, "observe", "agents"):
        from pipeline.environments.interfaces.one_agent import OneAgent

        return OneAgent(environment, name, splits)
    if _has(environment, "reset", "step"):
        from pipeline.environments.interfaces.tuples import OtherClass

        return OtherClass(environment, name)
    missing = " nor ".join(f"{method}()" for method in ("reset", "step") if not hasattr(environment, method))
    raise UsageError(
        f"environment {name!r} is no environment: {kind.__module__}.{kind.__qualname__} has no {missing}; give a "
        "gymnasium.Env, or a class of gym, dm_env, TF-Agents (PyEnvironment) or PettingZoo (one agent)"
    )


def of_gym(environment_id: str) -> Entry | None:
    """A function that makes an environment that is registered with gym, the package before gymnasium; None if none is.

    gym is not imported here: whoever registers with it has done so.
    """
    import sys

    gym: Any = sys.modules.get("gym")
    try:
        if gym is None or gym.spec(environment_id) is None:
            return None
    except Exception:  # gym's own errors, another class in each of its versions
        return None
    make: Entry = functools.partial(gym.make, environment_id)
    return make


def _checked(environment: gymnasium.Env[Any, Any], name: str) -> gymnasium.Env[Any, Any]:
    """A `gymnasium.Env` whose calls are held against gymnasium's form; its wrappers stay around it."""
    from pipeline.environments.interfaces.tuples import Converted, MethodMasks

    if isinstance(environment, gymnasium.Wrapper):
        innermost = environment
        while isinstance(innermost.env, gymnasium.Wrapper):
            innermost = innermost.env
        innermost.env = Converted(innermost.env, name)
    else:
        environment = Converted(environment, name)
    method = next((method for method in ("action_masks", "action_mask") if environment.has_wrapper_attr(method)), "")
    if method and callable(environment.get_wrapper_attr(method)):
        return MethodMasks(environment, method)
    return environment


def _has(environment: Any, *names: str) -> bool:
    return all(hasattr(environment, name) for name in names)


def imported(import_path: str, field: str) -> Any:
    """The module at `module`, or what it has at `module:name`.

    Args:
      import_path: of either form.
      field: of the configuration that has it, for the message.

    Raises:
      UsageError: there is none, or it is not trusted.
    """
    label = f"{field}={import_path!r}"
    try:
        extensions.refuse_distrusted(import_path, label)
        return extensions.imported(import_path, label)
    except ValueError as error:
        if isinstance(error.__cause__, UsageError):  # the module has begun a run, say
            raise error.__cause__ from None
        raise UsageError(str(error)) from None
