"""What lies under a config and over it: the files that it names as its bases, and overrides that are tables.

Imported for a config that has some.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.experiment.config import FREE, SHIPPED, UsageError, overlaid, parsed, read, shipped, typed
from pipeline.experiment.mistakes import in_words


def resolved(tree: dict[str, Any], source: str, path: Path | None) -> dict[str, Any]:
    """The tables of a config over those of all its bases.

    Args:
      tree: the config's own tables.
      source: where they are from, for messages.
      path: of its file, if it has one.

    Raises:
      UsageError: there is no such base, the bases make a circle, or one of them is wrong by itself.
    """
    layers, sources = [(tree, source)], [source]
    seen = {path.resolve()} if path else set()
    while (base := _pop_base(tree, source)) is not None:
        path = _file_of_base(base, source, path)
        sources.append(str(path))
        if path.resolve() in seen:
            raise UsageError(f"{source}: base = {base!r} makes a circle: {' -> '.join(sources)}")
        seen.add(path.resolve())
        source = str(path)
        tree = parsed(read(path), source)
        layers.append((tree, source))
    whole: dict[str, Any] = {}
    for tree, source in reversed(layers[1:]):
        whole = merged(whole, tree)
        try:
            typed(whole)  # each base by itself, so that a message names the file that has to be mended
        except (UsageError, msgspec.ValidationError) as error:
            raise UsageError(f"{source}: {in_words(str(error))}") from None
    return merged(whole, layers[0][0])


def _pop_base(tree: dict[str, Any], source: str) -> str | None:
    """Takes the base's name out of the tables of one file; None where there is none."""
    for section, fields in tree.items():
        if isinstance(fields, dict) and "base" in fields:
            raise UsageError(f"{source}: {section}.base: a base is named at the top of a config, above its first table")
    base = tree.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{source}: base must be the name of a shipped config or a path, in quotes, not {base!r}")
    return base


def _file_of_base(base: str, source: str, path: Path | None) -> Path:
    """The file that the config at `path` names as its base."""
    if "/" not in base and not base.endswith(".toml"):
        found = SHIPPED / f"{base}.toml"
    elif path is None and not Path(base).is_absolute():
        raise UsageError(
            f"{source}: base = {base!r} is relative to a file, and this config has none: name a shipped config, or "
            "give an absolute path"
        )
    else:
        found = (path or Path()).parent / base
    if not os.path.isfile(found):  # of any string: Path.is_file raises for a name that is too long
        raise UsageError(
            f"{source}: no base {base!r}: give a path from the folder of this config, or one of {', '.join(shipped())}"
        )
    return found


def merged(base: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """A config's tables over those of its base.

    Tables are merged key by key; other values, lists among them, are replaced. An `[agent]` of another kind has other
    fields, so it replaces the base's as a whole.
    """
    if _kind(derived, _kind(base, "dqn")) != _kind(base, "dqn"):
        base = {key: value for key, value in base.items() if key != "agent"}
    return overlaid(base, derived)


def _kind(tree: dict[str, Any], default: Any) -> Any:
    agent = tree.get("agent")
    return agent.get("kind", default) if isinstance(agent, dict) else default


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


def with_fields(overrides: Any, fields: Mapping[str, Any]) -> tuple[str | Mapping[str, Any], ...]:
    """`lines_of` overrides, and after them fields given as keywords: `agent={"n_step": 3}` or `agent__n_step=3`."""
    dotted = [_nested({name.replace("__", "."): value}, "") for name, value in fields.items()]
    return (*lines_of(overrides), *dotted)


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
