"""Pages of the documentation whose tables are written from results: what stands outside the marks stays."""

from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository."""
DOCS = ROOT / "docs"


def write_between(path: Path, name: str, lines: Sequence[str], page: str = "") -> None:
    """Replaces what a page has between the marks of that name.

    Args:
      path: of the page.
      name: in its marks, `<!-- name: begin -->` and `<!-- name: end -->`.
      lines: that come there.
      page: what is above the marks of a page that does not exist yet.

    Raises:
      ValueError: the page lacks the marks.
    """
    begin, end = (f"<!-- {name}: {where} -->" for where in ("begin", "end"))
    text = path.read_text() if path.exists() else f"{page}\n{begin}\n{end}\n"
    if not (begin in text and end in text):
        raise ValueError(f"{path} lacks the marks {begin} and {end}")
    before, rest = text.split(begin, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([before + begin, "", *lines, "", end + rest.split(end, 1)[1]]))


def table(head: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """A table as lines of Markdown.

    Args:
      head: its first line, as it stands in the page.
      rows: cells of each line below.
    """
    rule = "|" + "---|" * (head.count("|") - 1)
    return [head, rule, *(f"| {' | '.join(map(str, cells))} |" for cells in rows)]
