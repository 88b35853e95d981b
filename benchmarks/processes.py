"""Processes that a benchmark starts and asks: each answers a line on its standard input with a line of JSON."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import rates
from benchmarks.pages import ROOT
from pipeline.security.network_namespace import Namespace

_START_SECONDS = 300.0
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Failed(Exception):
    """A process of the measurement has ended, or did not do what it was to do; carries what it has said."""


class Process:
    """A process that answers, and that is stopped and continued by signals: at rest it takes nothing from others.

    Args:
      name: of its log.
      module: to run.
      flags: of it.
      folder: for its log.
      namespace: of the network, in which it is to run; None leaves it in this process's.
      environment: variables over those of this process.
    """

    def __init__(
        self,
        name: str,
        module: str,
        flags: Sequence[str],
        folder: Path,
        namespace: Namespace | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        self._answers: list[str] = []
        self._answered = threading.Condition()
        tether = [
            sys.executable,
            "-m",
            "pipeline.runtime.ends_with_parent",
            str(os.getpid()),
        ]  # one at rest would be left for ever
        command = [*tether, sys.executable, "-m", module, *flags]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                namespace.command(command) if namespace else command,
                pass_fds=namespace.descriptors if namespace else (),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )
        self._usage = psutil.Process(self._process.pid)
        threading.Thread(target=self._read, name=f"answers of {name}", daemon=True).start()

    def rest(self) -> None:
        """Stops it where it is."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on."""
        self._process.send_signal(signal.SIGCONT)

    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        try:
            times = self._usage.cpu_times()
        except psutil.Error:
            raise self.failed("has ended") from None
        return float(times.user + times.system)

    def ask(self, question: str = "", seconds: float = 0.0) -> Any:
        """Its answer, one line of JSON, to a line on its standard input.

        Args:
          question: the line.
          seconds: that it takes to answer.
        """
        self.tell(question)
        return self.answer(seconds + _ANSWER_SECONDS)

    def tell(self, question: str = "") -> None:
        """Gives it a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = _START_SECONDS) -> Any:
        """The next line of JSON that it says.

        Raises:
          Failed: there was none.
        """
        with self._answered:
            if not self._answered.wait_for(lambda: self._answers or self._process.poll() is not None, seconds):
                raise self.failed(f"was waited for {seconds:.0f} s and said nothing")
            if not self._answers:
                raise self.failed("has ended")
            return json.loads(self._answers.pop(0))

    def wait_until_it_says(self, words: str) -> None:
        """Waits until its log has these words.

        Raises:
          Failed: it has not, or the process has ended.
        """
        deadline = time.monotonic() + _START_SECONDS
        while words not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None:
                raise self.failed("has ended")
            if time.monotonic() > deadline:
                raise self.failed(f"was waited for {_START_SECONDS:.0f} s until it says {words!r}")
            time.sleep(_POLL_SECONDS)

    def wait(self, seconds: float) -> int:
        """Waits until it has ended; its exit code.

        Raises:
          Failed: it has not.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"was waited for {seconds:.0f} s and has not ended") from None

    def failed(self, how: str) -> Failed:
        """What to raise, with the end of its log."""
        return Failed(f"{self.name} {how}:\n{self._log.read_text(errors='replace')[-2000:]}")

    def end(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._answered:
                self._answers.append(line)
                self._answered.notify_all()
        self._process.wait()
        with self._answered:
            self._answered.notify_all()


def say(answer: Any) -> None:
    """Says a line of JSON to the process that has started this one."""
    print(json.dumps(answer), flush=True)


def answer_rates(call: Callable[[], int], seconds: float) -> None:
    """Answers each line on standard input with the units that a call does in a second; ends this process at the last.

    Args:
      call: does some work and returns how many units it did.
      seconds: of one measurement.
    """
    for _ in sys.stdin:
        (found,) = rates({"": call}, seconds, 1)[""]
        say(found)
    os._exit(0)


def ask_together(processes: Sequence[Process], seconds: float) -> float:
    """The sum of what processes answer that are asked at the same time.

    Args:
      processes: to ask.
      seconds: that they take to answer.
    """
    for process in processes:
        process.tell()
    return sum(float(process.answer(seconds + _ANSWER_SECONDS)) for process in processes)
