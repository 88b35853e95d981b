"""What all commands share: flag parsing, --help, and one-line errors with exit code 2."""

import contextlib
import errno
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable

from absl import flags

from pipeline.experiment.config import UsageError

_DEBUG = flags.DEFINE_bool("debug", False, "Show where an error comes from, above its line.")

TRUST_HELP = (
    "no: import nothing that the directory's config names, such as environment.import_path, a kind of agent or a "
    "shield; what cannot be done without is refused. For directories of other users."
)
"""Of the flag --trust=yes|no, which every command has that reads a run's directory."""

_EXIT_SECONDS = 10.0


def run_command(main: Callable[[list[str]], int], description: str | None) -> int:
    """Parses the flags, runs `main` on the remaining arguments and returns its exit code.

    Args:
      main: raises `UsageError` for what the user has to mend.
      description: shown above the flags by `--help`.
    """
    is_process = main.__module__ == "__main__"  # else this process goes on with something else
    if is_process:
        _open_streams()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors alone, whoever imports TensorFlow
    try:
        code = _run(main, description or "", is_process)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename is not None:
            raise
        print(f"error: stdout could not be written: {error}", file=sys.stderr)
        code = 1
    if is_process:
        _end_output(code)
    return code


def _open_streams() -> None:
    """Opens what the process was started without, so that no other file gets the number of stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _end_output(code: int) -> None:
    """The command has said its last: what an environment prints at exit goes to stderr, and it has some time for it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(2, sys.stdout.fileno())
    threading.Thread(target=_leave_in_time, args=(code,), daemon=True).start()


def _leave_in_time(code: int) -> None:
    """Ends the process where threads or children that an environment has left do not: exit waits for them."""
    time.sleep(_EXIT_SECONDS)
    with contextlib.suppress(ImportError):
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    os._exit(code)


def _hide_flags() -> None:
    """Takes the flags of our commands out of absl's list: a module of the user's may define others of the same name."""
    own, moved = flags.FlagValues(), set()
    for name, module in list(sys.modules.items()):
        if name != "__main__" and name.partition(".")[0] not in ("pipeline", "benchmarks"):
            continue
        for holder in list(vars(module).values()):
            if isinstance(holder, flags.FlagHolder) and holder._flagvalues is flags.FLAGS:
                own[holder.name] = flags.FLAGS[holder.name]
                holder._flagvalues = own
                moved.add(holder.name)
    own.mark_as_parsed()
    for name in moved:
        delattr(flags.FLAGS, name)


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


def _run(main: Callable[[list[str]], int], description: str, is_process: bool) -> int:
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(_help(description))
        return 0
    try:
        arguments = flags.FLAGS(sys.argv)
    except flags.Error as error:
        print(f"error: {error} (--help lists the flags)", file=sys.stderr)
        return 2
    if is_process:
        _hide_flags()
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
