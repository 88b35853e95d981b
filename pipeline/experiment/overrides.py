"""Overrides of a config that come from Python as tables: nested, or by dotted names.

Imported for those that are more than lines of TOML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.experiment.config import FREE, UsageError, overlaid


def lines_of(overrides: Any) -> tuple[str | Mapping[str, Any], ...]:
    """Overrides in the order in which they apply, each a line of TOML or tables within tables.

    Args:
      overrides: see `pipeline.experiment.config.Overrides`.

    Raises:
      UsageError: it is something else, or the name of a field is none.
    """
    if isinstance(overrides, Mapping):
        overrides = (overrides,)
    if isinstance(overrides, str | bytes) or not isinstance(overrides, Sequence):
        raise UsageError(
            f"overrides are a list of lines, such as ['agent.n_step=3'], or a table, such as {{'agent.n_step': 3}}, "
            f"not of type {type(overrides).__name__}"
        )
    return tuple(_line(line) for line in overrides)


def _line(line: Any) -> str | Mapping[str, Any]:
    if isinstance(line, Mapping):
        return _nested(line, "")
    if not isinstance(line, str):
        raise UsageError(f"an override is a line of TOML or a table, not of type {type(line).__name__}: {line!r:.60}")
    return str(line)


def _nested(tables: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Tables within tables: dotted keys are taken apart, but those within an environment's arguments are its own."""
    whole: dict[str, Any] = {}
    for key, value in tables.items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise UsageError(f"{prefix}{key!r} is no name of a field: such as 'agent.n_step'")
        path = f"{prefix}{key}"
        inner: Any = value
        if isinstance(value, Mapping):
            inner = dict(value) if path.startswith(FREE) else _nested(value, f"{path}.")
        elif isinstance(value, tuple) and not path.startswith(FREE):
            inner = list(value)
        for part in reversed(key.split(".")):
            inner = {part: inner}
        whole = overlaid(whole, inner)
    return whole
