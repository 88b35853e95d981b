"""One role of a run on this machine: its process, and those that follow when it fails."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable

from pipeline.launchers import Launch
from pipeline.launchers.world import World
from pipeline.messages.contents import TOLD_TO_LEAVE
from pipeline.monitoring import log_lines
from pipeline.monitoring.health import Pulse
from pipeline.records.recorder import Recorder
from pipeline.records.results import ENVIRONMENT_FAULT, UNWRITTEN_SUMMARY
from pipeline.runtime import belongings
from pipeline.runtime.signs_of_life import MAKING, RESETTING, RunningClock

STOP_SECONDS = 90.0
"""How long a stopping run may take for its last checkpoint before its processes are killed."""
LEAVE_SECONDS = 5.0
"""How long a process that has no checkpoint to write may take."""
_MOST_FAILURES = 5
"""In a row without progress: then a restart does not help."""
_PROGRESS_STEPS = 1_000
"""Environment steps after which a collector has made progress: a crash soon after every start is none."""
_PROGRESS_SECONDS = 30.0
"""So long a process has to be at work to have made progress, if its steps are slow."""
_BACKOFF_SECONDS = 0.1
_BACKOFF_FACTOR = 4.0
_POSTPONED_SECONDS = 2.0
_POLL_SECONDS = 0.02
_LAST_LINES = 12
_ACTING = ("inference", "collector", "evaluator")


class Watched:
    """Starts a role's process and tells how it does.

    Args:
      launch: the run.
      role: "learner", "collector", "evaluator", "replay" or "inference".
      index: of a collector or a shard.
      replay: addresses of the replay's servers, as --replay has them.
      silent_seconds: without a sign of life after which the process hangs.
      number: gives each process of the role a number that no other had; None counts those in the run directory.
      inference: address of the acting server, as --inference has it; empty where there is none.
    """

    def __init__(
        self,
        launch: Launch,
        role: str,
        index: int,
        replay: str,
        silent_seconds: float,
        number: Callable[[], int] | None = None,
        inference: str = "",
    ) -> None:
        self._launch, self._role, self._index, self._replay = launch, role, index, replay
        self._inference = inference
        self._world = launch.world or World.here()
        self.silent_seconds = silent_seconds
        self._setting = "collect.stall_seconds" if role in _ACTING else "learner.silent_seconds"
        self._number = number
        self._longest = {MAKING: launch.checked_seconds, RESETTING: launch.checked_seconds}
        """Seconds of the longest call of the environment that has been seen, by its kind."""
        self._silence = ""
        """Why the process was killed, if it gave no sign of life."""
        self.name = f"{role}-{index}" if role in ("collector", "replay") else role
        self.failures = 0
        """In a row, without progress between them."""
        self._crashes = 0  # of these, those of its own doing
        self.restart_at: float | None = None
        """Monotonic time of the next start; None while the process runs."""
        self._furthest = 0
        self._folder = launch.run.shard(index) if role == "replay" else launch.run.path
        self._log = launch.run.logs / f"{self.name}.log"
        self._is_start_noted = self._is_end_noted = False
        self._belonging = ""

    def start(self) -> None:
        """Starts the next process of this role; a learner's goes on from the newest checkpoint but the first time."""
        run, launch = self._launch.run, self._launch
        incarnation = self._number() if self._number else run.incarnations(self.name)
        self.record = recorder = run.recorder(self.name, incarnation)
        self.follow(Recorder(recorder))
        command = [f"--role={self._role}", f"--index={self._index}"]
        command += [f"--config={run.config}", f"--replay={self._replay}", f"--run_dir={self._folder}"]
        command += [f"--incarnation={incarnation}", f"--recorder={recorder}", f"--started={launch.started}"]
        command += [f"--supervisor={os.getpid()}"]
        command += launch.asked.flags_of(self.name) if launch.asked else []
        command += [f"--inference={self._inference}"] if self._inference else []
        if not launch.experiment.replay.shards:
            command += ["--embedded"]
        if launch.resume or self.restart_at is not None:
            # What ends a learner again and again may be what its newest checkpoint holds: bad experience, say.
            command += ["--resume", f"--pass_over={max(0, self._crashes - 1)}"]
        with self._log.open("ab") as log:
            self.log_from = log.tell()
            self._belonging = belonging = belongings.folder_for(self.name)
            self.process = subprocess.Popen(
                launch.privacy.command(self._world.command("pipeline.role", command)),
                pass_fds=launch.privacy.descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._world.folder,
                env={**self._world.variables_of(self._role, launch.experiment), belongings.VARIABLE: belonging},
                # A terminal sends Ctrl-C to its whole foreground group: the roles are stopped by their supervisor only.
                start_new_session=True,
            )
        self.restart_at = None
        self._is_end_noted = False
        self._silence = ""

    def follow(self, recorder: Recorder) -> None:
        """Judges the role from now on by the record of its newest process."""
        self.recorder = recorder
        self.pulse = Pulse(recorder, self.silent_seconds, self._setting, self._longest)

    def tend(self, note: Callable[[str], None], ending: bool) -> tuple[int, str] | None:
        """Ends a process that hangs, and starts the next some time after one has failed.

        Args:
          note: takes a sentence about it.
          ending: the run ends: nothing is started again, and what ends does so in good order.

        Returns:
          Exit code and reason of a failure that no restart helps against.
        """
        if self.restart_at is not None:
            if time.monotonic() >= self.restart_at and not ending:
                self._restart(note)
            return None
        if self.poll() is None and self.pulse.hangs():
            where, setting = self.pulse.place, self.pulse.allowed
            self._silence = f"{self.name} has given no sign of life for {self.pulse.patience:g} s"
            note(f"{self._silence} and is {'ended' if ending else 'restarted'}: it was {where}; {setting}")
            self._silence += f" {where}: {setting}"
            self.kill()
        code = self.poll()
        if code is None:
            return None
        if ending:
            self._note_end(note, code)
            return None
        # What an environment makes of its process's exit code says nothing; what the role has said does.
        if self.recorder.concluded == code == 2:
            return 2, self.cause()
        if self.recorder.concluded == code == ENVIRONMENT_FAULT:  # the learner has been told, too
            return 1, self.cause()
        words = self.last_words()
        if not self.expect_restart():
            if words != self.cause():
                note(words)
            return 1, f"{self.cause()}\n{self.name} has failed {self.failures} times in a row without progress"
        note(f"{words}\n{self.name} is restarted")
        return None

    def _note_end(self, note: Callable[[str], None], code: int) -> None:
        """Says that the process has ended otherwise than it was told to, as the run ended: it may be waited for."""
        # Of a fault of its environment the learner has been told, and says so in the summary.
        if code not in (0, TOLD_TO_LEAVE, ENVIRONMENT_FAULT) and not self._is_end_noted:
            self._is_end_noted = True
            note(f"{self.last_words()}\n{self.name} is not restarted: the run ends")

    def _restart(self, note: Callable[[str], None]) -> None:
        try:
            self.start()
        except OSError as error:  # a full disk has no room for its record: there may be some again
            if not self._is_start_noted:
                note(f"{self.name} cannot be restarted yet: {error}")
            self._is_start_noted = True
            self.postpone()
        else:
            self._is_start_noted = False

    def end_of_run(self, ending: bool) -> tuple[int, str] | None:
        """Exit code and reason of a run whose learner, this one, has ended for good; an empty one is in the summary.

        Args:
          ending: it was asked to end.
        """
        summary = self._launch.run.summary
        if self.restart_at is not None or (code := self.poll()) is None:
            return None
        if self.recorder.concluded is not None:  # else it ended before its time, whatever its exit code
            if self.recorder.concluded == UNWRITTEN_SUMMARY:
                return 1, f"the run has ended, and {summary} could not be written: is the disk full?"
            if summary.is_file():
                return self.recorder.concluded, ""
            if code in (2, 3):
                return code, self.cause()
        return (1, self.cause()) if ending else None

    def poll(self) -> int | None:
        """The return code of a process that has ended, entered into its record; None of one that runs."""
        code = self.process.poll()
        if code is not None and self.recorder.return_code is None:
            self.recorder.mark_ended(code)
            with contextlib.suppress(ProcessLookupError):  # what it had started itself
                os.killpg(self.process.pid, signal.SIGKILL)
            if self._belonging:
                belongings.remove(self._belonging)
        return code

    def expect_restart(self) -> bool:
        """Counts a failure and sets the time of the next start; False if there have been too many in a row."""
        if self._has_progressed():
            self.failures = self._crashes = 0
        self.failures += 1
        self._crashes += self.process.returncode != -signal.SIGKILL
        if self.failures >= _MOST_FAILURES:
            return False
        self.restart_at = time.monotonic() + _BACKOFF_SECONDS * _BACKOFF_FACTOR ** (self.failures - 1)
        return True

    def postpone(self) -> None:
        """Delays the next start after one that failed for lack of resources, without counting a failure."""
        self.restart_at = time.monotonic() + _POSTPONED_SECONDS

    def _has_progressed(self) -> bool:
        progress = self.recorder.progress
        if self._role == "learner":  # steps that an earlier process took before it are none
            further, self._furthest = progress > self._furthest, max(progress, self._furthest)
            return further
        lived = self.pulse.beat_at - self.pulse.begun
        if self._role == "collector":
            steps, begun = self.recorder.counts.environment_steps, self.pulse.working_from
            return steps >= _PROGRESS_STEPS or (begun is not None and self.pulse.beat_at - begun > _PROGRESS_SECONDS)
        if progress:  # evaluations of this process
            return True
        return self.recorder.beats > 0 and lived > _PROGRESS_SECONDS and not self.recorder.is_busy

    def end(self, seconds: float) -> None:
        """Asks the process to end and kills it, with what it started, if it has not within so many seconds."""
        if self.poll() is None:
            self.process.terminate()
        clock = RunningClock()
        deadline = clock() + seconds
        while self.poll() is None:
            if clock() >= deadline:
                self.kill()
            else:
                time.sleep(_POLL_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether it has a process, as far as has been seen."""
        return self.restart_at is None and self.recorder.return_code is None

    def kill(self) -> None:
        """Ends the process and what it started."""
        self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """How the process ended and, from its log, why."""
        lines = self._lines()
        if self.process.returncode == -signal.SIGKILL or (_errors(lines) and not _is_traceback(lines)):
            return self.cause()
        return f"{self.name} ended with {self._how()}; the end of {self._log}:\n" + "\n".join(lines[-_LAST_LINES:])

    def cause(self) -> str:
        """The same in one line."""
        if self.process.returncode == -signal.SIGKILL:  # from outside, so its log says nothing about it
            return self._silence or f"{self.name} was killed (SIGKILL)"
        lines = self._lines()
        if (errors := _errors(lines)) and not _is_traceback(lines):
            return f"{self.name} ended with {self._how()}: {errors[-1]}"
        said = [line.strip() for line in lines if line.strip() and " INFO " not in line] or ["its log says nothing"]
        return f"{self.name} ended with {self._how()}: {said[-1]}"

    def _how(self) -> str:
        code = self.process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _lines(self) -> list[str]:
        """What the process has written into its log."""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self.log_from)
            lines = log.read().decode(errors="replace").splitlines()
            return [part for line in lines for part in log_lines.readable(line).splitlines() or [""]]
        return []


def _errors(lines: list[str]) -> list[str]:
    return [line.partition(" ERROR ")[2].partition(": ")[2] for line in lines if " ERROR " in line]


def _is_traceback(lines: list[str]) -> bool:
    return "Traceback" in "\n".join(lines[-_LAST_LINES * 4 :])
