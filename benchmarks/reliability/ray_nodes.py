"""A run on a cluster of Ray, all of whose nodes are on this machine: what Ray starts again, and what ends the run."""

import os
import re
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.pages import ROOT
from benchmarks.reliability.launchings import SETS, Plan
from pipeline.drill.faults import Drilled
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.recorder import Recorder
from pipeline.records.results import Status

_OBJECT_BYTES = 80 * 2**20
_STARTS = 5
_HEAD = "node of the command"
_CPUS = {_HEAD: 2, "node-a": 1, "node-b": 1, "node-c": 2}
_ROLES = "learner-0", "evaluator-0", "replay-0", "replay-1", "collector-0", "collector-1"


class ByRay:
    """A run by `--launcher=ray`; see `launchings.ByHand`."""

    name = "Ray"

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run = RunDirectory(folder / "run")
        self._flags = ["--config=cartpole", "--seed=1", *(f"--set={line}" for line in SETS), "--set=replay.shards=2"]
        self._folder, self._cluster, self._nodes = folder, None, dict[str, Any]()
        self._drilled: Drilled
        self.is_resumed = False
        """The run has ended since the last fault, and was gone on with."""
        stack.callback(self._shut_down)

    def start(self) -> None:
        """Makes the cluster, and starts the run."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112
        os.environ["PYTHONPATH"] = str(ROOT)
        self._begin()

    def _begin(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = cluster = Cluster()
        self._nodes = {name: self._join(name) for name in _CPUS}
        where = ["--launcher=ray", "--shared_run_dir", f"--ray_address={cluster.address}"]
        flags = [*self._flags, *where]
        self._drilled = Drilled(self.run, flags, [*flags, "--resume"])
        self._drilled.start()

    def _join(self, name: str) -> Any:
        """Starts a node; tries again where Ray's own processes gave up after 15 s, as on a busy machine."""
        more = {"include_dashboard": False} if name == _HEAD else {}
        for starts_left in reversed(range(_STARTS)):
            try:
                return self._cluster.add_node(num_cpus=_CPUS[name], object_store_memory=_OBJECT_BYTES, **more)  # type: ignore[attr-defined]
            except Exception as error:  # Ray has none of its own for this
                if "timed out during startup" not in str(error) or not starts_left:
                    raise
        raise AssertionError("a node is tried once at least")

    @property
    def plans(self) -> Mapping[str, Plan]:
        """What is on each node now."""
        raylets = {
            info.process.pid: name
            for name, node in self._nodes.items()
            for info in node.all_processes.get("raylet", [])
        }
        found: dict[str, list[str]] = {name: [] for name in self._nodes}
        for role in _ROLES:
            if (process := self._process(role)) is not None:
                with suppress(psutil.Error):
                    pids = [parent.pid for parent in process.parents()]
                    for name in {raylets[pid] for pid in pids if pid in raylets}:
                        found[name].append(role)
        return {name: Plan(tuple(roles), ()) for name, roles in found.items()}

    def host_of(self, role: str) -> str:
        """On which node a role is."""
        return next(name for name, plan in self.plans.items() if role in plan.roles)

    def roles(self) -> list[str]:
        """All of the run."""
        return list(_ROLES)

    def asked_of_operator(self, _: bool) -> str:
        """What somebody had to do after the last fault."""
        return "give the command again, with `--resume`" if self.is_resumed else ""

    def everything(self, host: str) -> list[str]:
        """What is on a node."""
        return list(self.plans[host].roles)

    def _process(self, role: str) -> psutil.Process | None:
        kind, _, index = role.partition("-")
        wanted = {f"--role={kind}", f"--index={index}", "pipeline.role"}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = process.cmdline()
                if wanted <= set(line) and any(part.startswith(f"--run_dir={self._folder}") for part in line):
                    return process
        return None

    def log(self, role: str) -> Path:
        """What a role's processes say."""
        name = role if role.startswith(("replay", "collector")) else role.partition("-")[0]
        far = self.run.path / role / "logs" / f"{role}.log"
        return far if role.startswith("collector") and far.exists() else self.run.logs / f"{name}.log"

    def tend(self) -> None:
        """Goes on with a run that has ended."""
        supervisor = self._drilled.supervisor
        if supervisor is not None and supervisor.poll() is not None:
            self.is_resumed = True
            self._drilled.start()

    def identity(self, role: str) -> int:
        """Of the process that runs now; 0 of none."""
        process = self._process(role)
        return process.pid if process else 0

    def code(self, role: str) -> int | None:
        """Exit code of the last process that has said how it ends."""
        codes = re.findall(r"ends with exit code (\d+)", self.log(role).read_text(errors="replace"))
        return int(codes[-1]) if codes else None

    def notice(self, role: str) -> None:
        """SIGTERM to a role's process."""
        self.is_resumed = False
        os.kill(self.identity(role), signal.SIGTERM)

    def lose(self, host: str) -> None:
        """Ends all processes of a node at once; with the head's, those of the run's command."""
        self.is_resumed = False
        if host == _HEAD:
            assert self._drilled.supervisor is not None
            self._drilled.supervisor.kill()
            self._drilled.supervisor.wait()
            self._nodes[host].kill_all_processes(check_alive=False, allow_graceful=False)
            return
        self._cluster.remove_node(self._nodes.pop(host), allow_graceful=False)  # type: ignore[attr-defined]

    def bring_back(self, host: str) -> None:
        """A new node, or a new cluster and the run's command with --resume."""
        if host == _HEAD:
            self._shut_down()
            self.is_resumed = True
            self._begin()
        else:
            self._nodes[host] = self._join(host)

    def is_at_work(self, role: str) -> bool:
        """Whether a role's process has done something."""
        with suppress(psutil.Error, OSError):
            if (process := self._process(role)) is None:
                return False
            (path,) = (part.partition("=")[2] for part in process.cmdline() if part.startswith("--recorder="))
            recorder = Recorder(Path(path))
            return (recorder.progress or recorder.counts.environment_steps or recorder.beats) > 0
        return False

    def status(self) -> Status | None:
        """What the run says of itself."""
        return self._drilled.status()

    def end(self) -> dict[str, int | None]:
        """Gives the command notice; its exit code."""
        return {"the command": self._drilled.end()}

    def wrong_ends(self, codes: Mapping[str, int | None]) -> list[str]:
        """What is wrong with them."""
        return [f"{what} ended with {code}, not with 1" for what, code in codes.items() if code != 1]

    def _shut_down(self) -> None:
        if self._cluster is not None:
            supervisor = self._drilled.supervisor
            if supervisor is not None and supervisor.poll() is None:
                supervisor.kill()
                supervisor.wait()
            self._cluster.shutdown()
            self._cluster = None
