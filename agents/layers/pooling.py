"""Pooling of images to a fixed number of cells, before dense layers."""

from collections.abc import Sequence

import tensorflow as tf


def pooled(image: tf.Tensor, kind: str, cells: int) -> tf.Tensor:
    """Pools an image to at most so many cells a side: float32 [B, cells, cells, channels].

    Cell i of n over h pixels covers those from floor(i h / n) to ceil((i + 1) h / n), as PyTorch's adaptive pooling
    does, which BTR has before its dense layers (Clark et al. 2025).

    Args:
      image: float32 [B, height, width, channels]; a side of fewer pixels stays as it is.
      kind: "max" or "average".
      cells: of a side.
    """
    reduce = tf.reduce_max if kind == "max" else tf.reduce_mean
    for axis in (1, 2):
        size = image.shape[axis]
        if size <= cells:
            continue
        parts: Sequence[tf.Tensor] = [
            reduce(_between(image, axis, i * size // cells, -(-(i + 1) * size // cells)), axis=axis)
            for i in range(cells)
        ]
        image = tf.stack(parts, axis=axis)
    return image


def _between(image: tf.Tensor, axis: int, start: int, stop: int) -> tf.Tensor:
    return image[:, start:stop] if axis == 1 else image[:, :, start:stop]
