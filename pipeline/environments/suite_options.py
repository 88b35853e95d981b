"""`environment.kwargs` as the options of a suite whose environments are made here."""

from typing import TypeVar

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

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
