"""Environments of one's own, by import path: gymnasium's interface, or dm_env's through an adapter."""

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium

from pipeline.environments.lanes.dm import DmEnvironment, is_dm_env
from pipeline.experiment.config import UsageError


def adapted(entry_point: Callable[..., Any]) -> Callable[..., gymnasium.Env[Any, Any]]:
    """A function that makes the environment that `entry_point` makes, with gymnasium's interface.

    Args:
      entry_point: a class or function that returns a `gymnasium.Env` or a `dm_env.Environment`.
    """

    def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        environment: Any = entry_point(**kwargs)
        made: gymnasium.Env[Any, Any] = DmEnvironment(environment) if is_dm_env(environment) else environment
        return made

    if isinstance(entry_point, type) and issubclass(entry_point, gymnasium.Env):
        return entry_point  # gymnasium reads the class's metadata before it makes one
    return make


def imported(import_path: str, field: str) -> Any:
    """The module at `module`, or what it has at `module:name`.

    Args:
      import_path: of either form.
      field: of the configuration that has it, for the message.

    Raises:
      UsageError: there is none.
    """
    module_name, _, name = import_path.partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name) if name else module
    except (ImportError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{field}={import_path!r} cannot be imported: {error}") from None
