"""Observations at random, of an environment's specifications: what checks and tests train on."""

from typing import Any

import numpy as np
import tensorflow as tf

from agents.specs import ArraySpec, Specs


def observations(specs: Specs, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    """Random observations [*shape, ...] of an environment; of a masked one with masks that allow some action."""

    def draw(spec: ArraySpec) -> tf.Tensor:
        if spec.dtype == "float32":
            return tf.constant(random.normal(size=(*shape, *spec.shape)), tf.float32)
        largest: Any = np.broadcast_to(spec.maximum, spec.shape) if spec.dtype == "uint8" else spec.maximum
        return tf.constant(
            random.integers(0, np.reshape(largest, spec.shape) + 1, (*shape, *spec.shape)),
            tf.dtypes.as_dtype(spec.dtype),
        )

    observation = specs.pack({name: draw(spec) for name, spec in specs.leaves().items()})
    if not specs.masked:
        return observation
    mask = random.random((*shape, specs.num_actions)) < 0.7
    mask[..., 0] |= ~mask.any(axis=-1)
    return observation, tf.constant(mask)
