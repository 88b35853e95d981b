"""All roles on this machine, each a fresh Python process. The supervisor itself imports no TensorFlow."""

import signal
import time
from types import FrameType

from pipeline.console import Console
from pipeline.launchers import Launch
from pipeline.launchers.watched import Watched
from pipeline.ledger import ENVIRONMENT_FAULT, UNWRITTEN_SUMMARY
from pipeline.ports import HOST, free_port

_STOP_SECONDS = 90.0
"""How long a stopping run may take for its last checkpoint before its processes are killed."""
_LEAVE_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Supervisor:
    """Starts the roles of a run, restarts those that fail, and ends them all."""

    def __init__(self, launch: Launch) -> None:
        experiment = launch.experiment
        silent, learners = experiment.collect.stall_seconds, experiment.learner.silent_seconds
        first = experiment.replay.port
        ports = [first + shard if first else free_port() for shard in range(max(1, experiment.replay.shards))]
        replay = ",".join(f"{HOST}:{port}" for port in ports)
        self._launch, self._port = launch, ports[0]
        self._learner = Watched(launch, "learner", 0, replay, learners)
        self._replays = [
            Watched(launch, "replay", shard, replay, learners) for shard in range(experiment.replay.shards)
        ]
        collectors = [Watched(launch, "collector", index, replay, silent) for index in range(experiment.collectors)]
        self._others = [*self._replays, *collectors, Watched(launch, "evaluator", 0, replay, silent)]
        self._signals = 0
        self._is_start_noted = False
        self._stop_deadline: float | None = None
        self._verdict: tuple[int, str] | None = None
        """What a failure that no restart helps against makes of the run: exit code and reason."""

    def run(self) -> int:
        """Runs to the end and returns the exit code."""
        # Called from Python, the handlers are the caller's again when the run has ended.
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            return self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        launch = self._launch
        with Console(launch.run, launch.experiment) as console:
            console.say_privacy(launch.privacy, self._port)
            started: list[Watched] = []
            try:
                for watched in (self._learner, *self._others):
                    watched.start()
                    started.append(watched)
                code, reason = self._watch(console)
            finally:
                self._end(started)
        console.say_end(code, reason)
        return code

    def _watch(self, console: Console) -> tuple[int, str]:
        """Shows progress and restarts what fails until the run has ended: exit code and reason in words."""
        while True:
            console.refresh()
            if (ended := self._tend_learner(console)) is not None:
                return self._verdict or ended
            for watched in self._others:
                self._tend(watched, console)
            if self._signals > 1:
                return 1, "interrupted twice: ended without a checkpoint"
            if self._signals:
                self._stop()
            if self._stop_deadline is not None and time.monotonic() > self._stop_deadline:
                return 1, f"the learner did not end within {_STOP_SECONDS:.0f} s"
            time.sleep(_POLL_SECONDS)

    def _tend_learner(self, console: Console) -> tuple[int, str] | None:
        """Restarts the learner where that helps; else exit code and reason in words."""
        learner, summary = self._learner, self._launch.run.summary
        if learner.restart_at is None and (code := learner.poll()) is not None:
            if code in (0, 3, 4) or (code == 1 and summary.is_file()):
                return code, ""  # it ended in good order: the summary says why
            if code == UNWRITTEN_SUMMARY:
                return 1, f"the run has ended, and {summary} could not be written: is the disk full?"
            if code == 2 or self._stop_deadline is not None:
                return (2 if code == 2 else 1), learner.last_words()
        self._tend(learner, console)
        if learner.poll() is not None and self._stop_deadline is not None:
            return self._verdict or (
                1,
                "interrupted before the learner had been restarted: its checkpoints are as it left them",
            )
        return None

    def _tend(self, watched: Watched, console: Console) -> None:
        """Starts a role's process again some time after it has failed, or gives the run up."""
        if watched.restart_at is not None:
            if time.monotonic() >= watched.restart_at and self._stop_deadline is None:
                self._restart(watched, console)
            return
        if watched.poll() is None and watched.hangs():
            console.note(f"{watched.name} has given no sign of life for {watched.silent_seconds:g} s and is restarted")
            watched.kill()
        code = watched.poll()
        in_order = watched is not self._learner and self._learner.recorder.is_leaving
        if code is None or in_order or self._stop_deadline is not None:
            return
        words = watched.last_words()
        if code == 2:
            self._give_up(2, words)
        elif code == ENVIRONMENT_FAULT:  # the learner has been told, too
            self._give_up(1, words)
        elif watched.expect_restart():
            console.note(f"{words}\n{watched.name} is restarted")
        else:
            self._give_up(1, f"{words}\n{watched.name} has failed {watched.failures} times in a row without progress")

    def _restart(self, watched: Watched, console: Console) -> None:
        try:
            watched.start()
        except OSError as error:  # a full disk has no room for its record: there may be some again
            if not self._is_start_noted:
                console.note(f"{watched.name} cannot be restarted yet: {error}")
            self._is_start_noted = True
            watched.postpone()
        else:
            self._is_start_noted = False

    def _give_up(self, code: int, reason: str) -> None:
        self._verdict = code, reason
        self._stop()

    def _stop(self) -> None:
        if self._stop_deadline is None:
            if self._learner.poll() is None:
                self._learner.process.terminate()  # it saves what has been learned
            self._stop_deadline = time.monotonic() + _STOP_SECONDS

    def _end(self, started: list[Watched]) -> None:
        begun = time.monotonic()
        for watched in started:
            if watched.poll() is None:
                watched.process.terminate()
        for watched in started:
            patience = _STOP_SECONDS if watched in self._replays else _LEAVE_SECONDS  # it writes its last checkpoint
            watched.end(begun + (patience if self._signals < 2 else 0.0) - time.monotonic())

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._signals += 1


def run(launch: Launch) -> int:
    """Runs all roles on this machine; returns the exit code."""
    return Supervisor(launch).run()
