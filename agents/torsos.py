"""Turns images into features: the convolutions in front of a network's dense layers."""

import importlib
from collections.abc import Callable, Mapping

import tensorflow as tf

from agents.initializers import Seeds
from agents.specs import Picture

_NATURE_LEAST = 36
"""Pixels of the smallest side for which Nature's convolutions need no padding."""


def arranged(image: tf.Tensor, picture: Picture) -> tf.Tensor:
    """Arranges images float32 [B, ...], of any order of axes, as [B, height, width, channels]."""
    if picture.split != image.shape[1:]:
        image = tf.keras.layers.Reshape(picture.split)(image)
    if picture.order != tuple(range(len(picture.order))):
        image = tf.keras.layers.Permute([axis + 1 for axis in picture.order])(image)
    if picture.shape != image.shape[1:]:
        image = tf.keras.layers.Reshape(picture.shape)(image)
    return image


def nature(image: tf.Tensor, seeds: Seeds, activation: str) -> tf.Tensor:
    """Applies the convolutions of Mnih et al. 2015 (Methods, Model architecture); images below 36 pixels are padded.

    Args:
      image: float32 [B, height, width, channels].
      seeds: of the initial weights.
      activation: behind each convolution.

    Returns:
      float32 [B, height, width, channels] of other sizes, as of every torso.
    """
    padding = "valid" if min(image.shape[1:3]) >= _NATURE_LEAST else "same"
    for filters, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        image = _convolution(image, filters, kernel, seeds, activation, stride, padding)
    return image


def impala(image: tf.Tensor, seeds: Seeds, activation: str) -> tf.Tensor:
    """Applies the residual network of Espeholt et al. 2018 (figure 3, right) in its original width. See `nature`."""
    for filters in (16, 32, 32):
        image = _convolution(image, filters, 3, seeds, None)
        image = tf.keras.layers.MaxPool2D(3, 2, padding="same")(image)
        for _ in range(2):
            inner = tf.keras.layers.Activation(activation)(image)
            inner = _convolution(inner, filters, 3, seeds, activation)
            image += _convolution(inner, filters, 3, seeds, None)
    return tf.keras.layers.Activation(activation)(image)


def minatar(image: tf.Tensor, seeds: Seeds, activation: str) -> tf.Tensor:
    """Applies the one convolution of Young and Tian 2019 (section 3). See `nature`."""
    return _convolution(image, 16, 3, seeds, activation, padding="valid")


Torso = Callable[[tf.Tensor, Seeds, str], tf.Tensor]
TORSOS: Mapping[str, Torso] = {"nature": nature, "impala": impala, "minatar": minatar}


def imported(import_path: str) -> Torso:
    """Imports a torso of the user's own, given as `module:function`.

    Raises:
      ImportError: there is none.
    """
    module, _, name = import_path.partition(":")
    try:
        torso: Torso = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(f"agent.torso={import_path!r} cannot be imported: {error}") from None
    return torso


def _convolution(
    image: tf.Tensor,
    filters: int,
    kernel: int,
    seeds: Seeds,
    activation: str | None,
    stride: int = 1,
    padding: str = "same",
) -> tf.Tensor:
    initial = seeds.he_uniform()
    return tf.keras.layers.Conv2D(filters, kernel, stride, padding, activation=activation, kernel_initializer=initial)(
        image
    )
