"""Lists the commands."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def commands() -> Iterator[tuple[str, str]]:
    """Names and first sentences of the modules that are commands; they are read, not imported."""
    files = {path.stem: path for path in _HERE.glob("[!_]*.py")}
    folders = {path.parent.name: path for path in _HERE.glob("*/__main__.py")}
    for name, path in sorted((files | folders).items()):
        text = path.read_text()
        if 'if __name__ == "__main__":' not in text:
            continue
        description = ast.get_docstring(ast.parse(text)) or ""
        if "Example" in description:  # the others are started by these
            yield name, description.splitlines()[0]


def main(arguments: list[str]) -> int:
    """Prints the list."""
    if asked := [argument for argument in arguments[1:] if argument not in ("--help", "-h")]:
        print(f"error: no command {asked[0]!r} here: write python -m pipeline.NAME", file=sys.stderr)
        return 2
    found = dict(commands())
    width = max(map(len, found))
    print("Commands, each with --help:\n")
    for name, description in found.items():
        print(f"  python -m pipeline.{name:<{width}}  {description}")
    print("\nIs everything in place?  python -m pipeline.doctor\nA first run:             ", end="")
    print("python -m pipeline.train --config=cartpole --run_dir=runs/first")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
