"""The processes of a measurement: at rest unless they are measured, their CPU counted from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import reverb

from pipeline.messages.channel import REPORTS_TABLE, VARIABLES_TABLE, WEIGHTS_TABLE
from pipeline.runtime.process import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 300.0
_ANSWER_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Failed(Exception):
    """A process of the measurement has ended, or did not do what it was to do; carries what it has said."""


class Process:
    """A process that is stopped and continued by signals: one that rests takes nothing from those measured.

    Args:
      name: of its log.
      module: to run.
      flags: of it.
      folder: for its log.
    """

    def __init__(self, name: str, module: str, flags: Sequence[str], folder: Path) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        self._answers: list[str] = []
        self._answered = threading.Condition()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                preexec_fn=die_with_parent,  # one that rests would else be left for ever
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

    def ask(self, question: str, seconds: float = 0.0) -> Any:
        """Its answer, one line of JSON, to a line on its standard input.

        Args:
          question: the line.
          seconds: that it takes to answer.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self.answer(seconds + _ANSWER_SECONDS)

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


class Counts(NamedTuple):
    """What servers have taken and given so far, all of them together."""

    inserted: int
    """Items of experience."""
    drawn: int
    announced: int
    """Announcements taken: publications."""
    fetched: int
    """Announcements given."""
    weights: int
    """Sets of weights given."""
    reported: int
    """Reports taken."""


class Servers:
    """The servers of a replay, or relays, asked for what they count.

    Args:
      addresses: of them.
      table: of experience.
    """

    def __init__(self, addresses: Sequence[str], table: str) -> None:
        self._clients, self._table = [reverb.Client(address) for address in addresses], table

    def counts(self) -> Counts:
        """Those of all of them, added up."""
        totals = Counts(0, 0, 0, 0, 0, 0)
        for client in self._clients:
            limiters = {name: info.rate_limiter_info for name, info in client.server_info(timeout=30).items()}
            taken = {name: int(limiter.insert_stats.completed) for name, limiter in limiters.items()}
            given = {name: int(limiter.sample_stats.completed) for name, limiter in limiters.items()}
            now = Counts(
                taken.get(self._table, 0),
                given.get(self._table, 0),
                taken[VARIABLES_TABLE],
                given[VARIABLES_TABLE],
                given[WEIGHTS_TABLE],
                taken.get(REPORTS_TABLE, 0),
            )
            totals = Counts(*(total + count for total, count in zip(totals, now, strict=True)))
        return totals


def window(
    servers: Servers, processes: Mapping[str, Sequence[Process]], meanwhile: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """What happens in some seconds.

    Args:
      servers: whose counts are taken.
      processes: whose CPU is counted, by the kind that they are added up to.
      meanwhile: takes these seconds, and returns what else is to be kept.

    Returns:
      `seconds`, the `Counts` and, by kind, CPU seconds as `cpu KIND`.
    """
    used, before, started = _cpu(processes), servers.counts(), time.perf_counter()
    more = meanwhile()
    seconds, after, now = time.perf_counter() - started, servers.counts(), _cpu(processes)
    values = {name: float(last - first) for name, first, last in zip(Counts._fields, before, after, strict=True)}
    return {"seconds": seconds, **values, **{f"cpu {kind}": now[kind] - used[kind] for kind in used}, **more}


def _cpu(processes: Mapping[str, Sequence[Process]]) -> dict[str, float]:
    return {kind: sum(process.cpu() for process in of_kind) for kind, of_kind in processes.items()}


class Setting(NamedTuple):
    """One thing to measure."""

    name: str
    active: Sequence[Process]
    """All others rest meanwhile."""
    measure: Callable[[], Mapping[str, float]]


def in_turn(
    settings: Sequence[Setting],
    settle_seconds: float,
    repeats: int,
    keep: Callable[[str, int, Mapping[str, float]], None],
) -> None:
    """Measures settings in turn (A B A B ...), so that noise meets all alike.

    Args:
      settings: what to measure.
      settle_seconds: between the moment when the processes of a setting go on and its measurement.
      repeats: measurements of each.
      keep: takes the name of a setting, the number of the repeat and what was measured.
    """
    everybody = list({id(process): process for setting in settings for process in setting.active}.values())
    for process in everybody:
        process.rest()
    for repeat in range(repeats):
        for setting in settings:
            for process in setting.active:
                process.go_on()
            time.sleep(settle_seconds)
            keep(setting.name, repeat, setting.measure())
            for process in setting.active:
                process.rest()
