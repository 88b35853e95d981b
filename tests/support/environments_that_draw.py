"""Environments with pictures that say where they come from, and ones that fail to draw; used by import path."""

from typing import Any

import numpy as np
from environments_for_tests import Masked

HEIGHT, WIDTH = 24, 32
SHAPES = {"bytes": (HEIGHT, WIDTH, 3), "clear": (HEIGHT, WIDTH, 4), "gray": (HEIGHT, WIDTH)}


class Drawing(Masked):
    """`Masked` with pictures all of whose bytes are the steps taken in the episode, times ten.

    Args:
      render_mode: see gymnasium.
      drawn: what `render` gives: "bytes", "floats" from 0 to 1, "clear" (with opacity), "gray", "text", or "raises".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    drawings = 0
    """By all environments of this class in this process."""

    def __init__(self, render_mode: str | None = None, drawn: str = "bytes") -> None:
        super().__init__()
        self.render_mode, self._drawn = render_mode, drawn

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        Drawing.drawings += 1
        if self._drawn == "raises":
            raise RuntimeError("no pencil")
        if self._drawn == "text":
            return "a drawing"
        pixels = np.full(SHAPES.get(self._drawn, SHAPES["bytes"]), 10 * self.step_number, np.uint8)
        return pixels / 255.0 if self._drawn == "floats" else pixels

    def get_action_meanings(self) -> list[str]:
        return ["one", "two", "three"]


class DeafDrawing(Drawing):
    """Says that it draws, and does not take the question."""

    def __init__(self) -> None:
        super().__init__()


class SilentlyDeafDrawing(Drawing):
    """Says that it draws, and forgets the question."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
