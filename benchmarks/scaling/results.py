"""What the file of results has: a line a measurement; and what is made of several."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import json_lines
from benchmarks.json_lines import append as append


@dataclass(frozen=True)
class Measurement:
    """One measurement of one setting.

    Attributes:
      part: of the benchmark.
      setting: what was measured.
      repeat: from 0; those of the same repeat were measured one after the other.
      values: what was measured, by name.
      when: UTC time of its end, ISO 8601.
      machine: that it was measured on.
    """

    part: str
    setting: str
    repeat: int
    values: Mapping[str, float]
    when: str
    machine: str


def read(path: Path) -> list[Measurement]:
    """The measurements of a file; none where there is no file."""
    return json_lines.read(path, Measurement)


def drop(path: Path, part: str) -> None:
    """Removes what the file has of a part, which is measured anew: only what was measured in turn is compared."""
    if path.exists():
        json_lines.write(path, [one for one in read(path) if one.part != part])


def by_repeat(measurements: Sequence[Measurement], part: str) -> list[dict[str, Mapping[str, float]]]:
    """Of a part: values by setting, for each repeat that has all settings of the first."""
    repeats: dict[int, dict[str, Mapping[str, float]]] = {}
    for one in measurements:
        if one.part == part:
            repeats.setdefault(one.repeat, {})[one.setting] = one.values
    first = repeats.get(0, {})
    return [settings for _, settings in sorted(repeats.items()) if settings.keys() == first.keys()]


def medians(repeats: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """By setting, the median of each value over the repeats."""
    settings = repeats[0] if repeats else {}
    return {
        setting: {
            name: statistics.median(repeat[setting].get(name, 0.0) for repeat in repeats) for name in settings[setting]
        }
        for setting in settings
    }
