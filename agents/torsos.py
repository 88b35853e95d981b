"""Turns images into features: the convolutions in front of a network's dense layers."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from agents.initializers import Seeds
from agents.pictures import Picture

if TYPE_CHECKING:
    from agents.configs.network import NetworkConfig

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


class Convolutions:
    """Makes the convolutions of one network in order, each with initial weights of its own seed.

    Args:
      seeds: of the initial weights.
      config: activation, width, and the forms of the layers.
    """

    def __init__(self, seeds: Seeds, config: "NetworkConfig") -> None:
        self._seeds, self._config = seeds, config

    def __call__(
        self, image: tf.Tensor, filters: int, kernel: int, stride: int = 1, padding: str = "same"
    ) -> tf.Tensor:
        """Makes a convolution and its activation: float32 [B, height, width, filters * torso_width]."""
        return self.activated(self.linear(image, filters, kernel, stride, padding))

    def linear(
        self,
        image: tf.Tensor,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: str = "same",
        *,
        in_block: bool = False,
    ) -> tf.Tensor:
        """Makes a convolution without an activation; `in_block` says that it is a part of a residual block."""
        filters *= self._config.torso_width
        if self._config.spectral_norm in ("all", "residual" if in_block else "all"):
            from agents.layers.spectral_norm import SpectralConv2D

            layer = SpectralConv2D(
                self._seeds, "linear", filters=filters, kernel_size=kernel, strides=stride, padding=padding
            )
        else:
            initial = self._seeds.he_uniform()
            layer = tf.keras.layers.Conv2D(filters, kernel, stride, padding, kernel_initializer=initial)
        return layer(image)

    def activated(self, image: tf.Tensor) -> tf.Tensor:
        """Makes an activation, normalised before if so configured."""
        if self._config.layer_norm:
            from agents.layers.layer_norm import LayerNorm

            image = LayerNorm()(image)
        return tf.keras.layers.Activation(self._config.activation)(image)


def nature(image: tf.Tensor, convolution: Convolutions) -> tf.Tensor:
    """Applies the convolutions of Mnih et al. 2015 (Methods, Model architecture); images below 36 pixels are padded.

    Args:
      image: float32 [B, height, width, channels].
      convolution: makes each of the convolutions.

    Returns:
      float32 [B, height, width, channels] of other sizes, as of every torso.
    """
    padding = "valid" if min(image.shape[1:3]) >= _NATURE_LEAST else "same"
    for filters, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        image = convolution(image, filters, kernel, stride, padding)
    return image


def impala(image: tf.Tensor, convolution: Convolutions) -> tf.Tensor:
    """Applies the residual network of Espeholt et al. 2018 (figure 3, right). See `nature`."""
    for filters in (16, 32, 32):
        image = convolution.linear(image, filters, 3)
        image = tf.keras.layers.MaxPool2D(3, 2, padding="same")(image)
        for _ in range(2):
            inner = convolution.linear(convolution.activated(image), filters, 3, in_block=True)
            outer = convolution.linear(convolution.activated(inner), filters, 3, in_block=True)
            image = tf.keras.layers.Add()([image, outer])
    return convolution.activated(image)


def minatar(image: tf.Tensor, convolution: Convolutions) -> tf.Tensor:
    """Applies the one convolution of Young and Tian 2019 (section 3). See `nature`."""
    return convolution(image, 16, 3, padding="valid")


TORSOS: Mapping[str, Callable[[tf.Tensor, Convolutions], tf.Tensor]] = {
    "nature": nature,
    "impala": impala,
    "minatar": minatar,
}
Torso = Callable[[tf.Tensor, Seeds, str], tf.Tensor]
"""A torso of a user's own: float32 [B, ...], the seeds of its initial weights and the activation to features."""


def imported(name: str) -> Torso:
    """The torso of the user's own that is at `module:function`, or registered by a name.

    Raises:
      ValueError: there is none. What is returned raises it where the torso does, or makes no tensor.
    """
    from agents.extensions import blamed, found

    torso: Any = found("torsos", name)

    def called(leaf: tf.Tensor, seeds: Seeds, activation: str) -> tf.Tensor:
        with blamed(f"agent.torso={name!r}"):
            features = torso(leaf, seeds, activation)
        if not isinstance(features, type(leaf)):
            raise ValueError(
                f"agent.torso={name!r} made an object of type {type(features).__name__}: a torso makes features of the "
                "tensor that it is given"
            )
        return features

    return called
