"""One role of a run as a Ray actor: the role's process on the actor's node, and those that follow when it fails.

Ray starts an actor again that was killed or went with its node; what becomes of the role's process is the actor's
affair. The kernel kills it with the actor.
"""

import os
import queue
import random
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import ray

from pipeline.experiment import config
from pipeline.experiment.run_directory import RunDirectory
from pipeline.launchers import Launch
from pipeline.launchers.watched_role import Watched
from pipeline.launchers.world import World
from pipeline.messages.contents import TOLD_TO_LEAVE
from pipeline.messages.ports import free_port
from pipeline.monitoring.health import Asked
from pipeline.security.privacy import Privacy

_POLL_SECONDS = 0.05
_NUMBER_BITS = 31


class Order(NamedTuple):
    """What an actor runs."""

    experiment: str
    """As TOML: its kind may be of a module that is found where `world` has it."""
    run_dir: Path
    started: float
    """Wall-clock time at which the user's command started."""
    role: str
    number: int
    """Of a collector or a shard, from 0."""
    home: str
    """Node of the user's command, whose disk has the run directory."""
    world: World
    """Of the user's command."""
    asked: Asked | None
    """By operators: how logs are written."""


class News(NamedTuple):
    """How an actor does."""

    actor: str
    """Names its process: another one after Ray has started it again."""
    pid: int
    """Of that process, on its node."""
    node: str
    host: str
    record: str
    """Name of the role's record in the run directory; empty before there is one, and on another node."""
    notes: tuple[str, ...]
    """What happened to the role's processes since the last time."""


class Ended(NamedTuple):
    """How a role has ended for good."""

    code: int
    """0, or the exit code that the run ends with."""
    reason: str
    """In words; empty where the summary has it."""


class RoleActor:
    """Runs a role; methods are called beside `run`, in threads of their own."""

    def __init__(self, order: Order) -> None:
        context = ray.get_runtime_context()
        self._order, self._identity, self._node = order, context.get_worker_id(), context.get_node_id()
        self._host: str = ray.util.get_node_ip_address()
        self._watched: Watched | None = None
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._is_asked_to_end = threading.Event()

    def address(self, port: int) -> str:
        """Where a server of the replay in this actor's role is to listen; port 0 takes a free one of this node."""
        return f"{self._host}:{port or free_port()}"

    def news(self) -> News:
        """How the role does."""
        notes = tuple(self._notes.get_nowait() for _ in range(self._notes.qsize()))
        record = self._watched.record.name if self._watched is not None and self._node == self._order.home else ""
        return News(self._identity, os.getpid(), self._node, self._host, record, notes)

    def end(self) -> None:
        """Asks the role to end."""
        self._is_asked_to_end.set()

    def run(self, replay: str) -> Ended:
        """Runs the role, restarting its process where that helps, until it has ended for good.

        Args:
          replay: addresses of the replay's servers, as --replay has them.
        """
        watched = self._watched = self._begin(replay)
        is_told = False
        while (ended := self._tend(watched)) is None:
            if self._is_asked_to_end.is_set() and not is_told and watched.poll() is None:
                watched.process.terminate()
                is_told = True
            time.sleep(_POLL_SECONDS)
        return ended

    def _begin(self, replay: str) -> Watched:
        """Starts the role's first process in this actor."""
        order, run = self._order, RunDirectory(self._order.run_dir)
        world = order.world.within(World.here())
        sys.path += [entry for entry in world.path if entry not in sys.path]
        experiment, acts = config.parse(order.experiment), order.role in ("collector", "evaluator")
        silent = experiment.collect.stall_seconds if acts else experiment.learner.silent_seconds
        is_collector = order.role == "collector"
        if is_collector and self._node != order.home:
            run = RunDirectory(run.path / f"collector-{order.number}")
            run.create(experiment)
        # A new run has no checkpoint to go on from, and one whose actor was restarted has to.
        launch = Launch(experiment, run, order.started, True, Privacy("open"), world=world, asked=order.asked)
        watched = Watched(launch, order.role, order.number, replay, silent, _any_number if is_collector else None)
        watched.start()
        return watched

    def _tend(self, watched: Watched) -> Ended | None:
        code, is_ending = watched.poll(), self._is_asked_to_end.is_set()
        if self._order.role == "learner":
            if (ended := watched.end_of_run(is_ending)) is not None:
                return Ended(*ended)
        elif code in (0, TOLD_TO_LEAVE) and watched.restart_at is None:
            return Ended(0, "")
        if is_ending and code is not None:
            words = "interrupted before it had been restarted: its checkpoints are as it left them"
            return Ended(1, f"{watched.name}: {words}")
        verdict = watched.tend(self._notes.put, is_ending)
        return None if verdict is None else Ended(*verdict)


def _any_number() -> int:
    """Nobody counts the starts on all nodes: any number will do, as long as none comes twice."""
    return random.SystemRandom().getrandbits(_NUMBER_BITS)
