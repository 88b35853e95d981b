"""Reads the specs of a TF-Agents environment, as `Specs.from_tf_agents` gives them. No TensorFlow of its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.specs import ArraySpec, Observation, Specs


def specs_of(time_step_spec: Any, action_spec: Any) -> Specs:
    """Makes the specs of a TF-Agents environment.

    Args:
      time_step_spec: `tf_env.time_step_spec()`; its observation is one bounded array spec or a flat dict of them.
      action_spec: `tf_env.action_spec()`, a scalar integer from 0 or a vector of them.

    Raises:
      ValueError: the actions are not integers from 0, or an observation's dtype is not supported.
    """
    if not _is_choice(action_spec):
        raise ValueError(f"actions must be one integer from 0, or a vector, with a largest one; got {action_spec}")
    observation = time_step_spec.observation
    if isinstance(observation, Mapping) and observation:
        packed: Observation = {name: _array_spec(spec) for name, spec in observation.items()}
    else:
        packed = _array_spec(observation)
    sizes = tuple((np.broadcast_to(action_spec.maximum, action_spec.shape).astype(np.int64) + 1).ravel().tolist())
    return Specs(packed, sum(sizes), action_sizes=sizes if len(action_spec.shape) else ())


def _is_choice(spec: Any) -> bool:
    bounded = hasattr(spec, "minimum") and hasattr(spec, "maximum")
    return (
        bounded
        and len(spec.shape) <= 1
        and 0 not in tuple(spec.shape)
        and spec.dtype.is_integer
        and not np.any(spec.minimum)
    )


def _array_spec(spec: Any) -> ArraySpec:
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        shape, dtype = tuple(spec.shape), spec.dtype.as_numpy_dtype
        if dtype == np.float32:
            return ArraySpec(shape, "float32")
        if hasattr(spec, "maximum") and dtype == np.uint8:
            return ArraySpec(shape, "uint8", (int(np.max(spec.maximum)),))
        if hasattr(spec, "maximum") and dtype in (np.int32, np.int64) and not np.any(spec.minimum):
            largest = np.broadcast_to(spec.maximum, shape).ravel().tolist()
            if max(largest, default=0) < np.iinfo(np.int32).max:
                return ArraySpec(shape, np.dtype(dtype).name, tuple(largest))
    raise ValueError(
        "observations must be float32, or uint8, int32 or int64 with bounds from 0 (integers are categories, at most "
        f"{np.iinfo(np.int32).max:,} each), one array or a flat dict of them; got {spec}"
    )
