"""An experiment as frozen typed structs: TOML in, validated, TOML out. No TensorFlow here."""

import datetime
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agents import config_type
from agents.config_fields import KindConfig, as_toml_has_it
from agents.struct_types import prepared
from pipeline import UsageError as UsageError
from pipeline.experiment import validation
from pipeline.experiment.sections import Experiment

SHIPPED = Path(__file__).resolve().parents[2] / "configs"
Overrides = Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
"""Values over a config's: lines of TOML such as `agent.n_step=3`, tables such as `{"agent.n_step": 3}`, or both."""
_Kind = TypeVar("_Kind")
_SCALARS = (bool, int, float, str, datetime.date, datetime.datetime, datetime.time)


_PRIORITIZED_STEPS = 25
"""Gradient steps a call with priorities, unless a config says otherwise: of what is drawn for more, too much has not
been judged yet (`priority/unjudged_share`)."""


def shipped() -> list[str]:
    """Names of the configs in `configs/`."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name_or_path: str | Path, overrides: Overrides = (), seed: int | None = None, **fields: Any) -> Experiment:
    """Reads and validates an experiment.

    Args:
      name_or_path: path of a TOML file, or the bare name of a shipped config.
      overrides: applied in order, after the config's bases.
      seed: replaces the file's.
      **fields: applied after the overrides: sections such as `agent={"n_step": 3}`, or fields: `agent__n_step=3`.

    Raises:
      UsageError: no such file, or a value that cannot be.
    """
    if not isinstance(name_or_path, str | Path):
        raise UsageError(f"a config is a path or the name of a shipped one, not of type {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if not os.path.isfile(path):  # of any text: Path.is_file raises for a name that is too long
        path = SHIPPED / f"{name_or_path}.toml"
    if not os.path.isfile(path):
        from pipeline.experiment.mistakes import no_config

        raise UsageError(no_config(str(name_or_path), shipped()))
    if fields:
        from pipeline.experiment.bases import with_fields

        overrides = with_fields(overrides, fields)
    return _experiment(read(path), str(path), path, overrides, seed)


def parse(text: str, overrides: Overrides = (), seed: int | None = None, source: str = "config") -> Experiment:
    """`load` for the text of a config, whose base is a shipped config or an absolute path."""
    return _experiment(text, source, None, overrides, seed)


def dump(experiment: Experiment) -> str:
    """The fully resolved experiment as TOML; `parse` of it gives the same experiment.

    Raises:
      UsageError: TOML cannot hold one of its values as it is.
    """
    import tomli_w

    tables = tables_of(experiment)
    try:
        text = tomli_w.dumps(tables)
        _refuse_changed(tables, tomllib.loads(text), "")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the experiment cannot be written as TOML: {' '.join(str(error).split())}") from None
    return text


def tables_of(section: msgspec.Struct, prefix: str = "") -> dict[str, Any]:
    """A section, or a whole experiment, as tables of TOML.

    Args:
      section: the struct.
      prefix: of its fields in messages: its name with a dot, or empty at the top.

    Raises:
      UsageError: TOML cannot hold one of its values as it is.
    """
    config = section.__struct_config__
    tables: dict[str, Any] = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, dict) and isinstance(default := _default(field), msgspec.Struct):
            raise UsageError(f"{prefix}{field.name} must be of type {type(default).__name__}, not dict")
        if value is not None or field.default is not None:  # what is left out is None
            tables[field.name] = plain(_lists(value), prefix + field.name)
    return tables


def _lists(value: Any) -> Any:
    """A field's tuples, and those within them, as lists."""
    return [_lists(item) for item in value] if type(value) is tuple else value


def validate(experiment: Experiment) -> None:
    """Refuses what cannot be run: values of other types, that TOML cannot hold, or that do not fit each other.

    Raises:
      UsageError: says which, and what would do.
    """
    if not isinstance(experiment, Experiment):
        from pipeline.experiment.mistakes import no_experiment

        raise UsageError(no_experiment(experiment))
    dump(experiment)
    checked = _converted(tables_of(experiment), "")
    if checked != experiment:
        raise UsageError("the experiment has a section that is another one's, or a subclass of it")
    if sentence := next(validation.problems(experiment), ""):
        raise UsageError(sentence)


def _experiment(text: str, source: str, path: Path | None, overrides: Overrides, seed: int | None) -> Experiment:
    """The validated experiment of a config's text; `path` is its file, if it has one."""
    tree = parsed(text, source)
    if "base" in tree or any(isinstance(fields, dict) and "base" in fields for fields in tree.values()):
        from pipeline.experiment import bases

        tree = bases.resolved(tree, source, path)
    if type(overrides) is not tuple or not all(type(line) is str and line.strip() for line in overrides):
        from pipeline.experiment.bases import lines_of

        overrides = lines_of(overrides)
    whole = tree
    try:
        for line in overrides:
            whole = overlaid(whole, parsed(line, f"--set={line}") if isinstance(line, str) else dict(line))
        whole |= {} if seed is None else {"seed": seed}
        experiment = _converted(plain(whole, ""), source)
    except UsageError:
        if not overrides:
            raise
        from pipeline.experiment.bases import understood

        experiment = understood(tree, overrides, seed, source)
    validate(experiment)
    return experiment


def _converted(tree: dict[str, Any], source: str) -> Experiment:
    """`typed`, with a mistake as a UsageError that begins with where the tables are from."""
    try:
        return typed(tree)
    except (UsageError, msgspec.ValidationError) as error:
        from pipeline.experiment.mistakes import in_words

        raise UsageError(f"{source}: {in_words(str(error))}" if source else in_words(str(error))) from None


def typed(tree: dict[str, Any]) -> Experiment:
    """An experiment of which each value can be, whether or not they fit each other."""
    kind, agent = _kind_of(tree), tree["agent"]
    tree = overlaid(_paper_settings(kind, agent.get("noisy") is not False or hasattr(kind, "heads")), tree)
    if isinstance(replay := tree.get("replay"), dict) and replay.get("prioritized") is True:
        tree = overlaid({"learner": {"steps_per_call": _PRIORITIZED_STEPS}}, tree)
    _refuse_unknown(tree, Experiment, "")
    _refuse_unknown(agent, kind, "agent.")
    _refuse_infinite(tree, "")
    tree["agent"] = _part(agent, prepared(kind), ".agent")
    return msgspec.convert(tree, prepared(Experiment))


def _kind_of(tree: dict[str, Any]) -> type[KindConfig]:
    """The type of a config's agent, whose table is then there and names its kind."""
    agent = tree.setdefault("agent", {})
    _part(agent, dict, ".agent")
    kind = _part(agent.setdefault("kind", "dqn"), str, ".agent.kind")
    try:
        found = config_type(kind)
        if found.__module__ == "__main__":
            raise ValueError("of the program that was started")
    except ValueError as error:
        from pipeline.experiment.mistakes import unknown_kind

        raise UsageError(unknown_kind(kind, error)) from None
    agent["kind"] = found.__struct_config__.tag  # a kind of the user's may be registered by another name
    return found


def _part(value: Any, kind: type[_Kind], path: str) -> _Kind:
    """A part of a config as a type; `path` is where it is in the whole, for messages."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        words, _, within = str(error).partition(" - at `$")
        raise msgspec.ValidationError(f"{words} - at `${path}{within or '`'}") from None


def _paper_settings(kind: type[KindConfig], may_be_noisy: bool) -> dict[str, Any]:
    """The tables that the paper of a kind gives."""
    given = {section: dict(fields) for section, fields in kind.paper_settings.items()}
    if not may_be_noisy:  # without noise, another strategy has to explore
        given.pop("exploration", None)
    return given


def read(path: Path) -> str:
    """The text of a config's file."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def parsed(text: str, source: str) -> dict[str, Any]:
    """The tables of a config's text."""
    if not isinstance(text, str):
        raise UsageError(f"{source}: a config is text, not of type {type(text).__name__}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = source.replace("\n", " ")
        raise UsageError(f"{where}: not TOML: {error} (strings need quotes)") from None


def overlaid(tree: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Tables over others: merged key by key; other values, lists among them, are replaced."""
    tables = {key for key, value in update.items() if isinstance(value, dict) and isinstance(tree.get(key), dict)}
    return tree | {key: overlaid(tree[key], value) if key in tables else value for key, value in update.items()}


def _refuse_unknown(tree: dict[str, Any], struct: Any, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    for key, value in tree.items():
        if key == tag_field:
            continue
        if key not in fields:
            from pipeline.experiment.mistakes import unknown_field

            raise UsageError(unknown_field(prefix, key, fields))
        section = fields[key]
        if isinstance(value, dict) and isinstance(section, type) and issubclass(section, msgspec.Struct):
            _refuse_unknown(value, section, f"{prefix}{key}.")


FREE = ("environment.kwargs", "evaluation.kwargs")
"""What an environment takes is its own affair."""


def _refuse_infinite(tree: dict[str, Any], prefix: str) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _refuse_infinite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value) and not prefix.startswith(FREE):
            raise UsageError(f"{prefix}{key} must be finite, not {value}")


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def plain(value: Any, name: str) -> Any:
    """A value as TOML has it: a table, a list, a number, text or a date.

    Args:
      value: may be a table with structs in it.
      name: of its field, dotted, for messages; empty for all tables of a config.

    Raises:
      UsageError: TOML cannot hold it as it is.
    """
    value = as_toml_has_it(value)
    kind = type(value)
    try:
        if isinstance(value, msgspec.Struct):
            return tables_of(value, f"{name}.")
        if kind is dict and all(type(key) is str and _is_text(key) for key in value):
            return {key: plain(item, f"{name}.{key}" if name else key) for key, item in value.items()}
        if kind is list:
            return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    except RecursionError:
        raise UsageError(f"{name[:60]}... holds itself, or is nested too deeply for a config") from None
    if kind not in _SCALARS or (kind is str and not _is_text(value)) or (kind is float and math.isnan(value)):
        from pipeline.experiment.mistakes import may_be_none, unstorable

        if value is not None or not may_be_none(name):
            raise UsageError(unstorable(name, value))
    return value


def _is_text(value: str) -> bool:
    """Whether it can be written to a file: halves of characters cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_changed(given: Any, read: Any, name: str) -> None:
    """Refuses a value that TOML's form of it reads as another."""
    if type(given) is dict and type(read) is dict and given.keys() == read.keys():
        for key, item in given.items():
            _refuse_changed(item, read[key], f"{name}.{key}" if name else key)
    elif type(given) is list and type(read) is list and len(given) == len(read):
        for index, (item, other) in enumerate(zip(given, read, strict=True)):
            _refuse_changed(item, other, f"{name}[{index}]")
    elif repr(given) != repr(read):
        raise UsageError(f"{name}={given!r} cannot be kept as it is: in config.toml it would be {read!r}")
