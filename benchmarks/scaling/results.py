"""The file of results: one line of JSON a measurement, appended as soon as it is there."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


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
    if not path.exists():
        return []
    return [Measurement(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]


def append(path: Path, measurement: Measurement) -> None:
    """Adds a measurement to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(measurement)) + "\n")


def drop(path: Path, part: str) -> None:
    """Removes what the file has of a part, which is measured anew: only what was measured in turn is compared."""
    if path.exists():
        kept = [json.dumps(asdict(one)) + "\n" for one in read(path) if one.part != part]
        path.write_text("".join(kept))


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
