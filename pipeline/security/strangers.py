"""Run directories and exports of other users: their configs name code, which runs here with this user's rights.

A config names code by import paths: of its environment, its shield, its kind of agent and more. Reading a directory of
another user says so in one line. With `trust=False` (`--trust=no`) nothing that a directory's config names is imported.
"""

import contextlib
import logging
import os
import pwd
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents import extensions

log = logging.getLogger(__name__)

_NAMES_CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.-]*")
_IMPORTED = ("environment.import_path",)
"""Fields that name a module even without a colon."""
_SHOWN = 3
"""Names in a message."""
_ROOT = 0
FOR_LEARNING = "a copy of the folder is yours, and so is an export, which needs the least code"
"""Advice for what is learned from."""


@contextlib.contextmanager
def reading(folder: Path, trust: bool = True) -> Iterator[None]:
    """What is read within is a run directory or an export, maybe of somebody else.

    Args:
      folder: of the run or the export.
      trust: whether code that its config names may be imported. If so, and the folder is another user's, a line in the
        log says what is. If not, everything within that would import such code raises a `UsageError` in its place.
    """
    if trust:
        warn(folder)
        yield
        return
    token = extensions.distrusted.set(str(folder))
    try:
        yield
    finally:
        extensions.distrusted.reset(token)


def warn(folder: Path, advice: str = "--trust=no (trust=False) imports none of it") -> None:
    """Says so where a folder is another user's and its config names code.

    Args:
      folder: of a run or an export.
      advice: what can be done about it.
    """
    if (owner := owner_of(folder)) and (named := named_code(folder)):
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        log.warning(
            "%s belongs to another user (%s), and its config names code, which runs here with your rights: %s%s. "
            "Read it first; %s",
            folder,
            owner,
            ", ".join(named[:_SHOWN]),
            more,
            advice,
        )


def owner_of(folder: Path) -> str:
    """The user whose folder it is, or whose config lies in it; empty where that is this user, or root.

    Root needs no config to run code here.
    """
    for path in (folder, folder / "config.toml"):
        try:
            user = path.stat().st_uid
        except OSError:  # whoever reads it says so
            continue
        if user not in (_ROOT, os.geteuid()):
            try:
                return pwd.getpwuid(user).pw_name
            except KeyError:
                return f"number {user}"
    return ""


def named_code(folder: Path) -> list[str]:
    """What the config in a folder names that is not ours, as "field='module:name'"; empty if it cannot be read."""
    try:
        tables = tomllib.loads((folder / "config.toml").read_text())
    except (OSError, ValueError, RecursionError):
        return []
    return list(_named(tables, ""))


def _named(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _named(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _named(item, f"{name}[{index}]")
    elif isinstance(value, str) and value and (name in _IMPORTED or _NAMES_CODE.fullmatch(value)):
        yield f"{name}={value!r}"
