"""What a role that was started by hand says of itself: its log and its end, for the learner's run directory.

On one machine a supervisor has the roles' output in files of the run directory. Roles on hosts of their own send what
they log through the channel of reports, some seconds late; what a process that is killed has not sent is in its host's
log alone. No TensorFlow.
"""

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from agents.struct_types import prepared
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.addresses import accepts
from pipeline.messages.channel import Sender
from pipeline.messages.contents import REPORTS_TABLE, TOLD_TO_LEAVE

_SECONDS = 3.0
"""Between two messages of a role that has something to say."""
_SEND_SECONDS = 3.0
_MOST_CHARACTERS = 64_000
"""Of one message: of a role that says more, the newest lines are sent."""
_MOST_BYTES = 4_000_000
"""Of a role's log in the learner's run directory: beyond it the older half goes."""


class RoleWords(msgspec.Struct, frozen=True, tag="words"):
    """What a role's process has logged since its last message, and where it is."""

    role: Literal["replay", "learner", "inference", "collector", "evaluator", "relay"]
    index: int
    host: str
    folder: str
    """Its `--run_dir` there; empty where it has none."""
    text: str
    exit_code: int | None = None
    """Of its last words; None while it goes on."""
    reason: str = ""
    """Of its last words: what has ended it, if something has."""

    @property
    def name(self) -> str:
        """Of the role, as logs are named."""
        is_alone = self.role == "evaluator" or (self.role == "learner" and not self.index)
        return self.role if is_alone else f"{self.role}-{self.index}"

    @property
    def fault(self) -> str:
        """How it failed, in one line; empty while it goes on, and where it left in good order."""
        if self.exit_code in (None, 0, TOLD_TO_LEAVE):
            return ""
        said = [line.strip() for line in self.reason.splitlines() if line.strip()]
        how = f"{self.name} on {self.host} ended with exit code {self.exit_code}"
        return _printable(f"{how}: {said[-1]}" if said else how)


class WhereRole(msgspec.Struct, frozen=True):
    """Of `roles.json`: where a role was, and how it failed."""

    host: str
    folder: str
    """Its own directory there; empty where it has none."""
    fault: str
    """Empty while it goes on, and where it left in good order."""


def roles_file(run: RunDirectory) -> Path:
    """Where a learner writes down where its roles are."""
    return run.path / "roles.json"


def where_roles(run: RunDirectory) -> dict[str, WhereRole]:
    """Where the roles of a run were, by name, as far as its learner has been told; empty of a run on one machine."""
    try:
        return msgspec.json.decode(roles_file(run).read_bytes(), type=dict[str, prepared(WhereRole)])  # type: ignore[misc]
    except (OSError, msgspec.MsgspecError):
        return {}


class Words(logging.Handler):
    """Collects what this process logs, and hands it over now and then, in a thread.

    Args:
      role: of this process.
      index: its number.
      folder: its own directory, if it has one.
    """

    def __init__(self, role: str, index: int, folder: str | None) -> None:
        super().__init__()
        self._kind, self._index = role, index
        self._host, self._folder = socket.gethostname(), os.path.abspath(folder) if folder else ""
        self._lines: deque[str] = deque()
        self._characters = 0
        self._deliver: Callable[[RoleWords], object] | None = None
        self._has_ended = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line of the log."""
        line = self.format(record)
        with self._guard():
            self._lines.append(line[-_MOST_CHARACTERS:])
            self._characters += len(self._lines[-1])
            while self._characters > _MOST_CHARACTERS:
                self._characters -= len(self._lines.popleft())

    def send_to(self, address: str) -> None:
        """Hands them over to the learner, through the server at an address that takes reports."""
        sender = Sender(address, REPORTS_TABLE)
        # The replay's own role ends after its server.
        self.hand_to(lambda words: accepts(address, _SEND_SECONDS) and sender.send(words, _SEND_SECONDS))

    def hand_to(self, deliver: Callable[[RoleWords], object]) -> None:
        """Hands them over by a function from now on; what it answers False to is handed over again."""
        self._deliver = deliver
        threading.Thread(target=self._keep_handing_over, name="words", daemon=True).start()

    def end(self, exit_code: int | None, reason: str) -> None:
        """Hands the last ones over, if that can be done soon; None is of a process that begins anew by itself."""
        if reason:
            self.emit(logging.makeLogRecord({"name": "role", "levelname": "ERROR", "msg": reason}))
        self._has_ended.set()
        last = threading.Thread(target=self._hand_over, args=(exit_code, reason), name="last words", daemon=True)
        last.start()
        last.join(_SEND_SECONDS)

    def _keep_handing_over(self) -> None:
        is_known = False
        while True:
            if not is_known or self._lines:
                is_known = self._hand_over() or is_known
            if self._has_ended.wait(_SECONDS):
                return

    def _hand_over(self, exit_code: int | None = None, reason: str = "") -> bool:
        if self._deliver is None:
            return False
        with self._guard():
            lines, self._lines, self._characters = list(self._lines), deque(), 0
        text = "".join(f"{line}\n" for line in lines)
        words = RoleWords(self._kind, self._index, self._host, self._folder, text, exit_code, reason)  # type: ignore[arg-type]
        if self._deliver(words) is not False:
            return True
        with self._guard():
            self._lines.extendleft(reversed(lines))
            self._characters += sum(map(len, lines))
        return False

    def _guard(self) -> threading.RLock:
        assert self.lock is not None
        return self.lock  # type: ignore[return-value]


_words: Words | None = None
"""Of this process; None of one whose supervisor keeps its output."""


def begin(role: str, index: int, folder: str | None, address: str) -> None:
    """Has what this process logs come into the learner's run directory.

    Args:
      role: of this process.
      index: its number.
      folder: its own directory, if it has one.
      address: of the server that takes reports. The learner itself keeps its own, see `keep_in`.
    """
    global _words
    _words = Words(role, index, folder)
    root = logging.getLogger()
    _words.setFormatter(root.handlers[0].formatter)
    root.addHandler(_words)
    if role != "learner" or index:
        _words.send_to(address)


def keep_in(folder: Path) -> None:
    """Of the learner itself: keeps what it logs in that folder."""
    if _words is not None:
        _words.hand_to(RoleLogs(folder).write)


def end(exit_code: int | None, reason: str) -> None:
    """See `Words.end`."""
    if _words is not None:
        _words.end(exit_code, reason)


class RoleLogs:
    """Keeps what roles say of themselves in files, a bounded one each.

    Args:
      folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, words: RoleWords) -> None:
        """Appends a role's newest lines to `<role>.log`; a full disk costs them."""
        path = self._folder / f"{words.name}.log"
        try:
            with path.open("ab") as log:
                log.write(_printable(words.text).encode(errors="replace"))
                size = log.tell()
            if size > _MOST_BYTES:
                path.write_bytes(path.read_bytes()[-_MOST_BYTES // 2 :].partition(b"\n")[2])
        except OSError:
            return


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(letter if letter in "\n\t" or letter.isprintable() else "?" for letter in text)
