"""An experiment as frozen typed structs: TOML in, validated, TOML out. No TensorFlow here."""

import datetime
import difflib
import math
import os
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec

from agents import AgentConfig
from pipeline.experiment import validation
from pipeline.experiment.sections import Experiment

SHIPPED = Path(__file__).resolve().parents[2] / "configs"


class UsageError(Exception):
    """A mistake of the user's, in one line that says what to do; entry points end with exit code 2."""


def shipped() -> list[str]:
    """Names of the configs in `configs/`."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name_or_path: str, overrides: tuple[str, ...] = (), seed: int | None = None) -> Experiment:
    """Reads and validates an experiment.

    Args:
      name_or_path: path of a TOML file, or the bare name of a shipped config.
      overrides: lines of TOML such as `agent.n_step=3`, applied in order, after the config's bases.
      seed: replaces the file's.

    Raises:
      UsageError: no such file, or a value that cannot be.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = SHIPPED / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(f"no config {name_or_path!r}: give a path or one of {', '.join(shipped())}")
    return _experiment(_resolved(_text(path), str(path), path), overrides, seed, str(path))


def parse(text: str, overrides: tuple[str, ...] = (), seed: int | None = None, source: str = "config") -> Experiment:
    """`load` for the text of a config, whose base is a shipped config or an absolute path."""
    return _experiment(_resolved(text, source, None), overrides, seed, source)


def merged(base: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """A config's tables over those of its base.

    Tables are merged key by key; other values, lists among them, are replaced. An `[agent]` of another kind has other
    fields, so it replaces the base's as a whole.
    """
    if _kind(derived, _kind(base, "dqn")) != _kind(base, "dqn"):
        base = {key: value for key, value in base.items() if key != "agent"}
    return _merged(base, derived)


def dump(experiment: Experiment) -> str:
    """The fully resolved experiment as TOML; `parse` of it gives the same experiment."""
    import tomli_w

    dates = (datetime.date, datetime.datetime, datetime.time)  # TOML has them, so arguments of environments may be some
    tree = msgspec.to_builtins(experiment, builtin_types=dates)
    return tomli_w.dumps({key: _without_none(value) for key, value in tree.items()})


def validate(experiment: Experiment) -> None:
    """Refuses values that fit their types but not each other.

    Raises:
      UsageError: says which, and what would do.
    """
    if sentence := next(validation.problems(experiment), ""):
        raise UsageError(sentence)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Dotted names of the fields in which two experiments differ."""
    names: list[str] = []

    def compare(a: Any, b: Any, prefix: str) -> None:
        for key in sorted({*a, *b}):
            if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
                compare(a[key], b[key], f"{prefix}{key}.")
            elif a.get(key) != b.get(key):
                names.append(f"{prefix}{key}")

    compare(msgspec.to_builtins(old), msgspec.to_builtins(new), "")
    return names


def _experiment(tree: dict[str, Any], overrides: tuple[str, ...], seed: int | None, source: str) -> Experiment:
    """The validated experiment of a config whose bases are in it already."""
    for line in overrides:
        update = _toml(line, f"--set={line}")
        if "base" in update:
            raise UsageError(
                f"--set={' '.join(line.split())}: a base is named in a config's file: write one that has it"
            )
        tree = _merged(tree, update)
    if seed is not None:
        tree["seed"] = seed
    try:
        experiment = _typed(tree)
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {_in_words(str(error))}") from None
    validate(experiment)
    return experiment


def _typed(tree: dict[str, Any]) -> Experiment:
    """An experiment of which each value can be, whether or not they fit each other."""
    if isinstance(agent := tree.setdefault("agent", {}), dict):
        agent.setdefault("kind", "dqn")
    _refuse_unknown(tree, Experiment, "")
    _refuse_infinite(tree, "")
    return msgspec.convert(tree, Experiment)


def _resolved(text: str, source: str, path: Path | None) -> dict[str, Any]:
    """The tables of a config over those of all its bases; `path` is its file, if it has one."""
    tree = _toml(text, source)
    layers, sources = [(tree, source)], [source]
    seen = {path.resolve()} if path else set()
    while (base := _pop_base(tree, source)) is not None:
        path = _file_of_base(base, source, path)
        sources.append(str(path))
        if path.resolve() in seen:
            raise UsageError(f"{source}: base = {base!r} makes a circle: {' -> '.join(sources)}")
        seen.add(path.resolve())
        source = str(path)
        tree = _toml(_text(path), source)
        layers.append((tree, source))
    whole: dict[str, Any] = {}
    for tree, source in reversed(layers[1:]):
        whole = merged(whole, tree)
        try:
            _typed(whole)  # each base by itself, so that a message names the file that has to be mended
        except (UsageError, msgspec.ValidationError) as error:
            raise UsageError(f"{source}: {_in_words(str(error))}") from None
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


def _kind(tree: dict[str, Any], default: Any) -> Any:
    agent = tree.get("agent")
    return agent.get("kind", default) if isinstance(agent, dict) else default


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = source.replace("\n", " ")
        raise UsageError(f"{where}: not TOML: {error} (strings need quotes)") from None


def _merged(tree: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    tables = {key for key, value in update.items() if isinstance(value, dict) and isinstance(tree.get(key), dict)}
    return tree | {key: _merged(tree[key], value) if key in tables else value for key, value in update.items()}


def _refuse_unknown(tree: dict[str, Any], struct: Any, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    for key, value in tree.items():
        if key == tag_field:
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields if prefix else [*fields, "base"], n=1, cutoff=0.0)
            raise UsageError(f"unknown field {prefix + key!r}; the nearest is {prefix + near[0]!r}")
        section = _struct_of(fields[key], value)
        if section is not None and isinstance(value, dict):
            _refuse_unknown(value, section, f"{prefix}{key}.")


_FREE = ("environment.kwargs", "evaluation.kwargs")
"""What an environment takes is its own affair."""


def _refuse_infinite(tree: dict[str, Any], prefix: str) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _refuse_infinite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value) and not prefix.startswith(_FREE):
            raise UsageError(f"{prefix}{key} must be finite, not {value}")


def _struct_of(annotation: Any, value: Any) -> Any:
    """The struct that a field's value is converted to, if it is one; of a tagged union the one that its tag names."""
    members = get_args(annotation) or (annotation,)
    structs = [member for member in members if isinstance(member, type) and issubclass(member, msgspec.Struct)]
    for member in structs:
        config = member.__struct_config__
        if isinstance(value, dict) and config.tag_field and value.get(config.tag_field) == config.tag:
            return member
    return structs[0] if structs else None


def _in_words(message: str) -> str:
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


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
