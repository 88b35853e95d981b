"""Logs as JSON: an object a line, whatever is logged, printed or raised, and back as text."""

import json
import subprocess
import sys
from typing import Any

from pipeline.monitoring.log_lines import Source, count_start, line, readable, starts

SOURCE = Source("cartpole-1", "collector", 2, 3)
FIELDS = {"time", "level", "run", "role", "index", "life", "logger", "message"}
HEAD = "from pipeline.monitoring.log_lines import *; import logging, sys, threading, warnings\n"
HEAD += "source = Source('cartpole-1', 'collector', 2, 3)\n"


def run(code: str) -> tuple[list[Any], list[Any], int]:
    """What a process writes to stdout and stderr, each line read as JSON, and its exit code."""
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False)
    out, err = ([json.loads(text) for text in stream.splitlines()] for stream in (done.stdout, done.stderr))
    for said in (*out, *err):
        assert set(said) - {"exception"} == FIELDS
        assert (said["run"], said["role"], said["index"], said["life"]) == ("cartpole-1", "collector", 2, 3)
        assert said["time"].endswith("Z")
    return out, err, done.returncode


def test_a_role_logs_an_object_a_line() -> None:
    _, said, code = run(
        "begin(source)\n"
        "logging.getLogger('a').info('two %s\\nof it', 'lines')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logging.getLogger('b').exception('no number')\n"
        "warnings.warn('old')\n"
        "thread = threading.Thread(target=lambda: [][0], name='worker'); thread.start(); thread.join()\n"
        "say(source, 'ERROR', 'role', 'it ends\\nTraceback (most recent call last):\\n  deep\\nValueError: x')\n"
    )
    assert code == 0
    assert [(one["level"], one["logger"]) for one in said] == [
        ("INFO", "a"), ("ERROR", "b"), ("WARNING", "py.warnings"), ("ERROR", "role"), ("ERROR", "role"),
    ]  # fmt: skip
    assert said[0]["message"] == "two lines\nof it"
    assert said[1]["exception"].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "UserWarning: old" in said[2]["message"]
    assert said[3]["message"] == "worker has failed"
    assert "IndexError" in said[3]["exception"]
    assert (said[4]["message"], said[4]["exception"].splitlines()[-1]) == ("it ends", "ValueError: x")


def test_a_command_prints_an_object_a_line() -> None:
    out, err, code = run(
        "terminal = JsonTerminal(source); terminal.take_streams()\n"
        "terminal.print('calm'); terminal.print('odd', style='yellow', markup=False)\n"
        "terminal.print('it\\nfailed', style='bold red')\n"
        "print('a line'); print('half', end='', flush=True)\n"
        "print('warning: low', file=sys.stderr); print('error: no', file=sys.stderr)\n"
        "raise ValueError('not\\ncaught')\n"
    )
    assert code == 1
    assert [(one["level"], one["message"]) for one in out] == [
        ("INFO", "calm"), ("WARNING", "odd"), ("ERROR", "it\nfailed"), ("INFO", "a line"), ("INFO", "half"),
    ]  # fmt: skip
    assert [(one["level"], one["message"]) for one in err[:2]] == [("WARNING", "warning: low"), ("ERROR", "error: no")]
    assert len(err) == 3, "what nobody has caught is one line"
    assert err[2]["exception"].endswith("ValueError: not\ncaught")


def test_a_line_is_readable_again_and_others_stay_as_they_are() -> None:
    said = line(SOURCE, "ERROR", "role", "one: two\nthree", "Traceback\n  deep")
    assert "\n" not in said
    assert readable(said).partition(" ")[2] == "ERROR role: one: two\nthree\nTraceback\n  deep"
    for other in ("plain", said[:-9], '{"time": 1}'):
        assert readable(other) == other


def test_starts_are_counted_by_role(tmp_path: Any) -> None:
    folder = tmp_path / "new"
    assert starts(folder, "collector-0") == 0
    for _ in range(3):
        count_start(folder, "collector-0")
    assert (starts(folder, "collector-0"), starts(folder, "collector-1")) == (3, 0)
    (tmp_path / "file").write_text("")
    count_start(tmp_path / "file" / "below", "collector-0")  # ends no role
