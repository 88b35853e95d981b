"""All roles on this machine, each a fresh Python process. The supervisor itself imports no TensorFlow."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.launchers import Launch
from pipeline.launchers.conclusion import conclude
from pipeline.launchers.watched_role import LEAVE_SECONDS, STOP_SECONDS, Watched
from pipeline.messages.listening import address_of
from pipeline.messages.ports import HOST, free_port
from pipeline.monitoring.console import Console
from pipeline.monitoring.health import Health, Number, shown
from pipeline.records.recorder import Recorder
from pipeline.runtime.signs_of_life import RunningClock
from pipeline.runtime.stop_signals import Interruption

_POLL_SECONDS = 0.05
_ASK_SECONDS = 1.0
"""Between two requests to the learner to end: while its environment had the signal, it heard none."""


class Supervisor:
    """Starts the roles of a run, restarts those that fail, and ends them all.

    Args:
      launch: the run.
      inference: address of the acting server; empty has none.
    """

    def __init__(self, launch: Launch, inference: str = "") -> None:
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
        acting = [Watched(launch, "inference", 0, replay, silent, inference=inference)] if inference else []
        collectors = [
            Watched(launch, "collector", index, replay, silent, inference=inference)
            for index in range(experiment.collectors)
        ]
        self._others = [*self._replays, *acting, *collectors]
        if experiment.evaluates:
            self._others.append(Watched(launch, "evaluator", 0, replay, silent))
        self._interruption, self._clock = Interruption(), RunningClock()
        self._asked_at = -_ASK_SECONDS
        self._stop_deadline: float | None = None
        self._verdict: tuple[int, str] | None = None
        """Exit code and stop reason for a role that failed too often."""
        self.beat: Callable[[], None] = lambda: None
        """Says that it looks after its roles."""

    def run(self) -> int:
        """Runs to the end and returns the exit code."""
        self._interruption.hold()
        try:
            return self._run()
        finally:
            self._interruption.release()  # called from Python, the handlers are the caller's again

    def _run(self) -> int:
        launch = self._launch
        terminal = launch.asked and launch.asked.terminal
        with Console(launch.run, launch.experiment, launch.shows_progress, terminal) as console:
            console.say_privacy(launch.privacy, self._port)
            if launch.asked is not None and launch.asked.at is not None:
                console.say(f"/metrics, /healthz and /readyz are served at {address_of(launch.asked.at)}")
            started: list[Watched] = []
            try:
                for watched in (self._learner, *self._others):
                    watched.start()
                    started.append(watched)
                code, reason = self._watch(console)
            finally:
                self._end(started)
        by = "" if self._verdict else self._interruption.by
        return conclude(console, launch.run, launch.experiment, code, reason, by)

    def _watch(self, console: Console) -> tuple[int, str]:
        """Shows progress and restarts what fails until the run has ended: exit code and reason in words."""
        while True:
            self.beat()
            console.refresh()
            if self._launch.callbacks is not None:
                self._launch.callbacks.tend(self._interruption)
            if (ended := self._tend_learner(console)) is not None:
                return self._verdict or ended
            if self._verdict is not None:
                self._stop()
            for watched in self._others:
                self._tend(watched, console)
            if self._interruption.requests > 1:
                return 1, "interrupted twice: ended without a checkpoint"
            if self._interruption.is_set():
                console.say_stopping()
                self._stop()
            if self._stop_deadline is not None and self._clock() > self._stop_deadline:
                late = f"the learner did not end within {STOP_SECONDS:.0f} s"
                return (self._verdict[0], f"{self._verdict[1]}\n{late}") if self._verdict else (1, late)
            time.sleep(_POLL_SECONDS)

    def _tend_learner(self, console: Console) -> tuple[int, str] | None:
        """Restarts the learner where that helps; else exit code and reason in words."""
        learner = self._learner
        if (ended := learner.end_of_run(self._stop_deadline is not None)) is not None:
            return ended
        self._tend(learner, console)
        if learner.poll() is not None and self._stop_deadline is not None:
            return self._verdict or (
                1,
                "interrupted before the learner had been restarted: its checkpoints are as it left them",
            )
        return None

    def _tend(self, watched: Watched, console: Console) -> None:
        """Starts a role's process again some time after it has failed, or gives the run up."""
        is_ending = watched is not self._learner and self._learner.recorder.is_leaving
        if (verdict := watched.tend(console.note, is_ending or self._stop_deadline is not None)) is not None:
            self._give_up(*verdict)

    def _give_up(self, code: int, reason: str) -> None:
        self._verdict = code, reason
        self._stop()

    def _stop(self) -> None:
        now = self._clock()
        if self._stop_deadline is None:
            self._stop_deadline = now + STOP_SECONDS
        if now >= self._asked_at + _ASK_SECONDS and self._learner.poll() is None:
            self._learner.process.terminate()  # it saves what has been learned
            self._asked_at = now

    def _end(self, started: list[Watched]) -> None:
        begun = self._clock()
        for watched in started:
            if watched.poll() is None:
                watched.process.terminate()
        for watched in started:
            patience = STOP_SECONDS if watched in self._replays else LEAVE_SECONDS  # it writes its last checkpoint
            watched.end(begun + (patience if self._interruption.requests < 2 else 0.0) - self._clock())

    def show(self, health: Health) -> None:
        """Has this process be judged by how it looks after its roles."""
        recorder = Recorder(None)
        health.follow(recorder)
        self.beat = recorder.beat
        health.vitals.obstacle = lambda: "" if self._learner.recorder.beats else "the learner starts"
        health.vitals.numbers = lambda: [
            Number("supervisor/runs", float(watched.is_running), {"of": watched.name})
            for watched in (self._learner, *self._others)
        ]


def run(launch: Launch) -> int:
    """Runs all roles on this machine; returns the exit code."""
    with _shown(launch) as (launch, health), _place_to_act(launch) as inference:
        supervisor = Supervisor(launch, inference)
        if health is not None:
            supervisor.show(health)
        return supervisor.run()


@contextmanager
def _place_to_act(launch: Launch) -> Iterator[str]:
    """Address of the acting server, a socket that the user alone can open; empty where each collector acts itself."""
    if launch.experiment.collect.inference == "local":
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="pipeline-inference-") as folder:  # of mode 700
        yield f"unix:{folder}/acting.sock"


@contextmanager
def _shown(launch: Launch) -> Iterator[tuple[Launch, Health | None]]:
    """Shows how the run is, if operators have asked; its roles are then to show how they are in a folder."""
    if (asked := launch.asked) is None or (asked.at is None and asked.manager is None):
        yield launch, None
        return
    with tempfile.TemporaryDirectory(prefix="pipeline-metrics-") as folder:  # of mode 700
        asked = asked._replace(sockets=Path(folder) if asked.at is not None else None)
        health = Health("the supervisor", launch.experiment.learner.silent_seconds, "learner.silent_seconds")
        with shown(health, asked.source, asked.at, asked.manager, asked.texts):
            yield launch._replace(asked=asked), health
