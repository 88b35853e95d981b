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
