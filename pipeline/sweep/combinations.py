"""The combinations of a sweep: values of config fields, their product, and a name for each."""

import contextlib
import itertools
import re
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from pipeline.comparison.groups import fields, text
from pipeline.experiment import config
from pipeline.experiment.config import UsageError, overlaid
from pipeline.experiment.sections import Experiment

_LONGEST_NAME = 200
"""Bytes; file systems take 255, and a log's name is longer by its ending."""
_WORD = re.compile(r"\s*(?!(true|false|nan|inf)\s*$)[A-Za-z_][\w./:-]*\s*")
_READABLE = "=,.+-_[]"


class Axis(NamedTuple):
    """A field and the values that it takes in turn; tables set several fields of a section together."""

    field: str
    values: list[Any]

    @property
    def fields(self) -> list[str]:
        """The field, or of one whose values are tables those in them."""
        return list(dict.fromkeys(name for value in self.values for name in fields({self.field: value})))


class Combination(NamedTuple):
    """One value for each field."""

    values: dict[str, Any]
    """By field; empty if nothing but the seed varies."""

    @property
    def name(self) -> str:
        """For people and as the name of a folder."""
        words = ",".join(f"{field}={text(value).replace(', ', '+')}" for field, value in self.values.items())
        return quote(words, safe=_READABLE) or "all"

    @property
    def words(self) -> str:
        """For people alone: numbers with four digits."""
        return ", ".join(
            f"{field}={value:.4g}" if isinstance(value, float) else f"{field}={text(value)}"
            for field, value in self.values.items()
        )

    @property
    def line(self) -> str:
        """TOML that sets the values, as overrides of a config have it."""
        import tomli_w

        tree: dict[str, Any] = {}
        for field, value in self.values.items():
            table = value
            for name in reversed(field.split(".")):
                table = {name: table}
            tree = overlaid(tree, table)
        return tomli_w.dumps(tree)


def loaded(source: str, overrides: Sequence[str], tried: Combination) -> Experiment:
    """The experiment of a config with one combination of values.

    Args:
      source: name or path of the config.
      overrides: lines of TOML that come before.
      tried: the combination.

    Raises:
      UsageError: the config does not take the values; a mistake in them begins with their combination.
    """
    try:
        return config.load(source, (*overrides, tried.line) if tried.values else tuple(overrides), seed=0)
    except UsageError as error:
        label = f"--set={' '.join(tried.line.split())}"
        words = str(error)
        raise UsageError(tried.words + words.removeprefix(label) if words.startswith(label) else words) from None


def axis(line: str) -> Axis:
    """Reads a line of TOML such as `agent.learning_rate=[1e-4, 3e-4]`.

    Raises:
      UsageError: it is none, or names no values.
    """
    try:
        found = fields(tomllib.loads(line))
    except tomllib.TOMLDecodeError as error:
        found = _understood(line)
        if not found:
            raise UsageError(f"--grid={' '.join(line.split())}: not TOML: {error} (strings need quotes)") from None
    if len(found) != 1:
        raise UsageError(f"--grid={' '.join(line.split())}: name one field, and give --grid again for another")
    ((field, values),) = found.items()
    if not isinstance(values, list) or not values:
        raise UsageError(f"--grid={line}: write the values of {field} as a list, such as {field}=[1, 2]")
    if field == "seed":
        raise UsageError(f"--grid={line}: seeds are given by --seeds")
    return Axis(field, values)


def _understood(line: str) -> dict[str, Any]:
    """A line whose list has no brackets, or whose words have lost their quotes to the shell; empty if it is none."""
    field, _, values = (part.strip() for part in line.partition("="))
    bare = values[1:-1] if values[:1] + values[-1:] == "[]" else values
    quoted = ", ".join(f'"{word.strip()}"' if _WORD.fullmatch(word) else word for word in bare.split(","))
    for one in (f"{field} = [{values}]", f"{field} = [{quoted}]"):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            return fields(tomllib.loads(one))
    return {}


def product(axes: Sequence[Axis]) -> list[Combination]:
    """Every combination of the axes' values, the last axis varying fastest.

    Raises:
      UsageError: a field or a combination is there twice, or a name is too long for a folder.
    """
    names = [axis.field for axis in axes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--grid: {twice[0]} is there twice: put all its values into one list")
    combinations = [
        Combination(dict(zip(names, values, strict=True)))
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    seen: set[str] = set()
    for combination in combinations:
        if combination.name in seen:
            raise UsageError(f"--grid: {combination.name} is there twice: leave one out")
        if len(combination.name) > _LONGEST_NAME:
            raise UsageError(f"--grid: {combination.name} is too long a name for a folder: shorten its values")
        seen.add(combination.name)
    return combinations


def seeds(span: str) -> range:
    """Reads the first seed and the one after the last, such as `0:5`.

    Raises:
      UsageError: it is none, or empty.
    """
    first, separator, end = span.partition(":")
    if not (separator and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UsageError(f"--seeds={span}: write the first and the one after the last, such as 0:5")
    return range(int(first), int(end))
