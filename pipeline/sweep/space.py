"""What a search may choose: ranges and choices of config fields, read from flags and files. Pure but for the files."""

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.comparison.groups import text
from pipeline.experiment.config import UsageError, read

_JUDGES = ("seed", "stop", "evaluation", "environment.id", "environment.import_path")
"""What trials are judged by: if these differed, their returns could not be compared."""
_KEYS = ("low", "high", "log", "step", "points")
_WRITE = "write a list of choices, [1, 3], or a range, {low=1, high=5}"
_NEAR = 1e-9


class Range(msgspec.Struct, frozen=True):
    """Every number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether factors are alike rather than differences: 1e-4 to 1e-3 is as likely as 1e-3 to 1e-2."""
    step: float | None = None
    """Between values; None is 1 of integers, and any value of others."""
    points: int | None = None
    """Values of a grid, evenly spaced from `low` to `high`, on a logarithmic scale if `log`."""
    is_integer: bool = False

    @property
    def probes(self) -> list[Any]:
        """Values that show whether a config takes the range."""
        return [self.low, self.high]

    @property
    def grid(self) -> list[Any] | None:
        """The values of a grid; None where nothing says how many."""
        if self.points is not None:
            shares = [index / max(1, self.points - 1) for index in range(self.points)]
            if self.log:
                found = [math.exp((1 - s) * math.log(self.low) + s * math.log(self.high)) for s in shares]
            else:
                found = [(1 - s) * self.low + s * self.high for s in shares]
            rounded = [round(value) if self.is_integer else float(f"{value:.6g}") for value in found]
            return list(dict.fromkeys([self.low, *rounded[1:-1], self.high][: self.points]))
        if self.is_integer and not self.log:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is not None:
            return [self.low + index * self.step for index in range(round((self.high - self.low) / self.step) + 1)]
        return None


class Choices(msgspec.Struct, frozen=True):
    """One of some values: numbers, text, lists, or tables of fields that go together."""

    values: list[Any]

    @property
    def probes(self) -> list[Any]:
        """Values that show whether a config takes the choices: all of them."""
        return self.values

    @property
    def grid(self) -> list[Any]:
        """The values of a grid."""
        return self.values

    @property
    def labels(self) -> list[str]:
        """Each value as text, by which a study knows it."""
        return [text(value) for value in self.values]


Space = Mapping[str, Range | Choices]
"""By field."""


def space(lines: Sequence[str]) -> dict[str, Range | Choices]:
    """Reads lines of TOML such as `agent.n_step={low=1, high=5}`, and files of such lines by their names.

    Raises:
      UsageError: one is no space, or a field is there twice.
    """
    found: dict[str, Range | Choices] = {}
    for line in lines:
        for field, value in _entries(line):
            here = f"--space={_short(line)}: {field}"
            if any(field == judge or field.startswith(f"{judge}.") for judge in _JUDGES):
                raise UsageError(f"{here} is what trials are compared by: set it for all of them by --set or --seeds")
            if field in found:
                raise UsageError(f"{here} is there twice: put all its values into one")
            found[field] = _choices(value, here) if isinstance(value, list) else _range(value, here)
    for field, entry in found.items():
        if isinstance(entry, Choices):
            for name in {name for value in entry.values if isinstance(value, dict) for name in _leaves(value, field)}:
                if name in found:
                    raise UsageError(f"--space: {name} is there twice: alone, and in a table of {field}")
    if not found:
        raise UsageError(f"--space is missing: which fields should be searched? Name one, and {_WRITE}")
    return found


def grid(searched: Space) -> list[dict[str, Any]]:
    """Every combination of the values of a grid, the last field varying fastest.

    Raises:
      UsageError: a range does not say which values it has.
    """
    values = {field: entry.grid for field, entry in searched.items()}
    for field, found in values.items():
        if found is None:
            raise UsageError(f"--space: a grid of {field} needs to know how many values: add points=5, or a step")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*(v or [] for v in values.values()))]


def probes(searched: Space) -> list[dict[str, Any]]:
    """Points that show whether a config takes the space: the first value of each field, and each other one in turn."""
    first = {field: entry.probes[0] for field, entry in searched.items()}
    others = [first | {field: value} for field, entry in searched.items() for value in entry.probes[1:]]
    return [first, *others]


def with_kind_of(searched: Space, found: Mapping[str, Any]) -> dict[str, Range | Choices]:
    """The space with ranges of integers or of other numbers, as the config's fields are.

    Args:
      searched: as it was read: a range between two integers may be either.
      found: the first probe's values as a config has them, by field.
    """
    return {
        field: msgspec.structs.replace(entry, is_integer=False, low=float(entry.low), high=float(entry.high))
        if isinstance(entry, Range) and entry.is_integer and type(found.get(field)) is float
        else entry
        for field, entry in searched.items()
    }


def _entries(line: str) -> Iterator[tuple[str, Any]]:
    """The fields of a line or file, and what is said of each."""
    if "=" in line:
        source, content = f"--space={_short(line)}", line
    else:
        source, content = line, read(Path(line))
    try:
        tree = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not TOML: {error} (strings need quotes)") from None
    yield from _flat(tree, "")


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and not any(name in value and not _is_nested(value[name]) for name in _KEYS):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _choices(values: list[Any], here: str) -> Choices:
    if len(values) < 2:
        raise UsageError(f"{here} has {len(values)} choices: give two or more, or set it by --set")
    choices = Choices(values)
    for label in choices.labels:
        if choices.labels.count(label) > 1:
            raise UsageError(f"{here} has {label} twice: leave one out")
    return choices


def _range(value: Any, here: str) -> Range:
    if not isinstance(value, dict):
        raise UsageError(f"{here}={text(value)} leaves nothing to search: {_WRITE}")
    for name in value:
        if name not in _KEYS:
            raise UsageError(f"{here} has no {name!r}: a range has {', '.join(_KEYS)}")
    given: tuple[Any, ...] = tuple(value.get(name) for name in ("low", "high", "step", "points"))
    low, high, step, points = given
    for name, number in (("low", low), ("high", high), *((("step", step),) if step is not None else ())):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UsageError(f"{here} needs {name} as a number: {_WRITE}")
    if not isinstance(log := value.get("log", False), bool):
        raise UsageError(f"{here}: log is true or false")
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 2):
        raise UsageError(f"{here}: points is how many values a grid has, 2 or more")
    is_integer = isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int))
    if not low < high:
        raise UsageError(f"{here}: low={low} has to be below high={high}")
    if log and low <= 0:
        raise UsageError(f"{here}: with log=true low has to be above 0")
    if step is not None and (log or points is not None):
        raise UsageError(f"{here}: step does not go with log or points: leave one out")
    if step is not None:
        steps = (high - low) / step if step > 0 else 0.0
        if steps < 1 or abs(steps - round(steps)) > _NEAR * steps:
            raise UsageError(f"{here}: steps of {step} do not lead from {low} to {high}")
    if not is_integer:
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(low, high, log, step, points, is_integer)


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"


def _short(line: str) -> str:
    return " ".join(line.split())
