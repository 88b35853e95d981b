"""What a field of the configuration names by its import path."""

import importlib
from typing import Any

from pipeline.experiment.config import UsageError


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
