"""Suites and what steps their lanes: packages, registered ones, functions of a user's own, options, what went wrong.

Imported for environments that are not gymnasium's own.
"""

import functools
import importlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
import msgspec

from agents import extensions
from agents.struct_types import prepared
from pipeline.environments.interfaces.custom import imported
from pipeline.environments.lanes.rendering import NotRendered
from pipeline.environments.lanes.vectors import one_line
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

if TYPE_CHECKING:
    from pipeline.environments import MakeVector, Suite

_Options = TypeVar("_Options")
_Kind = TypeVar("_Kind")
_PLAIN = re.compile(r"[\w -]*")


def options_of(config: EnvironmentConfig, kind: type[_Options], task: str) -> _Options:
    """`environment.kwargs` as the options of a suite.

    Args:
      config: the environment.
      kind: the struct that they make.
      task: what has them, for the message.

    Raises:
      UsageError: there is no such option, or it has another type.
    """
    try:
        return msgspec.convert(config.kwargs, prepared(kind))
    except msgspec.ValidationError as error:
        known = ", ".join(getattr(kind, "__struct_fields__", ()))
        there_are = f"; there are {known}" if "unknown field" in str(error) else ""
        raise UsageError(f"environment.kwargs of {task}: {error}{there_are}") from None


@functools.cache
def registered(kind: type[_Kind]) -> tuple[_Kind, ...]:
    """Suites of installed packages, which their entry points in `reverb_dqn.suites` name.

    Args:
      kind: `pipeline.environments.Suite`.

    Raises:
      UsageError: one cannot be imported, or is no suite.
    """
    try:
        given = {name: extensions.found("suites", name) for name in extensions.registered("suites")}
    except ValueError as error:
        raise UsageError(str(error)) from None
    for name, thing in given.items():
        if not isinstance(thing, kind):
            what = type(thing).__name__
            raise UsageError(f"{name!r} of reverb_dqn.suites is of type {what}: it is to name a {kind.__name__}")
    return tuple(given.values())


def registering(config: EnvironmentConfig) -> EnvironmentConfig:
    """A configuration with the id alone, of one whose id is `module:Id-v0`, once that module is imported.

    Raises:
      UsageError: there is no such module, or it, or an argument of the environment, is not trusted.
    """
    _refuse_distrusted_words(config)
    if ":" not in config.id:
        return config
    module, _, environment_id = config.id.partition(":")
    if not environment_id:
        raise UsageError(f"environment.id={config.id!r} has no id behind the colon: write module:Id-v0")
    imported(module, "environment.id")
    return msgspec.structs.replace(config, id=environment_id)


def _refuse_distrusted_words(config: EnvironmentConfig) -> None:
    """Refuses arguments that may name code or files, while nobody trusts whom the config is from.

    Environments import what they are given as "module.Class" or "module:id", and read files by their paths.

    Raises:
      UsageError: one has text that is more than a plain name.
    """
    if distrusted := extensions.distrusted.get():
        for word in _words(config.kwargs):
            if not _PLAIN.fullmatch(word):
                raise UsageError(
                    f"environment.kwargs has the text {word!r}, which may name code or a file, and {distrusted}, which "
                    "brings it, is not trusted"
                )


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _words(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        yield value


def vector_of(engine: str, suite: "Suite | None") -> "MakeVector | None":
    """What makes the lanes; None leaves it to gymnasium.

    Args:
      engine: `environment.engine`.
      suite: that the environment is of, whose module is imported.

    Raises:
      UsageError: the suite's package is not installed, or there is no such engine; says what to do.
    """
    if engine not in ("gymnasium", "envpool"):
        if sentence := extensions.unknown("engines", engine, ("gymnasium", "envpool")):
            raise UsageError(f"environment.engine: {sentence}")
        vector: MakeVector = imported(engine, "environment.engine")
        if not callable(vector):
            raise UsageError(f"environment.engine={engine!r} is no function, but of type {type(vector).__name__}")
        return vector
    if suite is None or not suite.module:
        return None
    try:
        return getattr(importlib.import_module(suite.module), "vector", None)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pipeline"):
            raise
        raise UsageError(f"{error.name} is not installed: {_how_to_install(suite)}") from None


def refusal(config: EnvironmentConfig, suite: "Suite | None", error: BaseException, render: bool) -> UsageError:
    """What to raise where an environment could not be made.

    Args:
      config: its configuration.
      suite: that it is of.
      error: that its constructor raised.
      render: whether it was to draw.
    """
    reason: Any = one_line(str(error))
    if isinstance(error, gymnasium.error.DependencyNotInstalled):
        how = one_line(_how_to_install(suite)) if suite else reason
        return UsageError(f"environment {config.id!r} is not installed: {how}")
    name = config.id or config.import_path
    if config.engine not in ("gymnasium", "envpool"):
        words = f"environment.engine={config.engine!r} raised {type(error).__name__}: {reason}"
        return UsageError(f"environment {name!r} cannot be made: {words}")
    if render and "render_mode" in reason:
        return NotRendered(name, f"{type(error).__name__}: {reason}")
    return UsageError(f"environment {name!r} cannot be made: {type(error).__name__}: {reason}")


def _how_to_install(suite: "Suite") -> str:
    """The command that installs a suite, in a sentence."""
    from pipeline.runtime.installation import how_to_install

    if not suite.extra:
        return "install the package that has it"
    return f"install its extra by {how_to_install(suite.extra)}"
