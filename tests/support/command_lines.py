"""Command lines that pages and recipes give, and whether our commands take them, by what their help says."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def flags_of(command: str) -> Mapping[str, str]:
    """Flags of a command such as "train" or "replay inspect", by name: what they take, or "" for a switch."""
    module, *subcommand = command.split()
    asked = [sys.executable, "-m", f"pipeline.{module}", *subcommand, "--help"]
    result = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(re.findall(r"^  --(?:\[no\])?(\w+)(?:[= ](\S+))?(?:  .*)?$", result.stdout, re.MULTILINE))


def parsed(command: str, arguments: Sequence[str]) -> dict[str, str]:
    """Values by flag of a command line that the command takes."""
    flags, values = flags_of(command), {}
    for argument in arguments:
        match = re.fullmatch(r"--(\w+)(?:=(.*))?", argument)
        assert match, f"{command}: {argument!r} is no flag"
        name, value = match[1], match[2]
        assert name in flags, f"{command} has no --{name}"
        takes = flags[name]
        assert (value is None) == (takes == ""), f"{command}: {argument}"
        if takes == "N":
            assert value.isdecimal(), argument
        elif "|" in takes:
            assert value in takes.split("|"), argument
        assert "$" not in (value or ""), f"{argument} was not expanded"
        assert name == "set" or name not in values, f"--{name} is there twice"
        values[name] = value or ""
    return values


def command_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of ours with their arguments, from shell lines without variables of their own."""
    joined = text.replace("\\\n", " ").replace("$PWD", "/home/me")
    for command, arguments in re.findall(r"-m pipeline\.(\w+) ([^\n]*)", joined):
        yield command, shlex.split(arguments, comments=True)
