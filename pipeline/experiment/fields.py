"""Every field of a config as text, from the structs themselves."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec.inspect import (
    BoolType,
    DictType,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    StrType,
    StructType,
    TupleType,
    UnionType,
    VarTupleType,
    type_info,
)

from agents import BUILDERS, config_type
from pipeline.experiment.sections import Experiment


class FieldDoc(msgspec.Struct, frozen=True):
    """One field."""

    name: str
    """Dotted, as --set takes it."""
    kind: str
    """Its type and range, in words."""
    default: str
    """As TOML; empty where there is none."""
    meaning: str


class SectionDoc(msgspec.Struct, frozen=True):
    """One section of a config; each kind of agent is one of its own."""

    title: str
    meaning: str
    fields: tuple[FieldDoc, ...]


def sections(kinds: Iterable[str] = BUILDERS) -> Iterator[SectionDoc]:
    """All of them, in the order of a resolved config.

    Args:
      kinds: of the agents whose fields are wanted.

    Raises:
      ValueError: there is no such kind.
    """
    own = []
    for field in msgspec.structs.fields(Experiment):
        kind = type_info(field.type)
        if field.name != "agent" and not isinstance(_plain(kind), StructType):
            own.append(_field("", field))
    yield SectionDoc("(top)", "", tuple(own))
    for field in msgspec.structs.fields(Experiment):
        kind = _plain(type_info(field.type))
        if isinstance(kind, StructType):
            yield _section(f"[{field.name}]", field.name, kind.cls)
        elif field.name == "agent":
            for name in kinds:
                yield _section(f'[agent] kind = "{name}"', field.name, config_type(name))


def _section(title: str, prefix: str, struct: type[msgspec.Struct]) -> SectionDoc:
    return SectionDoc(title, " ".join((struct.__doc__ or "").split()), tuple(_fields(prefix, struct)))


def _fields(prefix: str, struct: type[msgspec.Struct]) -> Iterator[FieldDoc]:
    for field in msgspec.structs.fields(struct):
        kind = type_info(field.type)
        inner = _plain(kind)
        if not isinstance(inner, StructType):
            yield _field(f"{prefix}.", field)
            continue
        about = (kind.extra_json_schema or {}).get("description", "") if isinstance(kind, Metadata) else ""
        for part in _fields(f"{prefix}.{field.name}", inner.cls):  # a table within the section
            yield msgspec.structs.replace(part, meaning=f"{about} {part.meaning}")


def _field(prefix: str, field: msgspec.structs.FieldInfo) -> FieldDoc:
    kind = type_info(field.type)
    meaning = (kind.extra_json_schema or {}).get("description", "") if isinstance(kind, Metadata) else ""
    ours = (kind.extra or {}).get("ours", ()) if isinstance(kind, Metadata) else ()
    default = "" if field.default is msgspec.NODEFAULT else _toml(field.default)
    if field.default_factory is not msgspec.NODEFAULT:
        default = _toml(field.default_factory())
    takes = " | ".join([*(f'"{name}"' for name in ours), '"module:name"']) if ours else words(kind)
    return FieldDoc(prefix + field.name, takes, default, meaning)


def _plain(kind: Any) -> Any:
    return kind.type if isinstance(kind, Metadata) else kind


_NAMES: dict[type[Any], str] = {
    BoolType: "true or false",
    StrType: "text",
    IntType: "integer",
    FloatType: "number",
    DictType: "table",
}


def words(kind: Any) -> str:
    """What a field of a type takes, by what `msgspec.inspect.type_info` says of the type."""
    kind = _plain(kind)
    if isinstance(kind, UnionType):
        takes = " or ".join(words(one) for one in kind.types if not isinstance(one, NoneType))
        return f"{takes}, or left out" if any(isinstance(one, NoneType) for one in kind.types) else takes
    if isinstance(kind, LiteralType):
        return " | ".join(f'"{value}"' for value in kind.values)
    if isinstance(kind, VarTupleType):
        return f"list of: {words(kind.item_type)}"
    if isinstance(kind, TupleType):
        return f"[{', '.join(map(words, kind.item_types))}]"
    if type(kind) not in _NAMES:  # of a kind of the user's
        return type(kind).__name__.removesuffix("Type").lower()
    name = _NAMES[type(kind)]
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in (
            (">", getattr(kind, "gt", None)),
            (">=", getattr(kind, "ge", None)),
            ("<", getattr(kind, "lt", None)),
            ("<=", getattr(kind, "le", None)),
        )
        if bound is not None
    ]
    return " ".join([name, ", ".join(bounds)]).strip()


def _toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return "{}" if value == {} else repr(value)


def markdown() -> list[str]:
    """The reference as a page's lines."""
    lines = []
    for section in sections():
        lines += [f"## `{section.title}`", "", *([section.meaning, ""] if section.meaning else [])]
        lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
        for field in section.fields:
            kind, meaning = (text.replace("|", "\\|") for text in (field.kind, field.meaning))
            default = f"`{field.default}`" if field.default else ""
            lines.append(f"| `{field.name}` | {kind} | {default} | {meaning} |")
        lines.append("")
    return lines
