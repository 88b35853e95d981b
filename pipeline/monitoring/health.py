"""Whether a role's process is alive and ready, for whoever asks it: an operator, Kubernetes, systemd. No TensorFlow.

A process that works gives signs of life in its record (`pipeline.records.recorder`). Whoever has started it judges by
them, or it does so itself, from a thread.
"""

import faulthandler
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.messages.contents import CollectorReport, Evaluation
from pipeline.records.counters import Seen
from pipeline.records.recorder import Recorder, Signs
from pipeline.runtime.signs_of_life import ALL_LANES, MAKING, NO_CALL, RESETTING, STEPPING, RunningClock

if TYPE_CHECKING:
    from pipeline.monitoring.log_lines import Source

log = logging.getLogger(__name__)

_START_SECONDS = 600.0
"""Until the first sign of life: imports, a large replay to restore, compilation."""
_PATIENCE_FACTOR = 4.0
"""Of the longest call of the environment that has been measured, before one of the same kind counts as hanging."""
_CALLS = {MAKING: "the constructor", RESETTING: "a reset", STEPPING: "a step"}
_LOOK_SECONDS = 0.25
"""Between two looks of a process at itself."""
_AWAY_SECONDS = 15.0
"""Without an answer of the replay after which those who need it are not ready."""
_PINGS = 3
"""So many in the time after which systemd ends a process without one."""


class Pulse:
    """Judges by a process's record whether it hangs; it has to be asked again and again.

    Args:
      recorder: the record.
      silent_seconds: without a sign of life after which the process hangs.
      setting: the field that says so, for messages.
      longest: seconds of the longest call of the environment that has been seen, by its kind; it grows.
    """

    def __init__(self, recorder: Recorder, silent_seconds: float, setting: str, longest: dict[int, float]) -> None:
        self._recorder, self._silent_seconds, self._setting = recorder, silent_seconds, setting
        self._longest = longest
        self._clock = RunningClock()
        self._signs = Signs(0, NO_CALL, ALL_LANES)
        self.begun = self.beat_at = self._clock()
        """When the process was started, and when it last gave a sign of life, by a clock of its own."""
        self.working_from: float | None = None
        """When its first environment step was seen."""

    def hangs(self) -> bool:
        """Whether the process gives no sign of life."""
        now, signs = self._clock(), self._recorder.signs
        if signs != self._signs:
            if (call := self._signs.call) != NO_CALL:
                self._longest[call] = max(self._longest.get(call, 0.0), now - self.beat_at)
            self._signs, self.beat_at = signs, now
        if self.working_from is None and self._recorder.counts.environment_steps:
            self.working_from = now
        return now - self.beat_at > self.patience

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which the process hangs, where it is now."""
        least = self._silent_seconds
        if not self._signs.beats:
            least = max(least, _START_SECONDS)
        return max(least, _PATIENCE_FACTOR * self._longest.get(self._signs.call, 0.0))

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life that was seen."""
        return self._clock() - self.beat_at

    @property
    def place(self) -> str:
        """Where the process is, such as "in a reset of its environment, lane 3"."""
        call, lane = self._signs.call, self._signs.lane
        if call not in _CALLS:
            return "outside its environment"
        return f"in {_CALLS[call]} of its environment" + (f", lane {lane}" if lane >= 0 else "")

    @property
    def allowed(self) -> str:
        """The setting by which it hangs."""
        return f"{self._setting}={self._silent_seconds:g} allows no more"


class Number(NamedTuple):
    """One value that a process shows."""

    tag: str
    """As TensorBoard has it, such as "speed/train_seconds"."""
    value: float
    labels: Mapping[str, str] = {}
    """Beside those that every value of the process has."""


class Vitals:
    """What a role's process shows of itself beside its record; nothing is made of it before somebody asks."""

    def __init__(self) -> None:
        self.reports: list[CollectorReport | Evaluation] = []
        """A collector's or evaluator's newest, behind the newest with an episode that ended."""
        self.numbers: Callable[[], Iterable[Number]] = tuple
        """Another role's newest values."""
        self.obstacle: Callable[[], str] = str
        """Why it cannot do its work at present, in words; empty if it can."""

    def show_numbers(self, numbers: Callable[[], Mapping[str, float]]) -> None:
        """Shows values that are asked for by tag."""
        self.numbers = lambda: [Number(tag, value) for tag, value in numbers().items()]

    def show(self, report: CollectorReport | Evaluation) -> None:
        """Shows a report, in the place of earlier ones: each value stays until there is a newer one."""
        is_of_episodes = isinstance(report, CollectorReport) and bool(report.returns)
        self.reports = [report] if is_of_episodes else [*self.reports[:1], report]


def absence(servers: Iterable[Seen]) -> str:
    """Which of the replay's servers do not answer, in words; empty if all do.

    Args:
      servers: of the replay, in the order of their numbers: what each was when it last answered.
    """
    now = time.monotonic()
    silent = {shard: now - server.at for shard, server in enumerate(servers) if now - server.at > _AWAY_SECONDS}
    return "; ".join(f"replay-{shard} has not answered for {seconds:.0f} s" for shard, seconds in silent.items())


def silence(refuse_silence: Callable[[float, str], None], name: str) -> str:
    """That a process hears nothing from the replay, in words; empty if it does.

    Args:
      refuse_silence: of the process's `VariablesReader`.
      name: of the process.
    """
    try:
        refuse_silence(_AWAY_SECONDS, name)
    except TimeoutError as error:
        return str(error)
    return ""


class Health:
    """How this process is.

    Args:
      name: of the process, such as "collector-0".
      silent_seconds: without a sign of life after which it hangs.
      setting: the field that says so, for messages.
    """

    def __init__(self, name: str, silent_seconds: float, setting: str) -> None:
        self._name, self._silent_seconds, self._setting = name, silent_seconds, setting
        self.vitals = Vitals()
        self._done, self._done_at, self._silence = 0, time.monotonic(), 0.0
        self._fault = ""
        self.follow(Recorder(None))

    def follow(self, recorder: Recorder) -> None:
        """Judges the process by this record from now on."""
        self._recorder = recorder
        self._pulse = Pulse(recorder, self._silent_seconds, self._setting, {})

    def look(self) -> None:
        """Looks at the record: has to be called about four times a second."""
        pulse, recorder = self._pulse, self._recorder
        done = recorder.progress + recorder.counts.environment_steps
        if done != self._done:
            self._done, self._done_at = done, time.monotonic()
        hangs = pulse.hangs()
        self._silence = pulse.silence
        self._fault = (
            f"{self._name} has given no sign of life for {self._silence:.0f} s {pulse.place}: {pulse.allowed}"
            if hangs
            else ""
        )

    @property
    def fault(self) -> str:
        """Why the process does not work any more, in words; empty if it does, or waits for others."""
        return self._fault

    @property
    def obstacle(self) -> str:
        """Why the process is not ready, in words; empty if it is."""
        if self._fault:
            return self._fault
        if not self._recorder.beats:
            return f"{self._name} starts: it is not connected, has no weights or compiles"
        if self._recorder.is_leaving or self._recorder.concluded is not None:
            return f"{self._name} leaves"
        return self.vitals.obstacle()

    def numbers(self) -> list[Number]:
        """Of the process itself, and what it shows of its work."""
        own = {
            "health/alive": float(not self._fault),
            "health/ready": float(not self.obstacle),
            "health/last_sign_seconds": self._silence,
            "health/last_step_seconds": time.monotonic() - self._done_at,
        }
        work: list[Number] = []
        try:
            work += self.vitals.numbers()
        except Exception as error:  # how the process is has to be seen even then, or above all
            log.warning("what %s does cannot be shown: %s", self._name, error)
        own["health/shows_work"] = float(bool(work or self.vitals.reports))
        return [*(Number(tag, value) for tag, value in own.items()), *work]


class ServiceManager:
    """Tells systemd how this process is, by datagrams, where its unit is of Type=notify.

    Args:
      address: of its socket: a path, or a name that begins with "@" of Linux' abstract ones.
      ping_seconds: after which it ends a process that has not said that it is alive; 0 asks for no such word.
    """

    def __init__(self, address: str, ping_seconds: float) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.every_seconds = ping_seconds / _PINGS
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "ServiceManager | None":
        """The one that a process's environment names; None if there is none, or if it asks another process."""
        if not (address := variables.get("NOTIFY_SOCKET", "")):
            return None
        is_asked = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = variables.get("WATCHDOG_USEC", "0")
        return cls(address, int(microseconds) / 1e6 if is_asked and microseconds.isdigit() else 0.0)

    def say(self, **words: str) -> bool:
        """Sends variables, such as READY="1"; whether they were taken."""
        text = "\n".join(f"{name}={value}" for name, value in words.items())
        try:
            self._socket.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", text.replace("\n", ", "), error)
            return False
        return True

    def close(self) -> None:
        """Gives its socket back."""
        self._socket.close()


class Watch:
    """Has a process look at itself, in a thread, until it is closed.

    Args:
      health: what looks.
      manager: that is told; a process that hangs is not said to be alive, and systemd ends it.
    """

    def __init__(self, health: Health, manager: ServiceManager | None = None) -> None:
        self._health, self._manager = health, manager
        self._is_ready = self._is_told = False
        self._ping_at = 0.0
        self._closed = threading.Event()
        if manager is not None and manager.every_seconds:
            faulthandler.enable()  # by SIGABRT, with which systemd ends what hangs, each thread says where it is
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; the process has seconds left until its end, or begins anew by `exec`."""
        self._closed.set()
        self._thread.join()
        if self._manager is not None:
            self._manager.close()

    def _run(self) -> None:
        while True:
            self._health.look()
            if (fault := self._health.fault) and not self._is_told:
                log.error("%s", fault)
            if self._manager is not None:
                self._tell(self._manager, fault)
            self._is_told = bool(fault)
            if self._closed.wait(_LOOK_SECONDS):
                return

    def _tell(self, manager: ServiceManager, fault: str) -> None:
        if fault:
            if not self._is_told:
                manager.say(STATUS=fault)
            return
        if not self._is_ready and not self._health.obstacle:
            self._is_ready = manager.say(READY="1", STATUS="at work")
        now = time.monotonic()
        if manager.every_seconds and now >= self._ping_at:
            self._ping_at = now + manager.every_seconds
            manager.say(WATCHDOG="1")


class Asked(NamedTuple):
    """What operators have asked a whole run for, by the flags of `pipeline.train`."""

    source: "Source"
    """Names the run in metrics and logs."""
    at: socket.socket | None = None
    """Where its pages are served, with the values of all roles; None: nowhere."""
    manager: ServiceManager | None = None
    """systemd, if it has started the command."""
    logs_json: bool = False
    """Whether the roles' logs are lines of JSON."""
    terminal: Any = None
    """What is then written to in the place of a terminal."""
    sockets: Path | None = None
    """Folder in which each role serves its own values, for the supervisor."""

    def flags_of(self, name: str) -> list[str]:
        """Flags of the process of a role by that name."""
        flags = [f"--run={self.source.run}", *(["--log_format=json"] if self.logs_json else [])]
        return flags + ([f"--metrics=unix:{self.sockets / name}.sock"] if self.sockets else [])

    def of_logs(self) -> "Asked":
        """What goes for roles on other machines, too."""
        return Asked(self.source, logs_json=self.logs_json)

    def texts(self) -> list[str]:
        """The roles' values; one that does not answer has none."""
        from pipeline.messages.pages import fetched

        paths = sorted(self.sockets.glob("*.sock")) if self.sockets else []
        return [text for path in paths if (text := fetched(path, "/metrics"))]


@contextmanager
def shown(
    health: Health,
    source: "Source",
    at: socket.socket | None,
    manager: ServiceManager | None,
    others: Callable[[], Sequence[str]] = tuple,
) -> Iterator[None]:
    """Shows how this process is while the context is open, if somebody has asked.

    Args:
      health: of the process.
      source: which process it is: the labels of its values.
      at: where its pages are served, of `pipeline.messages.listening`; None serves none.
      manager: systemd, if it is told.
      others: the texts of other processes' values, which are served with its own.
    """
    if at is None and manager is None:
        yield
        return
    with ExitStack() as stack:
        stack.callback(Watch(health, manager).close)
        if at is not None:
            from pipeline.messages.pages import Pages
            from pipeline.monitoring import prometheus

            pages = Pages(at, prometheus.pages(health, source, others))
            stack.callback(pages.close)
            log.info("serves /metrics, /healthz and /readyz at %s", pages.address)
            host = pages.address.rpartition(":")[0].strip("[]")
            if not pages.address.startswith("unix:") and not ipaddress.ip_address(host).is_loopback:
                log.warning("%s is OPEN to whoever reaches this machine: it can be read, not written", pages.address)
        yield
