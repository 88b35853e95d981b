"""Writes the table of rooms in docs/design.md from the order in `tests/test_architecture.py` and the docstrings.

`make rooms` runs it.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- rooms: written by `make rooms` -->\n", "<!-- end of rooms -->\n"


def table(order: tuple[str, ...]) -> str:
    """A row for each room: its name, and what its docstring says first."""
    rows = ["| room | what it is for |", "|---|---|"]
    for room in order:
        if room == "commands":
            text = "Files directly in `pipeline/` and the `__main__.py` of folders: `python -m pipeline` lists them."
        else:
            source = ROOT.joinpath(*room.split("."), "__init__.py").read_text()
            text = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0].replace("\n", " ")
        name = room if room == "commands" else f"`{room.replace('.', '/')}/`"
        rows.append(f"| {name} | {text} |")
    return "\n".join(rows) + "\n"


def page(order: tuple[str, ...]) -> str:
    """The whole page with the table of now."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table(order) + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    from test_architecture import ORDER

    PAGE.write_text(page(ORDER))
