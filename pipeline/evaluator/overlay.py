"""Draws a panel with a bar for each action's Q-value beside an environment's picture. No environment here."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

_LEAST_SIDE, _MOST_SIDE = 300, 1280
_PANEL_WIDTH = 300
_WIDE = 1.8
"""Width over height of pictures that have the panel below them."""
_MARGIN = 12
_LINE = 20
_GAP = 8
_ROW = 24
_MOST_ROWS = 18
_HEAD_LINES = 3
_TEXT_SIZE = 14
_BACKGROUND = (24, 27, 32)
_TRACK = (42, 47, 55)
_TEXT, _DIM = (226, 229, 233), (139, 147, 158)
_BAR, _CHOSEN, _FORBIDDEN = (82, 139, 199), (245, 166, 35), (214, 84, 76)


class StepView(NamedTuple):
    """What the panel beside a picture shows of one step."""

    scores: NDArray[np.float32]
    """float32 [actions]: Q-values or probabilities."""
    title: str
    """What they are."""
    names: Sequence[str]
    """Of the actions."""
    allowed: NDArray[np.bool_] | None
    """bool [actions], false where mask or shield forbid an action; None allows all."""
    chosen: tuple[int, ...]
    """The action, of several dimensions the choice of each; empty where the episode has ended."""
    span: tuple[float, float]
    """Scores at which a bar is empty and full; one that reaches over 0 has its bars grow from there."""
    step: int
    """Environment steps of the episode so far."""
    reward: float
    """Of the last one."""
    episode_return: float
    """Of all of them."""


def overlaid(picture: Pixels, reading: StepView) -> Pixels:
    """A picture with a panel beside it, or below one that is wide.

    Args:
      picture: uint8 [height, width, 3]; a small one is enlarged by a whole number, a large one reduced.
      reading: what the panel says. Of very many actions it has the best ones and the one chosen.

    Returns:
      uint8 [height, width, 3], both even; their size depends on the picture's and on the number of actions.
    """
    scene = _scaled(Image.fromarray(picture))
    actions = _rows(reading)
    needed = 2 * _MARGIN + (_HEAD_LINES + 1) * _LINE + _GAP + len(actions) * _ROW
    below = scene.width > _WIDE * scene.height
    if below:
        width, height = _even(scene.width), _even(scene.height + needed)
        panel = (0, scene.height, width)
    else:
        width, height = _even(scene.width + _PANEL_WIDTH), _even(max(scene.height, needed))
        panel = (scene.width, 0, width)
    image = Image.new("RGB", (width, height), _BACKGROUND)
    image.paste(scene, (0, 0 if below else (height - scene.height) // 2))
    _draw_panel(ImageDraw.Draw(image), panel, reading, actions)
    return np.array(image)


def _scaled(image: Image.Image) -> Image.Image:
    times = max(1, -(-_LEAST_SIDE // max(image.width, image.height)))
    if times > 1:
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((_MOST_SIDE, _MOST_SIDE))
    return image


def _even(length: int) -> int:
    return length + length % 2


def _rows(reading: StepView) -> list[int]:
    """The actions that have a row: in order, the best ones where there are too many, and always the one chosen."""
    count = len(reading.scores)
    if count <= _MOST_ROWS:
        return list(range(count))
    order = np.lexsort((-reading.scores, ~np.isin(np.arange(count), reading.chosen)))
    return sorted(order[:_MOST_ROWS].tolist())


def _draw_panel(
    draw: ImageDraw.ImageDraw, panel: tuple[int, int, int], reading: StepView, actions: Sequence[int]
) -> None:
    left, top, right = panel[0] + _MARGIN, panel[1] + _MARGIN, panel[2] - _MARGIN
    facts = (
        ("step", f"{reading.step:,}"),
        ("reward", f"{reading.reward:+.4g}" if reading.reward else "0"),
        ("return", f"{reading.episode_return:.6g}"),
    )
    for line, (name, value) in enumerate(facts):
        draw.text((left, top + line * _LINE), name, _DIM, _font())
        draw.text((left + 64, top + line * _LINE), value, _TEXT, _font())
    top += _HEAD_LINES * _LINE + _GAP
    more = len(reading.scores) - len(actions)
    title = f"{reading.title}, {more} more" if more else reading.title
    draw.text((left, top), title if reading.chosen else "episode ended", _DIM, _font())
    top += _LINE
    names = [_shortened(reading.names[action]) for action in actions]
    numbers = [_number(float(reading.scores[action]), reading.span) for action in actions]
    widest = [*numbers, *(_number(end, reading.span) for end in reading.span)]  # so that bars keep their places
    bar_left = left + 12 + round(max(map(_width, names))) + 8
    bar_right = right - round(max(map(_width, widest))) - 8
    for row, (action, name, number) in enumerate(zip(actions, names, numbers, strict=True)):
        _draw_row(draw, (left, top + row * _ROW, right), (bar_left, bar_right), reading, action, name, number)


def _draw_row(
    draw: ImageDraw.ImageDraw,
    row: tuple[int, int, int],
    bar: tuple[int, int],
    reading: StepView,
    action: int,
    name: str,
    number: str,
) -> None:
    left, top, right = row
    is_chosen = action in reading.chosen
    is_forbidden = reading.allowed is not None and not reading.allowed[action]
    colour = _CHOSEN if is_chosen else _DIM if is_forbidden else _BAR
    text = _CHOSEN if is_chosen else _DIM if is_forbidden or not reading.chosen else _TEXT
    middle = top + _ROW // 2
    if is_chosen:
        draw.polygon([(left, middle - 5), (left, middle + 5), (left + 7, middle)], _CHOSEN)
    draw.text((left + 12, middle), name, text, _font(), "lm")
    draw.text((right, middle), number, text, _font(), "rm")
    draw.rectangle([bar[0], middle - 7, bar[1], middle + 7], _TRACK)
    start, end = _extent(float(reading.scores[action]), reading.span)
    length = bar[1] - bar[0]
    if reading.chosen:
        draw.rectangle([bar[0] + start * length, middle - 7, bar[0] + end * length, middle + 7], colour)
    if is_forbidden:
        draw.line([(left + 10, middle), (right, middle)], _FORBIDDEN, width=2)


def _extent(score: float, span: tuple[float, float]) -> tuple[float, float]:
    """Where a bar begins and ends, as shares of its track, the lesser first."""
    low, high = span
    foot = 0.0 if low < 0.0 < high else low
    both = np.clip((np.array([foot, score]) - low) / max(high - low, 1e-12), 0.0, 1.0)
    return float(both.min()), float(both.max())


def _number(score: float, span: tuple[float, float]) -> str:
    """A score with as many places as give the largest of its span four digits."""
    largest = max(abs(span[0]), abs(span[1]), 1e-6)
    places = int(np.clip(3 - np.floor(np.log10(largest)), 0, 4))
    return f"{score:.{places}f}"


def _shortened(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)


def _width(text: str) -> float:
    return _font().getlength(text)
