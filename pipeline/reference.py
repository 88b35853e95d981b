"""Prints every field of a config: its name, value, default and meaning.

Example:
  python -m pipeline.reference --field=replay
  python -m pipeline.reference --markdown > docs/config.md
"""

import sys
import textwrap

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment import fields
from pipeline.experiment.config import UsageError

_FIELD = flags.DEFINE_string("field", "", "Only fields whose dotted name begins so, such as replay or agent.n_step.")
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
        print(_PAGE)
        print("\n".join(fields.markdown()).rstrip())
        return 0
    found = [
        (section, [field for field in section.fields if field.name.startswith(_FIELD.value)])
        for section in fields.sections()
    ]
    if not any(matching for _, matching in found):
        raise UsageError(f"no field begins with {_FIELD.value!r}: without --field all are printed")
    for section, matching in found:
        if matching:
            print(f"{section.title}  {section.meaning}".rstrip())
        for field in matching:
            default = f" = {field.default}" if field.default else ""
            print(f"  {field.name}{default}  ({field.kind})")
            print(textwrap.fill(field.meaning, _WIDTH, initial_indent="      ", subsequent_indent="      "))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
