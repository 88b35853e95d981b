"""What suites have in common: a module of an optional package, and `environment.kwargs` as its options."""

import importlib
from types import ModuleType
from typing import TypeVar

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime import installation

_Options = TypeVar("_Options")


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
        return msgspec.convert(config.kwargs, prepared(kind))
    except msgspec.ValidationError as error:
        raise UsageError(f"environment.kwargs of {task}: {error}") from None


def module_of(name: str, extra: str) -> ModuleType | None:
    """Imports a suite's module; None if it has none.

    Raises:
      UsageError: its package is not installed; says how to.
    """
    if not name:
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pipeline"):
            raise
        raise UsageError(f"{error.name} is not installed: {how_to_install(extra)}") from None


def how_to_install(extra: str) -> str:
    """The command that installs a suite by its extra, in a sentence."""
    return f"install its extra by {installation.how_to_install(extra)}"
