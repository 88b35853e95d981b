"""Prints every field of a config: its name, value, default and meaning.

Example:
  python -m pipeline.reference --field=n_step
  python -m pipeline.reference --kind=my_module:MyConfig
  python -m pipeline.reference --markdown > docs/config.md
"""

import sys
import textwrap
from collections.abc import Iterator

import msgspec
from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment import fields
from pipeline.experiment.config import UsageError
from pipeline.experiment.fields import FieldDoc, SectionDoc
from pipeline.experiment.mistakes import kinds as registered_kinds
from pipeline.experiment.mistakes import nearest

_FIELD = flags.DEFINE_string(
    "field",
    "",
    "Only fields whose dotted name begins so, such as replay or agent.n_step; where none does, those with this in "
    "their name or, if there are none, in what is said of them.",
)
_KIND = flags.DEFINE_string(
    "kind", "", "Only fields of [agent] of this kind: one of ours, one that a package registers, or module:Config."
)
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Print the page docs/config.md.")

_PAGE = """# Every field of a config

A config in `configs/` or of your own names what differs from the defaults below; `--set='replay.capacity=10_000'`
overrides one field. `config.toml` in a run directory has them all. `python -m pipeline.reference --field=replay` prints
a part of this page, which is made from the structs: `python -m pipeline.reference --markdown > docs/config.md`.

## A config on top of another

`base` names another config, and the rest of the file says what differs from it:

```toml
base = "minatar_breakout"

[environment]
id = "MinAtar/Freeway-v0"
```

- `base` stands above the first table. It is the name of a config in `configs/`, or a path such as `"mine.toml"` or
  `"../mine.toml"` from the folder of the file that names it. A base may have a base.
- Tables are merged key by key, also `environment.kwargs` and all tables in it. Every other value replaces the base's;
  a list is replaced as a whole. `--set` comes last, and cannot name a base.
- **An `[agent]` of another `kind` starts anew:** none of the base's fields of `[agent]` stay, since they were chosen
  for another algorithm. With the same `kind`, or without one, the tables are merged.
- To undo what the base sets, write the field's default. A key of `kwargs` and `stop.target_return` have no default
  that could be written, so a config on top cannot take them away.
- Each base is checked by itself: a value that cannot be is refused by the name of the file that has it, as are a base
  that does not exist and one that leads back to itself. Whether values fit each other is checked once all are merged.
- A run directory has the result, without `base`: a later change of a base does not reach back into runs.
"""
_WIDTH = 100


def main(arguments: list[str]) -> int:
    """Prints what was asked for."""
    refuse_more(arguments)
    if _MARKDOWN.value:
        if _FIELD.value or _KIND.value:
            raise UsageError("--markdown prints the whole page: leave --field and --kind out, or --markdown")
        print(_PAGE)
        print("\n".join(fields.markdown()).rstrip())
        return 0
    kinds = [_KIND.value] if _KIND.value else registered_kinds()
    try:
        everything = [
            section for section in fields.sections(kinds) if section.title[:7] == "[agent]" or not _KIND.value
        ]
    except ValueError as error:
        raise UsageError(str(error)) from None
    for title, meaning, matching in _joined(_matching(everything, _FIELD.value)):
        print(f"{title}  {meaning}".rstrip())
        for field in matching:
            default = f" = {field.default}" if field.default else ""
            print(f"  {field.name}{default}  ({field.kind})")
            print(textwrap.fill(field.meaning, _WIDTH, initial_indent="      ", subsequent_indent="      "))
    return 0


def _matching(everything: list[SectionDoc], wanted: str) -> list[SectionDoc]:
    """The sections with those of their fields that are wanted.

    Raises:
      UsageError: there are none.
    """
    text = wanted.strip().lower()
    for is_wanted in (
        lambda field: field.name.startswith(text),
        lambda field: text in field.name,
        lambda field: text in field.meaning.lower(),
    ):
        found = [(section, tuple(filter(is_wanted, section.fields))) for section in everything]
        if any(matching for _, matching in found):
            return [msgspec.structs.replace(section, fields=matching) for section, matching in found if matching]
    near = nearest(text, {field.name for section in everything for field in section.fields})
    raise UsageError(
        f"no field is called {wanted!r} or says so; near are {', '.join(near)}. Without --field all are printed"
    )


def _joined(sections: list[SectionDoc]) -> Iterator[tuple[str, str, tuple[FieldDoc, ...]]]:
    """Titles, meanings and fields; what several kinds of agents have alike is printed once for all of them."""
    kinds: dict[FieldDoc, list[str]] = {}
    agents = [section for section in sections if section.title[:7] == "[agent]"]
    for section in agents:
        for field in section.fields:
            kinds.setdefault(field, []).append(section.title.rpartition(" = ")[2].strip('"'))
    groups: dict[tuple[str, ...], list[FieldDoc]] = {}
    for field, names in kinds.items():
        groups.setdefault(tuple(names), []).append(field)
    for section in sections:
        if section not in agents or len(agents) == 1:
            yield section.title, section.meaning, section.fields
        elif section is agents[0]:
            for of_kinds, alike in groups.items():
                yield f"[agent] of {', '.join(of_kinds)}", "", tuple(alike)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
