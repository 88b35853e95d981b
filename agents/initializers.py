"""Keras initializers of a network's weights, all fixed by one seed. Torsos of a user's own take them, too."""

import numpy as np
import tensorflow as tf


class Seeds:
    """Makes an initializer with a seed of its own for each layer, so that one seed fixes every initial weight."""

    def __init__(self, seed: int) -> None:
        self._sequence = np.random.SeedSequence(seed)

    def _next(self) -> int:
        (child,) = self._sequence.spawn(1)
        return int(child.generate_state(1)[0])

    def he_uniform(self) -> tf.keras.initializers.Initializer:
        """For layers with an activation (He et al. 2015)."""
        return tf.keras.initializers.HeUniform(seed=self._next())

    def fan_in_uniform(self, n: int) -> tf.keras.initializers.Initializer:
        """Uniform within 1/sqrt(n), as noisy layers of n inputs start (Fortunato et al. 2018, 3.2)."""
        return tf.keras.initializers.RandomUniform(-(n**-0.5), n**-0.5, seed=self._next())

    def glorot_uniform(self) -> tf.keras.initializers.Initializer:
        """For an LSTM's inputs (Glorot and Bengio 2010)."""
        return tf.keras.initializers.GlorotUniform(seed=self._next())

    def orthogonal(self) -> tf.keras.initializers.Initializer:
        """For an LSTM's recurrence (Saxe et al. 2014)."""
        return tf.keras.initializers.Orthogonal(seed=self._next())

    def lecun_uniform(self) -> tf.keras.initializers.Initializer:
        """For linear layers (LeCun et al. 1998)."""
        return tf.keras.initializers.LecunUniform(seed=self._next())

    def nearly_zero(self) -> tf.keras.initializers.Initializer:
        """A hundredth of Lecun's: a policy begins nearly uniform (Andrychowicz et al. 2021, 3.2)."""
        return tf.keras.initializers.VarianceScaling(1e-4, "fan_in", "uniform", seed=self._next())

    def unit_normal(self) -> tf.keras.initializers.Initializer:
        """For a vector that only its direction matters of."""
        return tf.keras.initializers.RandomNormal(0.0, 1.0, seed=self._next())
