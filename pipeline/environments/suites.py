"""The suites: which environment ids belong to which optional package, and the module that prepares each."""

import importlib
from types import ModuleType
from typing import NamedTuple

from pipeline.experiment.config import UsageError


class Suite(NamedTuple):
    """Environments of one optional package."""

    extra: str
    """Of the project's optional dependencies: what installs it."""
    starts: tuple[str, ...]
    """Of the ids of its environments."""
    module: str = ""
    """Registers them with gymnasium when imported; empty where gymnasium does. One with a function `vector` makes
    vector environments itself."""


_DRIVING = ("highway-", "merge-", "intersection-", "roundabout-", "exit-", "two-way-", "u-turn-", "racetrack-")
ENVPOOL = Suite("envpool", (), "pipeline.environments.envpool")
"""No ids of its own: `environment.engine` asks for it."""
SUITES = (
    Suite("atari", ("ALE/",), "pipeline.environments.atari"),
    Suite("box2d", ("LunarLander", "BipedalWalker", "CarRacing")),
    Suite("driving", _DRIVING, "pipeline.environments.driving"),
    ENVPOOL,
    Suite("minatar", ("MinAtar/",), "pipeline.environments.minatar"),
    Suite("trading", ("Trading/",), "pipeline.environments.trading"),
)


def suite_of(environment_id: str) -> Suite | None:
    """The suite that an id belongs to; None for gymnasium's own and for a user's."""
    return next((suite for suite in SUITES if environment_id.startswith(suite.starts)), None)


def prepare(suite: Suite) -> ModuleType | None:
    """Imports a suite's module.

    Raises:
      UsageError: its package is not installed; says how to.
    """
    if not suite.module:
        return None
    try:
        return importlib.import_module(suite.module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pipeline"):
            raise
        raise UsageError(f"{error.name} is not installed: {how_to_install(suite)}") from None


def how_to_install(suite: Suite) -> str:
    """The command that installs a suite, in a sentence."""
    return f"install its extra with `pip install '.[{suite.extra}]'`, or all of them with `make setup`"
