"""Words for a config's mistakes: the nearest field, the field of a wrong value, and what it takes.

Imported when there is one.
"""

import difflib
from collections.abc import Iterable
from typing import get_args

import msgspec

from agents import AgentConfig
from pipeline.experiment.sections import Experiment


def unknown_field(prefix: str, name: str, fields: Iterable[str]) -> str:
    """A sentence about a field that there is not.

    Args:
      prefix: of the section, with a dot; empty at the top.
      name: of the field.
      fields: that there are.
    """
    near = difflib.get_close_matches(name, fields if prefix else [*fields, "base"], n=1, cutoff=0.0)
    return f"unknown field {prefix + name!r}; the nearest is {prefix + near[0]!r}"


def in_words(message: str) -> str:
    """msgspec's message with the field first: "agent.n_step: Expected `int` >= 1"."""
    text, separator, path = message.partition(" - at `$.")
    path = path.rstrip("`")
    choices = f" (there are {', '.join(_choices(path))})" if text.startswith("Invalid") else ""
    return f"{path}: {text}{choices}" if separator else text


def _choices(path: str) -> list[str]:
    """What a field with a fixed set of values takes."""
    section, _, name = path.partition(".")
    if path == "agent.kind":
        return [str(member.__struct_config__.tag) for member in get_args(AgentConfig)]
    sections = [field.type for field in msgspec.structs.fields(Experiment) if field.name == section]
    members = [member for kind in sections for member in (get_args(kind) or (kind,))]
    for info in msgspec.inspect.multi_type_info(members):
        if not isinstance(info, msgspec.inspect.StructType) or not isinstance(info.cls, type):
            continue
        for field in info.fields:
            kind = field.type.type if isinstance(field.type, msgspec.inspect.Metadata) else field.type
            if field.name == name and isinstance(kind, msgspec.inspect.LiteralType):
                return [str(value) for value in kind.values]
    return []
