"""What a process logs as one JSON object a line, for programs that collect logs; else as text. No TensorFlow.

Each has time, level, run, role, index, life and message, and `exception` where there is one.
"""

import contextlib
import datetime
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import msgspec

from pipeline.runtime.lasting_output import LastingOutput

FORMATS = ("text", "json")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_BEGIN = '{"time": '
_LEVELS: Mapping[str, str] = {"error:": "ERROR", "warning:": "WARNING", "Traceback": "ERROR"}
"""Of a printed line, by how it begins."""


class Source(msgspec.Struct, frozen=True):
    """Whose lines they are."""

    run: str
    role: str
    index: int
    life: int
    """How often the role was started before."""


def starts(folder: Path, name: str) -> int:
    """How often a role was started by hand in a folder of its own, as `count_start` has counted."""
    counted = _counted(folder, name)
    return counted.stat().st_size if counted.exists() else 0


def count_start(folder: Path, name: str) -> None:
    """Counts one start more."""
    with contextlib.suppress(OSError):  # a disk that is full ends no role
        folder.mkdir(parents=True, exist_ok=True)
        with _counted(folder, name).open("a") as file:
            file.write(".")


def line(source: Source, level: str, name: str, message: str, exception: str = "") -> str:
    """One line, without its end.

    Args:
      source: whose it is.
      level: such as "INFO".
      name: of the logger.
      message: of any number of lines.
      exception: with its traceback.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"time": now, "level": level, **msgspec.structs.asdict(source), "logger": name, "message": message}
    return json.dumps(said | ({"exception": exception} if exception else {}))


def readable(text: str) -> str:
    """A line of a log as text, of whichever format it is."""
    if not text.startswith(_BEGIN):
        return text
    try:
        said = json.loads(text)
        words = f"{said['time']} {said['level']} {said['logger']}: {said['message']}"
    except (ValueError, KeyError, TypeError):  # a line that a killed process has not ended
        return text
    return "\n".join(filter(None, (words, said.get("exception", ""))))


def begin(source: Source | None) -> None:
    """Has this process log to stderr: as JSON of a source, or as text."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_TEXT) if source is None else _Json(source))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if source is not None:
        logging.captureWarnings(True)  # Python's own, too
        warnings.formatwarning = _plain
        threading.excepthook = _log_of_thread


def say(source: Source | None, level: str, name: str, text: str) -> None:
    """Writes a line to stderr past logging, which an environment may have put out."""
    now = datetime.datetime.now()
    said = f"{now:%Y-%m-%d %H:%M:%S},{now.microsecond // 1000:03d} {level} {name}: {text}"
    if source is not None:
        message, _, exception = text.partition("\nTraceback ")
        said = line(source, level, name, message, exception and f"Traceback {exception}")
    try:
        os.write(2, f"{said}\n".encode(errors="replace"))
    except OSError:  # nobody reads it
        return


class JsonTerminal:
    """In the place of a terminal: what a command tells its user, as lines of JSON on stdout.

    Args:
      source: the command.
    """

    is_terminal = False

    def __init__(self, source: Source) -> None:
        self._source, self._out = source, LastingOutput(sys.stdout)

    def print(self, text: object, style: str = "", **_: Any) -> None:
        """Writes a line; its level is in the style that it would have on a terminal."""
        level = "ERROR" if "red" in style else "WARNING" if "yellow" in style else "INFO"
        self._out.write(line(self._source, level, "train", str(text).rstrip()) + "\n")

    def take_streams(self) -> None:
        """Has everything that this process prints from now on be lines of JSON, too."""
        logging.basicConfig(level=logging.WARNING, handlers=[_handler(self._source)], force=True)
        stdout: Any = _Printed(sys.stdout, self._source)
        stderr: Any = _Printed(sys.stderr, self._source)
        sys.stdout, sys.stderr = stdout, stderr
        sys.excepthook = _log_uncaught


def _counted(folder: Path, name: str) -> Path:
    return folder / f".{name}.starts"


def _handler(source: Source) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(source))
    return handler


class _Json(logging.Formatter):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def format(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [self.formatStack(record.stack_info)] if record.stack_info else []
        return line(self._source, record.levelname, record.name, record.getMessage(), "\n".join(parts))


class _Printed:
    """A text stream whose lines are written as JSON."""

    def __init__(self, stream: TextIO, source: Source) -> None:
        self._stream, self._source, self._rest = stream, source, ""

    def write(self, text: str) -> int:
        """Writes the lines that are whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for said in filter(None, lines):
            level = next((level for begin, level in _LEVELS.items() if said.startswith(begin)), "INFO")
            self._stream.write(line(self._source, level, "train", said) + "\n")
        return len(text)

    def flush(self) -> None:
        """Writes what is there of a line, too."""
        if self._rest:
            self.write("\n")
        self._stream.flush()

    def isatty(self) -> bool:
        """It is none, whatever reads it."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    return f"{filename}:{lineno}: {category.__name__}: {message}"


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("train").error("it was left by an exception", exc_info=(kind, error, trace))


def _log_of_thread(arguments: Any) -> None:
    what: tuple[type[BaseException], BaseException, TracebackType | None]
    what = arguments.exc_type, arguments.exc_value, arguments.exc_traceback
    name = arguments.thread.name if arguments.thread else "a thread"
    logging.getLogger("role").error("%s has failed", name, exc_info=what)
