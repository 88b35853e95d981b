"""A picture of what a trader has seen and held: the newest closes, coloured by the position over each of them."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 600, 400
_MARGIN = 16
_TITLE = 34
_BACKGROUND, _GRID, _TEXT = (250, 250, 248), (228, 228, 224), (60, 60, 60)
_NOTHING, _HELD, _OWED = (150, 150, 150), (30, 140, 70), (205, 60, 50)


def chart(closes: NDArray[np.float64], exposures: Sequence[float], title: str) -> NDArray[np.uint8]:
    """Draws closes as a line.

    Args:
      closes: the newest ones, at least one, oldest first.
      exposures: what was held over each bar between two of them: above 0 is held, below it owed.
      title: written above.

    Returns:
      uint8 [400, 600, 3].
    """
    image = Image.new("RGB", (_WIDTH, _HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    low, high = float(closes.min()), float(closes.max())
    across = np.linspace(_MARGIN, _WIDTH - _MARGIN, max(2, len(closes)))
    down = (_HEIGHT - _MARGIN) - (closes - low) / max(high - low, 1e-12) * (_HEIGHT - 2 * _MARGIN - _TITLE)
    points = list(zip(across.tolist(), down.tolist(), strict=False))
    for height in np.linspace(_TITLE + _MARGIN, _HEIGHT - _MARGIN, 5).tolist():
        draw.line([(_MARGIN, height), (_WIDTH - _MARGIN, height)], _GRID)
    for (start, end), exposure in zip(itertools.pairwise(points), exposures, strict=True):
        draw.line([start, end], _HELD if exposure > 0 else _OWED if exposure < 0 else _NOTHING, width=3)
    x, y = points[-1]
    draw.ellipse([x - 4, y - 4, x + 4, y + 4], _TEXT)
    draw.text((_MARGIN, _MARGIN - 4), title, _TEXT, ImageFont.load_default(18))
    return np.asarray(image)
