"""What lies under a config and over it: its bases, overrides that are tables, and those that are no TOML.

Imported for a config that has some.
"""

import ast
import contextlib
import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agents import config_type
from pipeline.experiment.config import FREE, SHIPPED, UsageError, overlaid, parsed, plain, read, shipped, typed
from pipeline.experiment.mistakes import in_words, unknown_kind
from pipeline.experiment.sections import Experiment


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
        examples = "lines, such as ['agent.n_step=3'], or a table, such as {'agent.n_step': 3}"
        raise UsageError(f"overrides are a list of {examples}, not of type {type(overrides).__name__}")
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
    if not line.strip():
        raise UsageError("an override (--set) is empty: write section.field=value, such as agent.n_step=3")
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


def understood(
    tree: dict[str, Any], overrides: Sequence[str | Mapping[str, Any]], seed: int | None, source: str
) -> Experiment:
    """The experiment of overrides that are no TOML, or of other types than their fields, where each has one reading.

    Args:
      tree: the config's tables, bases included.
      overrides: at least one of which cannot be taken as it is written.
      seed: replaces the config's.
      source: where the tables are from, for messages.

    Raises:
      UsageError: one has no reading, or several, or something else is wrong; names the override that is to blame.
    """
    lines = [_Line.of(line) for line in overrides]
    for line in lines:
        if "base" in line.names():
            raise UsageError(f"{line.label}: a base is named in a config's file: write one that has it")
    kinds = [line.value for line in lines if line.name == "agent.kind"]
    kinds += [
        table["kind"] for line in lines if isinstance(table := line.tables.get("agent"), dict) and "kind" in table
    ]
    kind = str(kinds[-1]).strip("\"' ") if kinds else _kind(tree, "dqn")
    try:
        config_type(kind)
    except ValueError as error:
        label = next((f"{line.label}: " for line in reversed(lines) if line.label and "agent.kind" in line.names()), "")
        raise UsageError(label + unknown_kind(kind, error)) from None
    whole = tree
    for line in lines:
        whole = overlaid(whole, line.read_for(kind))
    whole = whole if seed is None else whole | {"seed": seed}
    try:
        return typed(plain(whole, ""))
    except (UsageError, msgspec.ValidationError) as error:
        words = in_words(str(error))
        field = re.sub(r"^unknown field '([\w.]+)'.*|^([\w.]+)[^\w.].*", r"\1\2", words)
        for line in reversed(lines):
            if any(f"{name}.".startswith(f"{field}.") or field.startswith(f"{name}.") for name in line.names()):
                if not line.label:  # from Python, where the field's name says which argument it is
                    raise UsageError(words) from None
                advice = "" if words.startswith("unknown") else _advice(field, kind)
                raise UsageError(f"{line.label}: {words}{advice and f' ({advice})'}") from None
        if words.startswith("unknown field 'agent.") and kinds:
            raise UsageError(_of_other_kind(field, kind, source)) from None
        raise UsageError(f"{source}: {words}") from None


class _Line(NamedTuple):
    """An override: its tables, or the name and the text of one that is no TOML."""

    label: str
    tables: dict[str, Any]
    name: str = ""
    value: str = ""

    @classmethod
    def of(cls, line: str | Mapping[str, Any]) -> "_Line":
        if not isinstance(line, str):
            return cls("", dict(line))
        label = f"--set={' '.join(line.split())}"
        try:
            return cls(label, tomllib.loads(line))
        except tomllib.TOMLDecodeError as error:
            name, equals, value = (part.strip() for part in line.partition("="))
            if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name) or "\n" in line:
                raise UsageError(f"{label}: not TOML: {error} (strings need quotes)") from None
            if not equals:
                raise UsageError(
                    f"{label}: has no value: {_advice(name, 'dqn') or 'write section.field=value'}"
                ) from None
            return cls(label, {}, name, value)

    def names(self) -> Iterator[str]:
        """Dotted names of what it sets."""
        yield from [self.name] if self.name else (name for name, _ in _leaves(self.tables, ""))

    def read_for(self, kind: str) -> dict[str, Any]:
        """Its tables, in which each value is of its field's type, as far as it has one reading."""
        if not self.label:  # from Python, where a value has the type that is meant
            return self.tables
        leaves = [(self.name, self.value)] if self.name else list(_leaves(self.tables, ""))
        whole: dict[str, Any] = {}
        for name, value in leaves:
            inner: Any = self._read(name, value, kind)
            for part in reversed(name.split(".")):
                inner = {part: inner}
            whole = overlaid(whole, inner)
        return whole

    def _read(self, name: str, value: Any, kind: str) -> Any:
        if name == "agent.kind":
            return str(value).strip(_QUOTES)
        if name.startswith(FREE):  # what an environment takes
            return _guessed(self.label, name, self.value) if self.name else value
        wanted = type_of(name, kind)
        if wanted is None:  # an unknown field
            return value
        found = readings(value, wanted, is_text=bool(self.name))
        if value == "" and "" not in found:  # text alone may be empty
            raise UsageError(f"{self.label}: has no value: {_advice(name, kind)}")
        if len(found) == 1:
            return found[0]
        if not found and not self.name:
            return value  # it is refused by the words for its range or type
        meant = " or ".join(f"--set={name}={one!r}" for one in found)
        several = f"it may mean {meant}" if found else _advice(name, kind)
        raise UsageError(f"{self.label}: {name} takes {words_of(wanted)}: {several}")


def _leaves(tables: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping) and value and not f"{prefix}{key}".startswith(FREE):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_TRUE, _FALSE, _QUOTES = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), "\"'"
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def readings(value: Any, kind: Any, *, is_text: bool) -> list[Any]:
    """What a value may mean as a field of a type; the value alone if it is one of that type already.

    Args:
      value: as TOML has it, or text that is none.
      kind: the field's type, annotations included.
      is_text: whether it is text that is no TOML.
    """
    if not is_text:
        try:
            return [_as_lists(msgspec.to_builtins(msgspec.convert(value, kind)))]
        except msgspec.ValidationError:
            pass
    bare: Any = msgspec.inspect.type_info(kind)
    return _as(value, bare)


def _as_lists(value: Any) -> Any:
    """A value whose tuples are lists, as TOML has them."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _as(value: Any, kind: Any) -> list[Any]:
    kind = kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind
    if isinstance(kind, msgspec.inspect.UnionType):
        found = [reading for one in kind.types for reading in _as(value, one)]
        return list(dict.fromkeys(found)) if all(isinstance(one, Hashable) for one in found) else found
    if isinstance(kind, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
        return _as_list(value, kind.item_type)
    if isinstance(value, list | dict):
        return []
    text = str(value).strip().strip(_QUOTES).strip()
    if isinstance(kind, msgspec.inspect.BoolType):
        return [text.lower() in _TRUE] if text.lower() in _TRUE + _FALSE else []
    if isinstance(kind, msgspec.inspect.LiteralType):
        return [one for one in kind.values if str(one).lower() == text.lower()]
    if isinstance(kind, msgspec.inspect.StrType):
        return [text] if isinstance(value, str) else []
    if isinstance(kind, msgspec.inspect.IntType):
        return [int(number) for number in _numbers(text, of_int=True) if number.is_integer()]
    return _numbers(text) if isinstance(kind, msgspec.inspect.FloatType) and not isinstance(value, bool) else []


def _as_list(value: Any, item: Any) -> list[Any]:
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, str):
        parts = re.split(r"\s*[,;\s]\s*", value.strip().strip("()[]\"'").strip(" ,"))
    if any(re.fullmatch(r"0\d+", str(part)) for part in parts):  # the second half of 20,000
        return []
    found = [_as(part, item) for part in parts]
    return [[one for one, *_ in found]] if all(len(one) == 1 for one in found) else []


def _numbers(text: str, *, of_int: bool = False) -> list[float]:
    """Numbers that a text may be; of a fraction 1,000 may be one or a thousand."""
    if _GROUPS.fullmatch(text):
        grouped = float(text.replace(",", ""))
        return [grouped] if of_int or text.count(",") > 1 else [grouped, float(text.replace(",", "."))]
    if not of_int and re.fullmatch(r"[+-]?\d+,\d+", text):
        text = text.replace(",", ".")
    with contextlib.suppress(ValueError):
        return [float(text)] if math.isfinite(float(text)) else []
    return []


def _guessed(label: str, name: str, text: str) -> Any:
    """An argument of an environment, of a type that nobody here knows: a truth value, a word, or a table of JSON."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    readers: list[Callable[[str], Any]] = [json.loads, ast.literal_eval]
    for read_as in readers if text.startswith(("{", "[", "(")) else ():
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return _as_lists(read_as(text))
    if name in FREE:
        raise UsageError(f"{label}: it takes a table, such as --set='{name}={{size = 4}}'")
    if not re.fullmatch(r"[A-Za-z_][\w./:-]*", text) or text in ("None", "nan", "inf"):
        copied = f"{name}={json.dumps(text.strip(_QUOTES), ensure_ascii=False)}"
        raise UsageError(f"{label}: what it means is not clear: text is written --set={shlex.quote(copied)}")
    return text


def type_of(name: str, kind: str) -> Any:
    """The type of a field by its dotted name, annotations included; None where there is none."""
    struct: Any = Experiment
    found: Any = None
    for index, part in enumerate(name.split(".")):
        if struct is None:
            return None
        fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
        if part not in fields:
            return None
        found = config_type(kind) if (index, part) == (0, "agent") else fields[part]
        inner = getattr(found, "__origin__", found)
        struct = inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None
    return found if struct is None else None


def _advice(name: str, kind: str) -> str:
    """A line to copy, with the default of a field or, where that is none, an example of its type."""
    from pipeline.experiment.fields import sections

    known = {field.name: field for part in sections([kind]) for field in part.fields}
    found = known.get(name)
    if found is None:
        return ""
    example = found.default or ("1.0" if "number" in found.kind else '"text"')
    return f"such as --set={shlex.quote(f'{name}={example}')}"


def words_of(kind: Any) -> str:
    """What a field takes, in words."""
    from pipeline.experiment.fields import words

    return words(msgspec.inspect.type_info(kind))


def _of_other_kind(field: str, kind: str, source: str) -> str:
    """What to do where a config has a field of another kind than an override asks for."""
    stem = Path(source).stem
    same = [name for name in shipped() if _kind(tomllib.loads((SHIPPED / f"{name}.toml").read_text()), "dqn") == kind]
    near = [name for name in same if name.startswith(stem.partition("_")[0])] or same
    instead = f"try --config={near[0]}" if near else "write a config that leaves it out"
    return f"{source} sets {field}, which agent.kind={kind!r} has not: {instead}"
