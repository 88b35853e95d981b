"""Each role an actor on some node of a Ray cluster. Learner, evaluator and replay stay where they are; collectors come
and go with the nodes that have room for them."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.experiment import config
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.launchers import Cluster, Launch
from pipeline.launchers.conclusion import conclude
from pipeline.launchers.ray_role import Ended, News, Order, RoleActor
from pipeline.launchers.ray_whereabouts import Role
from pipeline.launchers.watched_role import LEAVE_SECONDS, STOP_SECONDS
from pipeline.launchers.world import World
from pipeline.messages.addresses import host_of, parse, port_of
from pipeline.monitoring.console import Console
from pipeline.records.recorder import Recorder
from pipeline.runtime.stop_signals import Interruption

_AUTO, _LOCAL = "auto", "local"
_CONNECT_SECONDS = 10.0
_PLACE_SECONDS = 300.0
"""How long the roles that the run cannot do without may wait for their CPUs."""
_LEARNER_RESTARTS = 20
"""Of its actor; those of its process within the actor are counted there."""
_OBJECT_BYTES = 80 * 2**20
"""For Ray's own store, the least that it takes: nothing of a run goes through it."""
_POLL_SECONDS = 0.05
_NEWS_SECONDS = 1.0
_LAST_NEWS_SECONDS = 2.0
"""For what the actors have still to say when the run has ended."""
_SETTLE_SECONDS = 10.0
_LAST_WORDS = 3


@contextmanager
def joined(experiment: Experiment, cluster: Cluster) -> Iterator[None]:
    """Is a driver of the cluster for the length of the block.

    Raises:
      UsageError: there is no such cluster, or this node has no room for what has to be on it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own: dict[str, Any] = {}
    if cluster.address == _LOCAL:
        cpus = max(os.cpu_count() or 1, _pinned(experiment, cluster) + experiment.collectors)
        own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_BYTES}
    # Where the package is imported from; everything else a node has itself.
    path = os.environ.get("PYTHONPATH")
    environment = {"env_vars": {"PYTHONPATH": path}} if path else {}
    try:
        if cluster.address not in (_AUTO, _LOCAL):  # Ray itself would try for minutes
            (address,) = parse(cluster.address, "--ray_address")
            socket.create_connection((host_of(address), port_of(address, "--ray_address")), _CONNECT_SECONDS).close()
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env=environment, **own)
    except (OSError, RuntimeError, ValueError) as error:
        words = str(error).strip().splitlines()[0]
        raise UsageError(
            f"no Ray cluster at {cluster.address!r} ({words}): start one with `ray start --head`, make this machine "
            "a node of it with `ray start --address=HOST:PORT`, or give --ray_address=local"
        ) from None
    try:
        cpus, wanted = _this_node()["Resources"].get("CPU", 0), _pinned(experiment, cluster)
        if cpus < wanted:
            raise UsageError(
                f"this node of the Ray cluster offers {cpus:g} CPUs, and the roles that have to be on it need "
                f"{wanted}: start it with `ray start --num-cpus={wanted}` or more"
            )
        yield
    finally:
        ray.shutdown()


def _pinned(experiment: Experiment, cluster: Cluster) -> int:
    """CPUs needed on this node: of learner and evaluator, and of the replay unless it is elsewhere."""
    return 2 + (0 if cluster.shared_run_dir else experiment.replay.shards)


def _this_node() -> dict[str, Any]:
    here = ray.get_runtime_context().get_node_id()
    return next(node for node in ray.nodes() if node["NodeID"] == here)


class _Over(Exception):
    """The run ends before its roles run; carries exit code and reason."""


class Driver:
    """Starts the roles of a run on a cluster, shows how they do, and ends them all."""

    def __init__(self, launch: Launch) -> None:
        self._launch, self._shards = launch, launch.experiment.replay.shards
        self._home = _this_node()
        self._roles: list[Role] = []
        self._interruption = Interruption()
        self._asked_at = 0.0
        self._waiting, self._waiting_since, self._said_waiting = 0, 0.0, 0
        self._stop_deadline: float | None = None
        self._learner_ended = Ended(1, "")
        self._verdict: Ended | None = None
        """What a failure that no restart helps against makes of the run."""

    def run(self) -> int:
        """Runs to the end and returns the exit code."""
        launch = self._launch
        self._interruption.hold()
        terminal = launch.asked and launch.asked.terminal
        try:
            with (
                Console(launch.run, launch.experiment, launch.shows_progress, terminal) as console,
                # Ray prints what happens to its actors and nodes, with pages of a raylet's log.
                (launch.run.logs / "ray.log").open("a") as log,
                redirect_stdout(log),
            ):
                ended = self._run(console)
            by = "" if self._verdict else self._interruption.by
            return conclude(console, launch.run, launch.experiment, ended.code, ended.reason, by)
        finally:
            self._interruption.release()

    def _run(self, console: Console) -> Ended:
        group = self._reserve()
        try:
            return self._watch(console, group)
        except _Over as over:
            return Ended(*over.args)
        finally:
            self._end()
            remove_placement_group(group)
            ray.shutdown()

    def _reserve(self) -> Any:
        """CPUs of the roles that stay where they are: a collector that waits for one would take a dead learner's."""
        here, is_shared = {"ray.io/node-id": self._home["NodeID"]}, self._launch.cluster.shared_run_dir
        gpus = self._home["Resources"].get("GPU", 0)
        learner = {"CPU": 1.0, "GPU": gpus} if gpus else {"CPU": 1.0}
        return placement_group(
            [learner, *({"CPU": 1.0} for _ in range(1 + self._shards))],
            strategy="SPREAD" if is_shared else "PACK",
            bundle_label_selector=[here, here, *({} if is_shared else here for _ in range(self._shards))],
        )

    def _watch(self, console: Console, group: Any) -> Ended:
        """Starts the roles, shows progress and restarts what fails until the run has ended."""
        names = ["learner", "evaluator", *(f"replay-{shard}" for shard in range(self._shards))]
        self._await([group.ready()], f"free CPUs of this node for {', '.join(names)}")
        learner = self._learner = self._place("learner", 0, group, _LEARNER_RESTARTS)
        if self._launch.experiment.evaluates:
            self._place("evaluator", 1, group)
        servers = [self._place(f"replay-{shard}", 2 + shard, group) for shard in range(self._shards)] or [learner]
        first = self._launch.experiment.replay.port
        addresses = [server.actor.address.remote(first and first + shard) for shard, server in enumerate(servers)]
        self._await(addresses, "actors of Ray on the nodes chosen for them")
        self._replay = ",".join(ray.get(addresses))
        console.say_privacy(self._launch.privacy, port_of(self._replay.partition(",")[0], "--replay"))
        for index in range(self._launch.experiment.collectors):
            self._place(f"collector-{index}")
        for role in self._roles:
            role.start(self._replay)
        while learner.running is not None:
            console.refresh()
            if self._launch.callbacks is not None:
                self._launch.callbacks.tend(self._interruption)
            self._hear(console)
            self._say_waiting(console)
            if self._interruption.requests > 1:
                return Ended(1, "interrupted twice: ended without a checkpoint")
            if self._interruption.is_set():
                self._stop()
            if self._stop_deadline is not None and time.monotonic() > self._stop_deadline:
                late = f"the learner did not end within {STOP_SECONDS:.0f} s"
                return Ended(self._verdict.code, f"{self._verdict.reason}\n{late}") if self._verdict else Ended(1, late)
        self._take_last_news(console)
        return self._verdict or self._learner_ended

    def _place(self, name: str, bundle: int | None = None, group: Any = None, restarts: int = -1) -> Role:
        """Makes a role's actor: in a bundle of the reserved CPUs, or wherever there is one."""
        launch, (role, _, index) = self._launch, name.partition("-")
        home, world = self._home["NodeID"], launch.world or World.here()
        text, number = config.dump(launch.experiment), int(index or 0)
        order = Order(
            text, launch.run.path, launch.started, role, number, home, world, launch.asked and launch.asked.of_logs()
        )
        strategy = "SPREAD" if group is None else PlacementGroupSchedulingStrategy(group, bundle)
        gpus = self._home["Resources"].get("GPU", 0) if role == "learner" else 0
        actor = ray.remote(RoleActor).options(
            num_cpus=1,
            num_gpus=gpus,
            max_restarts=restarts,
            max_task_retries=restarts,
            max_concurrency=4,
            scheduling_strategy=strategy,
        )
        self._roles.append(Role(name, actor.remote(order)))
        return self._roles[-1]

    def _await(self, references: Sequence[Any], what: str) -> None:
        deadline = time.monotonic() + _PLACE_SECONDS
        while len(ray.wait(references, num_returns=len(references), timeout=_POLL_SECONDS)[0]) < len(references):
            if self._interruption.is_set():
                raise _Over(1, "interrupted before the roles had been started")
            if time.monotonic() > deadline:
                advice = "is the cluster busy? See raylet.err in /tmp/ray/session_latest/logs, too"
                raise _Over(3, f"waited {_PLACE_SECONDS:.0f} s for {what}: {advice}")

    def _hear(self, console: Console) -> None:
        """Takes what the actors say, within some time."""
        if time.monotonic() - self._asked_at >= _NEWS_SECONDS:
            self._asked_at = time.monotonic()
            self._note_lost(console)
            for role in self._roles:
                role.ask()
        due = {role.asked: role for role in self._roles if role.asked is not None}
        due |= {role.running: role for role in self._roles if role.running is not None}
        for reference in ray.wait(list(due), num_returns=len(due), timeout=_POLL_SECONDS)[0]:
            role = due[reference]
            if reference == role.asked:
                role.asked = None
                try:
                    self._take_news(role, ray.get(reference), console)
                except RayActorError:  # it is being restarted, or `running` says that it is not
                    role.is_failing = True
            else:
                role.running = None
                self._take_end(role, reference, console)

    def _take_news(self, role: Role, news: News, console: Console) -> None:
        before, was_away, was_silent = role.news, role.is_away, role.is_silent
        role.hear(news)
        if before is None and role.name.startswith("collector"):
            console.say(f"{role.name} is on {role.where}")
        elif before is not None and before.actor != news.actor:
            how = "has been started again" if was_away else "was lost with its actor, and has been started again"
            console.note(f"{role.name} {how} on {role.where}")
            self._mark_lost(before)
        elif before is not None and (was_away or was_silent):
            console.say(f"{role.name} is heard of again on {role.where}")
        for note in news.notes:
            console.note(note)

    def _mark_lost(self, news: News) -> None:
        """Enters the end of a role's process into its record: with its actor, which cannot say so."""
        if news.record:
            record = Recorder(self._launch.run.recorders / news.record)
            if record.return_code is None:
                record.mark_ended(-signal.SIGKILL)

    def _take_last_news(self, console: Console) -> None:
        """Says what the actors have still to say when the run has ended, and which of them are gone."""
        begun, self._asked_at = time.monotonic(), 0.0

        def is_awaited(role: Role) -> bool:
            return not (role.is_away or role.is_failing) and role.heard_at < begun

        while any(map(is_awaited, self._roles)) and time.monotonic() - begun < _LAST_NEWS_SECONDS:
            self._hear(console)
        self._note_lost(console, is_last=True)

    def _take_end(self, role: Role, reference: Any, console: Console) -> None:
        """What becomes of the run when a role has ended for good."""
        try:
            ended = ray.get(reference)
        except RayError as error:
            words = "\n".join(str(error).strip().splitlines()[-_LAST_WORDS:])
            advice = "; every node needs this package and what it imports" if "ModuleNotFoundError" in words else ""
            ended = Ended(1, f"Ray cannot run {role.name}{advice}:\n{words}")
        if role is self._learner:
            self._learner_ended = ended
        elif self._is_ending():
            pass
        elif ended.code == 0:
            console.note(f"{role.name} has ended before the run, and is started again")
            role.start(self._replay)
        else:
            self._give_up(ended)

    def _is_ending(self) -> bool:
        run = self._launch.run
        number = run.incarnations("learner") - 1
        is_leaving = number >= 0 and Recorder(run.recorder("learner", number)).is_leaving
        return is_leaving or self._stop_deadline is not None or self._learner.running is None

    def _note_lost(self, console: Console, is_last: bool = False) -> None:
        """Says which roles are gone, with their nodes or without them.

        Args:
          is_last: the run has ended: what is not said now is not said at all.
        """
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for role in self._roles:
            if role.news is None or role.is_away:
                continue
            if not (how := role.loss(alive, self._home["NodeID"], is_last)):
                if silence := role.silence():
                    console.note(silence)
                continue
            role.is_away = True
            self._mark_lost(role.news)
            if is_last:
                console.note(f"{role.name} {how}, and had not started again when the run ended")
            elif role.name.startswith("replay") and role.news.node not in alive:  # the others know it by its address
                self._give_up(Ended(1, f"{role.name} {how}: go on with --resume"))
            else:
                console.note(f"{role.name} {how}, and starts again where there is room")

    def _say_waiting(self, console: Console) -> None:
        """Says how many collectors have no room, once their number has settled."""
        collectors = [role for role in self._roles if role.name.startswith("collector")]
        waiting, now = sum(role.is_away for role in collectors), time.monotonic()
        if waiting != self._waiting:
            self._waiting, self._waiting_since = waiting, now
        if waiting != self._said_waiting and now - self._waiting_since > _SETTLE_SECONDS:
            self._said_waiting = waiting
            if waiting:
                console.say(f"{waiting} of {len(collectors)} collectors wait for a node with a free CPU")

    def _give_up(self, ended: Ended) -> None:
        self._verdict = self._verdict or ended
        self._stop()

    def _stop(self) -> None:
        if self._stop_deadline is None:
            self._learner.end()  # it saves what has been learned
            self._stop_deadline = time.monotonic() + STOP_SECONDS

    def _end(self) -> None:
        """Ends all roles; those that have a checkpoint to write have time for it."""
        for is_replay, patience in ((False, LEAVE_SECONDS), (True, STOP_SECONDS)):
            roles = [role for role in self._roles if role.name.startswith("replay") == is_replay]
            for role in roles:
                role.end()
            deadline = time.monotonic() + patience
            running = [role.running for role in roles if role.running is not None and not role.is_away]
            while running and self._interruption.requests < 2 and time.monotonic() < deadline:
                _, running = ray.wait(running, timeout=_POLL_SECONDS)
            for role in roles:
                ray.kill(role.actor)


def run(launch: Launch) -> int:
    """Runs all roles on the cluster that has been joined; returns the exit code."""
    return Driver(launch).run()
