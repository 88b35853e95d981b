"""How this package was installed and called, and so how extras are added; by Python's own library alone."""

import importlib.metadata
import json
import shlex
import shutil
import sys
import urllib.parse
from pathlib import Path

NAME = "reverb-dqn"


def version() -> str:
    """The installed version; "unknown" where the source is used without being installed."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def how_to_resume(run_dir: Path) -> str:
    """The command that goes on with the run of this process, or the call where Python has begun it.

    Args:
      run_dir: the run's directory.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or spec.name != "pipeline.train":
        return f"pipeline.train(experiment, {str(run_dir)!r}, resume=True)"
    words = list(sys.orig_argv)
    if len(words) > 1 and Path(words[1]).name == NAME:  # a shell needs no interpreter, and often not the folder
        words[:2] = [NAME if shutil.which(NAME) == words[1] else words[1]]
    return shlex.join([*words, *([] if "--resume" in words else ["--resume"])])


def how_to_install(*extras: str) -> str:
    """The command that adds extras to this installation: of a checkout, of a wheel, or by name from an index.

    Args:
      *extras: of pyproject.toml, such as "atari".
    """
    names = ",".join(extras)
    try:
        recorded = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return _pip(f".[{names}]") + " in the checkout"
    origin = json.loads(recorded) if recorded else {}
    if origin.get("dir_info", {}).get("editable"):
        checkout = urllib.parse.unquote(urllib.parse.urlsplit(origin["url"]).path)
        return f"{_pip('-e', f'{checkout}[{names}]')}, or `make setup` there for all"
    return _pip(f"{NAME}[{names}]" + (f" @ {origin['url']}" if origin else ""))


def _pip(*arguments: str) -> str:
    return f"`{shlex.join(('pip', 'install', *arguments))}`"
