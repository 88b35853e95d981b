"""Command lines of one command, run one after the other in one process: importing takes longer than a mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

_PROGRAM = """
import contextlib, importlib, io, json, sys
from absl import flags
from pipeline.command import run_command
name, lines = sys.argv[1], json.loads(sys.argv[2])
try:
    command = importlib.import_module(f"pipeline.{name}.__main__")
except ModuleNotFoundError:  # a file directly in pipeline/
    command = importlib.import_module(f"pipeline.{name}")
flags.FLAGS.set_gnu_getopt(name == "replay")  # its subcommand stands before its flags
for line in lines:
    sys.argv[1:] = line
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = run_command(command.main, "")
    print(json.dumps([code, output.getvalue(), errors.getvalue()]))
    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()
"""


class Answer(NamedTuple):
    """What a command line came to."""

    code: int
    output: str
    errors: str


def answers(
    name: str,
    lines: Sequence[Sequence[str]],
    *,
    then: str = "",
    folder: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Runs a command on each line.

    Args:
      name: of the command, such as "train".
      lines: flags and arguments of each.
      then: code that the process runs in the end.
      folder: where it runs.
      variables: its environment; by default that of this process.
    """
    environment = {
        **(os.environ if variables is None else variables),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM + then, name, json.dumps([list(line) for line in lines])],
        capture_output=True, text=True, check=False, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = [Answer(*json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(lines), done.stdout + done.stderr
    return found


def refusals(name: str, cases: Sequence[tuple[Sequence[str], str]], *, then: str = "", folder: Path = ROOT) -> None:
    """Sees that each line is refused in one line that has certain words, with exit code 2 and without output."""
    for (line, words), answer in zip(
        cases, answers(name, [line for line, _ in cases], then=then, folder=folder), strict=True
    ):
        assert (answer.code, answer.output) == (2, ""), (line, answer)
        assert answer.errors.startswith("error: "), (line, answer)
        assert words in answer.errors, (line, answer)
        assert answer.errors.count("\n") == 1, (line, answer)
