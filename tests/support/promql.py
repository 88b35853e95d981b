"""What a PromQL expression reads: its metrics, and the labels that it matches, groups by and joins on."""

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') |
    (?P<duration>\d+(?:ms|[smhdwy])|\$__\w+) |
    (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?) |
    (?P<name>[a-zA-Z_][a-zA-Z0-9_:]*) |
    (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],=<>@:])
    )""",
    re.VERBOSE,
)
_GROUPINGS = ("by", "without", "on", "ignoring", "group_left", "group_right")
_WORDS = (*_GROUPINGS, "and", "or", "unless", "bool", "offset", "inf", "nan")


class Reads(NamedTuple):
    """What one expression reads."""

    metrics: frozenset[str]
    matched: frozenset[tuple[str, str]]
    """Metric and label."""
    grouped: frozenset[str]
    """Labels that are grouped by or joined on."""


def reads(expression: str) -> Reads:
    """Reads an expression; one that cannot be read raises ValueError."""
    tokens, at = [], 0
    while expression[at:].strip():
        found = _TOKEN.match(expression, at)
        if found is None:
            raise ValueError(f"not PromQL at {expression[at : at + 20]!r}")
        kind = str(found.lastgroup)
        tokens.append((kind, found[kind]))
        at = found.end()
    _refuse_open([text for kind, text in tokens if kind == "sign"], expression)
    metrics, matched, grouped = set(), set(), set()
    index = 0
    while index < len(tokens):
        kind, text = tokens[index]
        following = tokens[index + 1][1] if index + 1 < len(tokens) else ""
        if kind == "name" and text in _GROUPINGS:
            if following == "(":
                end = next(i for i in range(index, len(tokens)) if tokens[i][1] == ")")
                grouped |= {word for what, word in tokens[index:end] if what == "name" and word not in _GROUPINGS}
                index = end
        elif kind == "name" and text.lower() not in _WORDS and following not in ("(", *_GROUPINGS):
            metrics.add(text)
            if following == "{":
                end = next(i for i in range(index, len(tokens)) if tokens[i][1] == "}")
                matched |= {(text, word) for what, word in tokens[index + 1 : end] if what == "name"}
                index = end
        index += 1
    return Reads(frozenset(metrics), frozenset(matched), frozenset(grouped))


def _refuse_open(signs: list[str], expression: str) -> None:
    ends, opened = {")": "(", "}": "{", "]": "["}, []
    for sign in signs:
        if sign in ends.values():
            opened.append(sign)
        elif sign in ends and (not opened or opened.pop() != ends[sign]):
            raise ValueError(f"{sign} closes nothing in {expression!r}")
    if opened:
        raise ValueError(f"{opened[-1]} is not closed in {expression!r}")
