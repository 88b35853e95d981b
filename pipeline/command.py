"""What all commands share: flag parsing, --help, and one-line errors with exit code 2."""

import os
import re
import sys
import traceback
from collections.abc import Callable

from absl import flags

from pipeline.experiment.config import UsageError

_DEBUG = flags.DEFINE_bool("debug", False, "Show where an error comes from, above its line.")


def run_command(main: Callable[[list[str]], int], description: str | None) -> int:
    """Parses the flags, runs `main` on the remaining arguments and returns its exit code.

    Args:
      main: raises `UsageError` for what the user has to mend.
      description: shown above the flags by `--help`.
    """
    try:
        code = _run(main, description or "")
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def refuse_more(arguments: list[str], advice: str = "options are written --name=value") -> None:
    """Refuses words of a command line that are no flags.

    Args:
      arguments: as `run_command` hands them over.
      advice: what to do instead.

    Raises:
      UsageError: there is one behind the first.
    """
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: {advice}")


def _run(main: Callable[[list[str]], int], description: str) -> int:
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(_help(description))
        return 0
    try:
        arguments = flags.FLAGS(sys.argv)
    except flags.Error as error:
        print(f"error: {error} (--help lists the flags)", file=sys.stderr)
        return 2
    try:
        return main(arguments)
    except UsageError as error:
        if _DEBUG.value:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2


def _help(description: str) -> str:
    lines = [description.strip(), "", "Flags:"]
    for flag in [*flags.FLAGS.get_key_flags_for_module(sys.modules["__main__"]), flags.FLAGS["debug"]]:
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}={_kind(flag)}"
        default = f" (default: {flag.default_as_str.strip(chr(39))})" if flag.default not in (None, [], False) else ""
        text = re.sub(r"^<.*?>: |;\s+repeat this option.*", "", flag.help, flags=re.DOTALL)  # absl's additions
        lines += [f"  {name}", f"      {text}{default}"]
    return "\n".join(lines)


def _kind(flag: flags.Flag) -> str:
    if isinstance(flag, flags.EnumFlag):
        return "|".join(flag.parser.enum_values)
    return {"int": "N", "float": "X"}.get(flag.flag_type(), "TEXT")
