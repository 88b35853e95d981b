"""Mixed precision: products in bfloat16, everything that is kept in float32 (Micikevicius et al. 2018)."""

from collections.abc import Callable

import tensorflow as tf

from agents.builder import LearningAgent


def in_bfloat16(make: Callable[[], LearningAgent]) -> LearningAgent:
    """Makes an agent whose layers multiply in bfloat16.

    Their weights, gradients and optimizer are float32. A bfloat16's exponent has as many bits as a float32's, so that
    no loss needs to be scaled. Layers of Keras' own follow; those whose precision matters, or which hardly multiply
    (heads, normalisation, noise, recurrence, the embedding of fractions), say float32 themselves.
    """
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        return make()
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def idle(agent: LearningAgent) -> str:
    """Why an agent made by `in_bfloat16` is of no use, as the end of a sentence; empty where it is."""
    layers = [each for each in agent.acting_model.submodules if isinstance(each, tf.keras.layers.Layer)]
    if not any(each.weights and each.compute_dtype == "bfloat16" for each in layers if not hasattr(each, "layers")):
        return (
            "has no effect: all layers of this network are of forms that multiply in float32 (noisy, of an ensemble, "
            "with a spectral norm); set 'float32'"
        )
    if (output := agent.acting_model.output.dtype) != tf.float32:
        return f"makes this kind's network give {output.name}, and scores are float32: give its last layer that dtype"
    return ""
