"""The faults of a drill: kills, freezes, a full disk, a corrupted checkpoint, a notice to leave. No TensorFlow."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
import psutil

from agents.struct_types import prepared
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records import checkpoint
from pipeline.records.counters import Counters
from pipeline.records.recorder import Recorder
from pipeline.records.results import Status

_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 120.0
_COMES_SECONDS = 60.0
_FREEZE_SECONDS = 120.0
_SHORT_FREEZE_SECONDS = 2.0
_REJOIN_SECONDS = 10.0


class DrillFailure(Exception):
    """A run broke one of the drill's rules after a fault; says which."""


class RunIsOver(DrillFailure):
    """The run has ended, or its roles leave and are not restarted: no further fault is possible."""


class Drilled:
    """A run that faults are done to: its supervisor's process and what there is to see of it.

    Args:
      run: its directory.
      start: flags of the first start.
      resume: flags of every later one.
    """

    def __init__(self, run: RunDirectory, start: list[str], resume: list[str]) -> None:
        self.run = run
        self._start, self._resume = start, resume
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.output = run.path.parent / "output.log"

    def start(self) -> None:
        """Starts the run, or goes on with it."""
        flags = self._resume if self.run.config.is_file() else self._start
        self._launch(flags)

    def go_on_with(self, flags: list[str]) -> None:
        """Goes on with the run under further flags."""
        self._launch([*self._resume, *flags])

    def _launch(self, flags: list[str]) -> None:
        self.run.status.unlink(missing_ok=True)  # of the life before
        with self.output.open("ab") as output:
            # The kernel ends the run when this process ends.
            tether = [sys.executable, "-m", "pipeline.runtime.ends_with_parent", str(os.getpid())]
            command = [*tether, sys.executable, "-m", "pipeline.train", f"--run_dir={self.run.path}", *flags]
            self.supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def status(self) -> Status | None:
        """What the run says of itself; None before it says anything."""
        try:
            return msgspec.json.decode(self.run.status.read_bytes(), type=prepared(Status))
        except (OSError, msgspec.MsgspecError):
            return None

    def saved(self) -> Counters | None:
        """The counters of the newest checkpoint."""
        found = checkpoint.newest(self.run.checkpoints)
        try:
            return found.counters if found else None
        except (OSError, msgspec.MsgspecError):  # a newer one has taken its place meanwhile
            return self.saved()

    def process(self, role: str, random_: random.Random) -> psutil.Process:
        """A process of a role, one of the collectors by chance; waits for one that is being restarted.

        Raises:
          RunIsOver: the run ends: its processes leave by themselves, and no others come.
          DrillFailure: none came.
        """
        found: list[psutil.Process] = []
        over = ""

        def has_come() -> bool:
            nonlocal found, over
            over, found = self._how_over(), self.processes(role)
            return bool(over or found)

        if not self.wait_until(has_come, _COMES_SECONDS):
            raise DrillFailure(f"no process of role {role} came within {_COMES_SECONDS:.0f} s")
        if over:
            raise RunIsOver(f"no process of role {role} comes any more: the run {over}")
        return random_.choice(found)

    def _how_over(self) -> str:
        """Why no role is started again, in words: the run has ended or is about to. Empty while it goes on."""
        assert self.supervisor is not None
        if (code := self.supervisor.poll()) is not None:
            return f"has ended with exit code {code}"
        _, learner = self.newest("learner")
        is_leaving = learner is not None and learner.is_leaving and learner.return_code is None
        return "lets its roles leave" if is_leaving else ""

    def processes(self, role: str = "") -> list[psutil.Process]:
        """All processes of the run's roles, or those of one."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            of_run = "pipeline.role" in line and f"--config={self.run.config}" in line
            if of_run and (not role or f"--role={role}" in line):
                found.append(process)
        return found

    def newest(self, role: str) -> tuple[int, Recorder | None]:
        """How often a role, such as "collector-0", was started, and the record of its newest process."""
        started = self.run.incarnations(role)
        return started, Recorder(self.run.recorder(role, started - 1)) if started else None

    def goes_on_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until a condition is true; false after so many seconds, or once the run has ended."""
        supervisor = self.supervisor
        assert supervisor is not None
        return self.wait_until(lambda: supervisor.poll() is not None or holds(), seconds) and supervisor.poll() is None

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until a condition is true; false after so many seconds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def end(self) -> int | None:
        """Gives the run notice to leave, and waits for its end; its exit code, None if it does not leave."""
        assert self.supervisor is not None
        self.supervisor.send_signal(signal.SIGTERM)
        try:
            return self.supervisor.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            return None


class Progress:
    """Tells whether a run collects and learns, from its status now and later.

    Args:
      status: reads it.
    """

    def __init__(self, status: Callable[[], Status | None]) -> None:
        self._status = status
        self._first = status()

    def is_seen(self) -> bool:
        """Whether the run has collected and learned since this was made, or since its learner took steps back."""
        first, now = self._first, self._status()
        if first is None or now is None or not 0 < first.gradient_steps <= now.gradient_steps:
            self._first = now  # nothing has been learned yet, or a learner took gradient steps back
            return False
        return now.gradient_steps > first.gradient_steps and now.environment_steps > first.environment_steps


def how_it_left(code: int | None) -> str:
    """What is wrong with a run's end after a notice to leave: it should have exit code 1."""
    how = f"did not end within {_LEAVE_SECONDS:.0f} s" if code is None else f"ended with {code}, not with 1"
    return f"a run that was given notice {how}"


Fault = Callable[[Drilled, random.Random], str]
"""Does something to a run; returns the role whose process it ended, such as "collector-0", or "" if none alone.

Raises:
  DrillFailure: there was nothing to do it to, or the run did what it must not do.
"""


def _name_of(process: psutil.Process) -> str:
    flags = dict(argument.lstrip("-").partition("=")[::2] for argument in process.cmdline())
    return f"{flags['role']}-{flags['index']}" if flags["role"] in ("collector", "replay") else flags["role"]


def _do_to(
    drilled: Drilled, role: str, random_: random.Random, deed: Callable[[psutil.Process], None]
) -> tuple[str, psutil.Process]:
    """Does something to a process of a role, or to its next one where that has just ended by itself.

    Returns:
      The role, such as "collector-0", and its process.
    """
    while True:
        process = drilled.process(role, random_)
        with contextlib.suppress(psutil.NoSuchProcess):
            name = _name_of(process)
            deed(process)
            return name, process


def kill(role: str) -> Fault:
    """Ends a role's process by SIGKILL."""

    def fault(drilled: Drilled, random_: random.Random) -> str:
        name, _ = _do_to(drilled, role, random_, psutil.Process.kill)
        return name

    return fault


def kill_learner_and_replay(drilled: Drilled, random_: random.Random) -> str:
    """Ends the learner, and a server of its replay while there is no learner, or while the next one finds it."""
    learner, _ = _do_to(drilled, "learner", random_, psutil.Process.kill)
    time.sleep(random_.uniform(0.0, _REJOIN_SECONDS))
    _do_to(drilled, "replay", random_, psutil.Process.kill)
    return learner


def freeze(role: str, goes_on: bool) -> Fault:
    """Stops a role's process by SIGSTOP: for two seconds, or until its supervisor ends it."""

    def fault(drilled: Drilled, random_: random.Random) -> str:
        name, process = _do_to(drilled, role, random_, psutil.Process.suspend)
        if goes_on:
            time.sleep(_SHORT_FREEZE_SECONDS)
            with contextlib.suppress(psutil.NoSuchProcess):  # what ended it is seen in what the run does next
                process.resume()
            return ""
        if not drilled.wait_until(lambda: _has_ended(process), _FREEZE_SECONDS):
            raise DrillFailure(f"{name} was frozen, and its supervisor has not ended it within {_FREEZE_SECONDS:.0f} s")
        return name

    return fault


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the one question and the other
        return True


def kill_supervisor(drilled: Drilled, _: random.Random) -> str:
    """Ends the supervisor by SIGKILL, sees that nothing is left running, and goes on with the run."""
    assert drilled.supervisor is not None
    drilled.supervisor.kill()
    drilled.supervisor.wait()
    if not drilled.wait_until(lambda: not drilled.processes(), _COMES_SECONDS):
        raise DrillFailure(f"the supervisor was killed, and {drilled.processes()} are left")
    drilled.start()
    return "learner"


def terminate_and_resume(drilled: Drilled, _: random.Random) -> str:
    """SIGTERM, as before a preemption, and the run goes on afterwards."""
    if (code := drilled.end()) != 1:
        raise DrillFailure(how_it_left(code))
    drilled.start()
    return "learner"


def fill_disk(seconds: float) -> Fault:
    """Leaves no byte on the run's disk for so many seconds."""

    def fault(drilled: Drilled, _: random.Random) -> str:
        ballast = drilled.run.path / "ballast"
        try:
            until = time.monotonic() + seconds
            with ballast.open("wb", buffering=0) as file:
                while time.monotonic() < until:  # what the run frees meanwhile is taken too
                    try:
                        while True:
                            file.write(b"\0" * 65_536)
                    except OSError:
                        time.sleep(_POLL_SECONDS)
        finally:
            ballast.unlink(missing_ok=True)
        return ""

    return fault


def corrupt_checkpoint(drilled: Drilled, random_: random.Random) -> str:
    """Flips a bit of the newest checkpoint and ends the learner, which has to go on from the one before."""
    folder = drilled.run.checkpoints
    if not drilled.wait_until(lambda: len(list(itertools.islice(checkpoint.good(folder), 2))) > 1, _COMES_SECONDS):
        raise DrillFailure(f"no second checkpoint was written within {_COMES_SECONDS:.0f} s")
    learner = drilled.process("learner", random_)
    found = checkpoint.newest(folder)
    assert found is not None
    files = [path for path in sorted(found.path.rglob("*")) if path.is_file() and path.stat().st_size]
    path = random_.choice(files)
    data = bytearray(path.read_bytes())
    position = random_.randrange(len(data))
    data[position] ^= 1 << random_.randrange(8)
    part = path.with_name(path.name + ".spoiled")
    part.write_bytes(data)
    os.replace(part, path)
    learner.kill()
    return "learner"
