"""How this package was installed, and so how its extras are; by Python's own library, as others may be missing."""

import importlib.metadata
import json
import shlex
import urllib.parse

NAME = "reverb-dqn"


def version() -> str:
    """The installed version; "unknown" where the source is used without being installed."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


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
