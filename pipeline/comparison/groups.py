"""Groups runs by their configs, and names the groups. Pure functions."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.experiment.config import UsageError

Fields = Mapping[str, Any]
"""A config's values by dotted name."""

_SAY_NOTHING = ("seed", "replay.port", "replay.private", "replay.weights_port")
"""Fields in which runs of one group may differ: seeds, and where the replay is reached."""
_FIRST = ("agent.kind", "environment.id", "environment.import_path")
"""Fields that name a group before others do."""


class Groups(NamedTuple):
    """Runs, grouped."""

    members: dict[str, list[int]]
    """Indices of runs by the group's name, in the order in which the groups first appear."""
    unnamed: list[str]
    """Fields in which groups differ, too, though their names do without them."""


def fields(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config, as TOML has them, by dotted name."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def group(configs: Sequence[Fields], by: Sequence[str] = ()) -> Groups:
    """Groups runs that differ in nothing but their seed.

    Names have as few fields as tell the groups apart: `agent.kind` and the environment first, the others in the order
    of the configs.

    Args:
      configs: of runs.
      by: names of fields; given, runs are of one group if they have the same values of these, and are named by them.

    Raises:
      UsageError: no run has such a field.
    """
    known = list(dict.fromkeys(name for config in configs for name in config))
    for name in by:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise UsageError(f"--group={name}: no run has such a field; the nearest is {near[0]!r}")
    different = [name for name in known if name not in _SAY_NOTHING and len(_partition(configs, [name])) > 1]
    named, unnamed = list(by), []
    if not by:
        different.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
        named = _telling_apart(configs, different)
        unnamed = [name for name in different if name not in named and not _follows_from_kind(name, configs)]
        named = named or ["agent.kind"]
    partition = _partition(configs, named)
    return Groups({", ".join(_words(configs[runs[0]], named)): runs for runs in partition}, unnamed)


def text(value: Any) -> str:
    """A value in a name: without the quotes of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, dict):
        return "+".join(f"{name}={text(member)}" for name, member in fields(value).items())
    return "none" if value is None else str(value)


def _telling_apart(configs: Sequence[Fields], different: Iterable[str]) -> list[str]:
    chosen: list[str] = []
    for name in different:
        if len(_partition(configs, [*chosen, name])) > len(_partition(configs, chosen)):
            chosen.append(name)
    return chosen


def _partition(configs: Sequence[Fields], names: Sequence[str]) -> list[list[int]]:
    classes: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        classes.setdefault(repr([config.get(name) for name in names]), []).append(index)
    return list(classes.values())


def _follows_from_kind(name: str, configs: Sequence[Fields]) -> bool:
    """Whether only some kinds of agent have a field."""
    return name.startswith("agent.") and any(name not in config for config in configs)


def _words(config: Fields, names: Sequence[str]) -> list[str]:
    return [f"{name}={text(config[name])}" for name in names if name in config]
