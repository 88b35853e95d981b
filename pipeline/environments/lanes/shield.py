"""Shields: functions that forbid actions by what is observed, named by their import path.

A shield takes a batch of observations, [lanes, ...] (a dict of arrays by leaf name where the observation has parts), of
single frames as the environment gives them, and returns bool [lanes, actions], true where an action is allowed. Of
every observation it must leave an action. What it forbids is never sent to the environment: it joins
`info["action_mask"]`, which collecting, evaluating and learning obey.

A shield whose array operations are those of `namespace(observation)` can become part of an exported model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.environments.interfaces.custom import imported
from pipeline.experiment.config import UsageError

Array = Any
"""Of NumPy or, in an exported model, a tensor."""
Shield = Callable[[Any], NDArray[np.bool_]]


def load(import_path: str) -> Shield:
    """The function at `module:function`.

    Raises:
      UsageError: there is none.
    """
    if ":" not in import_path:
        raise UsageError(f"environment.shield={import_path!r} names no function: write module:function")
    shield: Any = imported(import_path, "environment.shield")
    if not callable(shield):
        raise UsageError(f"environment.shield={import_path!r} is no function but {type(shield).__name__}")
    checked: Shield = shield
    return checked


def namespace(array: Array) -> Any:
    """The module whose functions take this array: NumPy or, of a TensorFlow tensor, `tf.experimental.numpy`."""
    if isinstance(array, np.ndarray):
        return np
    import tensorflow as tf  # whose tensor it is

    return tf.experimental.numpy
