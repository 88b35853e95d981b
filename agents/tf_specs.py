"""TF-Agents' tensor specs of an environment, without batch dimensions; apart from `specs`, which has no TensorFlow."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as time_steps

from agents.specs import ArraySpec, Specs


def time_step(specs: Specs) -> Any:
    """Makes the spec of a `TimeStep`; a masked environment's observation is a pair of observation and mask."""
    mask = tensor_spec.BoundedTensorSpec((specs.num_actions,), tf.bool, False, True)
    return time_steps.time_step_spec((observation(specs), mask) if specs.masked else observation(specs))


def action(specs: Specs) -> tensor_spec.BoundedTensorSpec:
    """Makes the spec of an action, int64 [], or [D] of one of several dimensions."""
    largest = np.asarray(specs.action_sizes or specs.num_actions, np.int64) - 1
    return tensor_spec.BoundedTensorSpec(specs.action_shape, tf.int64, np.zeros_like(largest), largest)


def observation(specs: Specs) -> Any:
    """Makes the spec of the observation, without its mask."""
    return specs.pack({name: _tensor_spec(spec) for name, spec in specs.leaves().items()})


def _tensor_spec(spec: ArraySpec) -> tensor_spec.TensorSpec:
    if spec.dtype == "float32":
        return tensor_spec.TensorSpec(spec.shape, tf.float32)
    of_all = spec.dtype == "uint8"
    if len(spec.maximum) != (wanted := 1 if of_all else math.prod(spec.shape)):
        raise ValueError(f"{spec} has to have {wanted} largest value(s) as its maximum")
    largest = np.asarray(spec.maximum[0] if of_all else spec.maximum, spec.dtype).reshape(() if of_all else spec.shape)
    return tensor_spec.BoundedTensorSpec(spec.shape, tf.as_dtype(spec.dtype), np.zeros_like(largest), largest)
