"""What all commands share: flags are parsed, a user's mistake is one line and exit code 2."""

import sys
from collections.abc import Callable

from absl import flags

from pipeline.config import UsageError


def run_command(main: Callable[[list[str]], int], description: str | None) -> int:
    """Parses the flags, runs `main` on the remaining arguments and returns its exit code.

    Args:
      main: raises `UsageError` for what the user has to mend.
      description: shown above the flags by `--help`.
    """
    module = sys.modules["__main__"]
    try:
        arguments = flags.FLAGS(sys.argv)
    except flags.Error as error:
        print(f"error: {error} (--help lists the flags)", file=sys.stderr)
        return 2
    if flags.FLAGS["help"].value if "help" in flags.FLAGS else False:
        print(description, flags.FLAGS.module_help(module), sep="\n")
        return 0
    try:
        return main(arguments)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
