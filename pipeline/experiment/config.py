"""An experiment as frozen typed structs: TOML in, validated, TOML out. No TensorFlow here."""

import datetime
import math
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec

from agents.configs import AgentConfig
from agents.struct_types import prepared
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
    return _experiment(read(path), str(path), path, overrides, seed)


def parse(text: str, overrides: tuple[str, ...] = (), seed: int | None = None, source: str = "config") -> Experiment:
    """`load` for the text of a config, whose base is a shipped config or an absolute path."""
    return _experiment(text, source, None, overrides, seed)


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


def _experiment(text: str, source: str, path: Path | None, overrides: tuple[str, ...], seed: int | None) -> Experiment:
    """The validated experiment of a config's text; `path` is its file, if it has one."""
    tree = parsed(text, source)
    if "base" in tree or any(isinstance(fields, dict) and "base" in fields for fields in tree.values()):
        from pipeline.experiment import bases

        tree = bases.resolved(tree, source, path)
    for line in overrides:
        update = parsed(line, f"--set={line}")
        if "base" in update:
            raise UsageError(
                f"--set={' '.join(line.split())}: a base is named in a config's file: write one that has it"
            )
        tree = overlaid(tree, update)
    if seed is not None:
        tree["seed"] = seed
    try:
        experiment = typed(tree)
    except msgspec.ValidationError as error:
        from pipeline.experiment.mistakes import in_words

        raise UsageError(f"{source}: {in_words(str(error))}") from None
    validate(experiment)
    return experiment


def typed(tree: dict[str, Any]) -> Experiment:
    """An experiment of which each value can be, whether or not they fit each other."""
    if isinstance(agent := tree.setdefault("agent", {}), dict):
        kind = agent.setdefault("kind", "dqn")
        tree = overlaid(_paper_settings(kind, agent.get("noisy") is not False), tree)
    _refuse_unknown(tree, Experiment, "")
    _refuse_infinite(tree, "")
    return msgspec.convert(tree, prepared(Experiment))


def departures(experiment: Experiment) -> str:
    """What an experiment has otherwise than the paper whose name its kind bears, in a sentence; empty if nothing."""
    agent, given = experiment.agent, []
    for section, fields in agent.paper_settings.items():
        for field, value in fields.items():
            if (found := getattr(getattr(experiment, section), field)) != value:
                given.append(f"{section}.{field}={_toml(found)} (there {_toml(value)})")
    if not given:
        return ""
    return f"agent.kind={agent.kind!r} differs here from its paper ({agent.paper}): {', '.join(given)}"


def _paper_settings(kind: Any, may_be_noisy: bool) -> dict[str, Any]:
    """The tables that the paper of a kind gives; none of what is no kind."""
    for member in get_args(AgentConfig):
        if member.__struct_config__.tag == kind:
            given = {section: dict(fields) for section, fields in member.paper_settings.items()}
            if not may_be_noisy:  # without noise, another strategy has to explore
                given.pop("exploration", None)
            return given
    return {}


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def read(path: Path) -> str:
    """The text of a config's file."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def parsed(text: str, source: str) -> dict[str, Any]:
    """The tables of a config's text."""
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


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
