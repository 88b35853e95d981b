"""Shields: functions that forbid actions by what is observed, named by their import path.

A shield takes a batch of observations, [lanes, ...] (a dict of arrays by leaf name where the observation has parts), of
single frames as the environment gives them, and returns bool [lanes, actions], true where an action is allowed. Of
every observation it must leave an action. What it forbids is never sent to the environment: it joins
`info["action_mask"]`, which collecting, evaluating and learning obey.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import UsageError

Shield = Callable[[Any], NDArray[np.bool_]]


def load(import_path: str) -> Shield:
    """The function at `module:function`.

    Raises:
      UsageError: there is none.
    """
    module_name, separator, name = import_path.partition(":")
    if not separator:
        raise UsageError(f"environment.shield={import_path!r} names no function: write module:function")
    try:
        shield: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"environment.shield={import_path!r} cannot be imported: {error}") from None
    if not callable(shield):
        raise UsageError(f"environment.shield={import_path!r} is no function but {type(shield).__name__}")
    checked: Shield = shield
    return checked
