"""A filmstrip: pictures of an episode at even distances, as one small image. Pure functions and a selection."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.environments.lanes.rendering import Picture

PICTURES = 8
MOST_BYTES = 200_000
_MOST_HEIGHT, _MOST_WIDTH = 160, 480
"""Of one picture."""
_WIDE = 2.0
"""Width over height of pictures that are put below each other."""
_GAP = 4
_CAPTION = 16
_BACKGROUND, _TEXT = (24, 27, 32), (200, 204, 209)


class EvenlySpaced:
    """Pictures at even distances in an episode, between its first and its last.

    Args:
      expected: its length in steps; if it is longer, the distances are doubled until it fits.
    """

    def __init__(self, expected: int) -> None:
        self._stride = max(1, expected // (PICTURES - 1))
        self._kept: list[tuple[int, Picture, str]] = []

    def wants(self, step: int) -> bool:
        """Whether there should be a picture of this step."""
        return step % self._stride == 0

    def add(self, step: int, image: Picture, caption: str) -> None:
        """Keeps a picture; one of step 0 begins anew."""
        if step == 0:
            self._kept.clear()
        if len(self._kept) > 2 * PICTURES:
            self._stride *= 2
            self._kept = [kept for kept in self._kept if self.wants(kept[0])]
        self._kept.append((step, image, caption))

    def pictures(self) -> tuple[list[Picture], list[str]]:
        """At most `PICTURES`, and their captions."""
        steps = np.array([step for step, *_ in self._kept])
        wanted = np.linspace(0, steps[-1], PICTURES)
        nearest = sorted({int(np.abs(steps - step).argmin()) for step in wanted})
        return [self._kept[index][1] for index in nearest], [self._kept[index][2] for index in nearest]


def joined(pictures: Sequence[Picture], captions: Sequence[str]) -> Image.Image:
    """Pictures reduced or enlarged to one height, side by side with their captions; wide ones below each other."""
    scenes = [_scaled(Image.fromarray(pixels)) for pixels in pictures]
    is_wide = scenes[0].width > _WIDE * scenes[0].height
    font = ImageFont.load_default(11)
    cell_width = max(*(scene.width for scene in scenes), *(round(font.getlength(text)) for text in captions)) + _GAP
    cell_height = max(scene.height for scene in scenes) + _CAPTION
    columns, rows = (1, len(scenes)) if is_wide else (len(scenes), 1)
    image = Image.new("RGB", (columns * cell_width, rows * cell_height), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    for index, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        left, top = (0, index * cell_height) if is_wide else (index * cell_width, 0)
        image.paste(scene, (left, top))
        draw.text((left + 2, top + cell_height - _CAPTION + 1), caption, _TEXT, font)
    return image


def _scaled(image: Image.Image) -> Image.Image:
    factor = min(_MOST_HEIGHT / image.height, _MOST_WIDTH / image.width)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR)


def encoded(image: Image.Image, most_bytes: int = MOST_BYTES) -> tuple[bytes, tuple[int, int]]:
    """An image as PNG, halved until it fits into so many bytes; and its width and height."""
    while True:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        if buffer.tell() <= most_bytes:
            return buffer.getvalue(), image.size
        image = image.reduce(2)
