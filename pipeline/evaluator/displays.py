"""Where pictures are shown: in a window, or in a video file."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.experiment.config import UsageError
from pipeline.runtime.installation import how_to_install
from pipeline.runtime.process import prepare_pygame

Pixels = NDArray[np.uint8]

_UNSEEN_DRIVERS = ("", "dummy", "offscreen")
_ENDING = ".mp4"
_QUALITY = "20"
"""x264's constant rate factor: flat drawings keep their edges; 0 is lossless."""


class WindowClosed(Exception):
    """The viewer has closed the window."""


class Screen(Protocol):
    """Shows one picture after the other."""

    def show(self, picture: Pixels, rate: float) -> None:
        """Shows a picture, uint8 [height, width, 3] of even sides, for 1 / rate seconds.

        Raises:
          WindowClosed: nobody looks on any more.
        """

    def close(self) -> None:
        """Ends the show."""


class Window:
    """A window on the display; Escape, q or its button close it.

    Raises:
      UsageError: there is no display.
    """

    def __init__(self, title: str) -> None:
        prepare_pygame()
        import pygame  # takes a quarter of a second

        self._pygame: Any = pygame
        self._title = title
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
        except pygame.error:
            driver = ""
        if driver in _UNSEEN_DRIVERS:
            raise UsageError("there is no display to show a window on: write a video, with --video=FILE.mp4")
        os.environ["SDL_VIDEODRIVER"] = driver  # environments that draw by SDL too would choose one without a screen
        self._next_at = time.monotonic()

    def show(self, picture: Pixels, rate: float) -> None:
        """See `Screen`."""
        pygame = self._pygame
        size = picture.shape[1::-1]
        surface = pygame.display.get_surface() if pygame.display.get_init() else None
        if surface is None or surface.get_size() != size:  # the first, or an environment has ended pygame
            pygame.display.init()
            surface = pygame.display.set_mode(size)
            pygame.display.set_caption(self._title)
        surface.blit(pygame.image.frombuffer(picture.tobytes(), size, "RGB"), (0, 0))
        now = time.monotonic()
        time.sleep(max(0.0, self._next_at - now))
        pygame.display.flip()
        self._next_at = max(self._next_at, now) + 1.0 / rate
        for event in pygame.event.get():
            leaves = event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q)
            if leaves or event.type == pygame.QUIT:
                raise WindowClosed

    def close(self) -> None:
        """See `Screen`."""
        self._pygame.quit()


class VideoFile:
    """An MP4 file of H.264, which browsers play. It is made when the first picture comes.

    Args:
      path: of the file.

    Raises:
      UsageError: it cannot be written there, or PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() != _ENDING:
            raise UsageError(f"--video={path} has to end with {_ENDING}")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--video={path} cannot be written: is there a folder {path.parent} that is yours?")
        if importlib.util.find_spec("av") is None:
            raise UsageError(f"PyAV is not installed: {how_to_install('play')}")
        self._path = path
        self._container: Any = None
        self._stream: Any = None
        self.pictures = 0
        """Written so far."""

    def show(self, picture: Pixels, rate: float) -> None:
        """See `Screen`; the first picture's size and rate are the video's, and others are scaled to it.

        Raises:
          UsageError: the file cannot be written.
        """
        import av  # not before there is something to encode

        with self._writing():
            if self._container is None:
                self._container = av.open(str(self._path), "w", options={"movflags": "+faststart"})
                self._stream = self._container.add_stream("libx264", Fraction(rate).limit_denominator(1000))
                self._stream.height, self._stream.width = picture.shape[:2]
                self._stream.pix_fmt = "yuv420p"  # the only one that every browser takes
                self._stream.options = {"crf": _QUALITY, "preset": "veryfast"}
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        self.pictures += 1

    def close(self) -> None:
        """See `Screen`."""
        container, self._container = self._container, None
        if container is not None:
            with self._writing():
                container.mux(self._stream.encode())
                container.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # FFmpeg's errors are of this type, too
            raise UsageError(f"--video={self._path} cannot be written: {error.strerror}") from None
