"""Words for a config's mistakes: the nearest field, the field of a wrong value, what it takes, what TOML cannot hold.

Imported when there is one.
"""

import difflib
import enum
import inspect
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from agents import BUILDERS, config_type
from agents.extensions import registered
from pipeline.experiment.sections import Experiment


def unknown_field(prefix: str, name: str, fields: Iterable[str]) -> str:
    """A sentence about a field that there is not.

    Args:
      prefix: of the section, with a dot; empty at the top.
      name: of the field.
      fields: that there are.
    """
    having = [kind for kind in kinds() if prefix == "agent." and name in config_type(kind).__struct_fields__]
    if having:
        return f"unknown field {prefix + name!r}: it is one of {' and '.join(', '.join(having).rsplit(', ', 1))}"
    sections = {field.name: _structs_of(field.name) for field in msgspec.structs.fields(Experiment)}
    elsewhere = [
        f"{section}.{name}"
        for section, structs in sections.items()
        for one in structs[:1]
        if name in one.__struct_fields__
    ]
    if elsewhere:
        return f"unknown field {prefix + name!r}; the nearest is {elsewhere[0]!r}"
    near = difflib.get_close_matches(name, fields if prefix else [*fields, "base"], n=1, cutoff=0.0)
    return f"unknown field {prefix + name!r}; the nearest is {prefix + near[0]!r}"


def no_config(given: str, shipped: Sequence[str]) -> str:
    """A sentence about a name or path of a config that there is not.

    Args:
      given: name or path.
      shipped: names that there are.
    """
    near = difflib.get_close_matches(given.removesuffix(".toml"), shipped, n=1)
    instead = f"did you mean {near[0]!r}? Give" if near else "give"
    what = "it is a folder: " if os.path.isdir(given) else ""
    return f"no config {given!r}: {what}{instead} the path of a file, or one of {', '.join(shipped)}"


def unknown_kind(kind: str, error: ValueError) -> str:
    """A sentence about a kind that there is not, or that cannot be taken as it is."""
    if kind.startswith("__main__:"):
        name = kind.partition(":")[2]
        return (
            f"agent.kind={kind!r} is of the program that was started, which a run's processes do not import: put it "
            f"into a module, say mine.py, and set agent.kind='mine:{name}'"
        )
    if ":" in kind or kind in registered("kinds"):
        return str(error)
    near = difflib.get_close_matches(kind, kinds(), n=1)
    instead = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"agent.kind: Invalid value {kind!r} ({instead}there are {', '.join(kinds())}, and your own as 'module:Config')"
    )


def nearest(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Dotted names that are like a name, or whose last part is, the most alike first; never none."""

    def likeness(dotted: str) -> float:
        last = dotted.rpartition(".")[2]
        ratios = (difflib.SequenceMatcher(None, name.lower(), known).ratio() for known in (dotted, last))
        return max(ratios)

    return sorted(sorted(names), key=likeness, reverse=True)[:most]


def kinds() -> list[str]:
    """The names of our kinds, and of those that installed packages register."""
    return [*BUILDERS, *registered("kinds")]


def in_words(message: str) -> str:
    """msgspec's message with the field first: "agent.n_step: Expected `int` >= 1"."""
    text, separator, path = message.partition(" - at `$.")
    path = path.rstrip("`")
    found = _choices(path) if text.startswith("Invalid") else []
    begin = "expected" if _NUMBER in found else "there are"
    choices = f" ({begin} {', '.join(found)})" if found else ""
    return f"{path}: {text}{choices}" if separator else text


_NUMBER = "a number"


_SHORT = 60


def no_experiment(given: Any) -> str:
    """A sentence about what was given in the place of an experiment."""
    name = given if isinstance(given, str) else "cartpole"
    return f"an experiment is what pipeline.load({name!r}) returns, not {_short(given)}"


def unstorable(name: str, value: Any) -> str:
    """A sentence about a value from Python that TOML cannot hold as it is.

    Args:
      name: of the field or argument, dotted.
      value: what it was given.
    """
    if value is None:
        return f"{name} is None, for which TOML has no word: leave it out, or give another value"
    if isinstance(value, dict):
        return f"{name}={_short(value)} has a key that is no text"
    if isinstance(value, enum.Enum):
        return f"{name}={_short(value)} is a member of an enumeration: give its value, {_short(value.value)}"
    if isinstance(value, float):
        return f"{name} is nan, which equals nothing, so no two roles of a run would have the same config: leave it out"
    if isinstance(value, tuple | set | frozenset | np.ndarray):
        return f"{name}={_short(value)} is of type {type(value).__name__}, and a config has lists alone: give a list"
    if isinstance(value, str):
        return f"{name}={_short(value)} is no text that a file can hold"
    if name in ("environment.id", "environment.import_path"):
        return f"{name} is text, not {_short(value)}: {_how_to_name(value)}"
    if _is_code(value) and ".kwargs" not in name:
        return f"{name} is text, not {_short(value)}: {_how_to_import(name, value)}"
    return (
        f"{name}={_short(value)} is of type {type(value).__name__}, which config.toml cannot hold: give numbers, text, "
        "lists and tables of them"
    )


def may_be_none(name: str) -> bool:
    """Whether a field takes None, which stands for leaving it out."""
    section, _, field = name.partition(".")
    fields = [part for struct in _structs_of(section) for part in msgspec.structs.fields(struct)]
    return any(part.name == field and part.default is None for part in fields)


def _structs_of(section: str) -> list[type[msgspec.Struct]]:
    """The structs that a section of a config may be: of `agent` those of all kinds."""
    if section == "agent":
        return [builder.config for builder in BUILDERS.values()]
    kinds = [field.type for field in msgspec.structs.fields(Experiment) if field.name == section]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def _how_to_name(environment: Any) -> str:
    """What to set for an environment that was given as an object or a class."""
    spec = getattr(environment, "spec", environment)
    if isinstance(registered := getattr(spec, "id", None), str):
        return f"set environment.id={registered!r}"
    kind = environment if _is_code(environment) else type(environment)
    return f"leave environment.id empty and {_how_to_import('environment.import_path', kind)}"


def _is_code(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _how_to_import(name: str, thing: Any) -> str:
    """How a class or function is named in a config."""
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if not module or "<" in path:
        return f"set {name}='module:name' of a class or function at the top of a module"
    if module == "__main__":
        return f"put it into a module, say mine.py, and set {name}='mine:{path}'"
    return f"set {name}='{module}:{path}'"


def _short(value: Any) -> str:
    """Its repr on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a class of the user's
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


def _choices(path: str) -> list[str]:
    """What a field with a fixed set of values takes."""
    section, _, name = path.partition(".")
    for struct in _structs_of(section):
        kind: Any = msgspec.inspect.type_info(struct)
        for part in name.split("."):  # a table within the section has fields of its own
            fields = {field.name: field.type for field in getattr(kind, "fields", ())}
            kind = fields.get(part)
            kind = kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind
        if kind is not None:
            one_of = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
            return [word for part in one_of for word in _words_of(part)]
    return []


def _words_of(kind: Any) -> list[str]:
    """The values of a set, or a number."""
    if isinstance(kind, msgspec.inspect.LiteralType):
        return [str(value) for value in kind.values]
    return [_NUMBER] if isinstance(kind, msgspec.inspect.FloatType) else []
