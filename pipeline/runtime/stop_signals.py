"""Signals that ask a process to stop, held against environments that handle signals themselves."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_HANGUP_IS_IGNORED = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
"""As `nohup` has it: such a process outlives its terminal."""
_ECHO_SECONDS = 0.03
"""Within which two signals are one request: `timeout` sends its signal to the process and then to its group."""
_HOLD_SECONDS = 1.0
_POLL_SECONDS = 0.02


class Interruption(threading.Event):
    """An event that SIGTERM, SIGINT and SIGHUP set, from `hold` until `release`.

    An environment that installs handlers of its own, ignores these signals or blocks them takes them for a moment:
    whoever asks `is_set` in the main thread takes them back. A process that an environment forks has none of it, so
    that `terminate()` ends it. Outside the main thread no signal can be handled: there the event stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by = ""
        """Name of the first signal; empty while there is none."""
        self._asked, self._asked_at, self._is_hung_up = 0, -_ECHO_SECONDS, False
        self.numbers = [signal.SIGINT, signal.SIGTERM, *([] if _HANGUP_IS_IGNORED else [signal.SIGHUP])]
        self._before: dict[signal.Signals, Any] = {}
        self._own = self._on_signal  # one object, to be told from what others install
        self._thread, self._held_at = threading.get_ident(), 0.0

    def hold(self) -> "Interruption":
        """Takes the signals; returns itself."""
        self._thread = threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._own) for number in self.numbers}
            # Were it ignored, as a parent may have left it, the exit codes of processes started here would be lost.
            self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._take_back()
            held.append(self)
        return self

    @property
    def requests(self) -> int:
        """How often somebody has asked; a terminal that hangs up makes no difference once somebody has."""
        return max(self._asked, int(self._is_hung_up))

    def is_set(self) -> bool:
        """Whether somebody has asked to stop."""
        if self._before and threading.get_ident() == self._thread:
            is_taken = any(signal.getsignal(number) is not self._own for number in self.numbers)
            if is_taken or time.monotonic() - self._held_at > _HOLD_SECONDS:
                self._take_back()
        return self.requests > 0 or super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until somebody asks."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _POLL_SECONDS if deadline is None else min(_POLL_SECONDS, deadline - time.monotonic())
            if left <= 0.0:
                return False
            time.sleep(left)
        return True

    def release(self) -> None:
        """Gives the signals back to the handlers that there were before."""
        if self._before:
            held.remove(self)
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before = {}

    def forget(self) -> None:
        """Leaves the signals to their defaults: this is a forked process."""
        for number in self.numbers:
            if signal.getsignal(number) is self._own:
                default: Any = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                with contextlib.suppress(ValueError):
                    signal.signal(number, default)
        self._before = {}

    def _take_back(self) -> None:
        self._held_at = time.monotonic()
        for number in self.numbers:
            signal.signal(number, self._own)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.numbers)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Nothing here may wait for a lock, which the code that is interrupted could hold.
        self.by = self.by or signal.Signals(number).name
        if number == signal.SIGHUP:
            self._is_hung_up = True
        elif time.monotonic() - self._asked_at > _ECHO_SECONDS:
            self._asked, self._asked_at = self._asked + 1, time.monotonic()


held: list[Interruption] = []
_masks: dict[int, Any] = {}
"""Of threads that fork now: the signals that were blocked before."""


def _before_fork() -> None:
    # One that reaches the new process before its handlers are its own would be lost there.
    if held:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, held[-1].numbers)


def _after_fork_in_parent() -> None:
    if (mask := _masks.pop(threading.get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    while held:
        held.pop().forget()
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
