"""Runs whose roles are started by hand, as on several hosts, each role a process of this machine."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.processes import Process
from benchmarks.scaling.measured.experiments import CONFIG, UNENDING, experiment_of
from benchmarks.scaling.measured.windows import Servers, window
from pipeline import environments
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records.results import Status
from pipeline.replay.frames import FrameLayout


def new_addresses(shards: int) -> list[str]:
    """Of servers that are to be started."""
    return [f"127.0.0.1:{free_port()}" for _ in range(shards)]


class System:
    """The processes of one run: replay and learner from the beginning, collectors from `begin` on.

    Args:
      name: in the names of its logs.
      folder: for logs and run directories.
      stack: ends them.
      lines: of TOML, over those of the config.
      shards: of the replay; 0 has the replay in the learner's process.
      collectors: number of them.
      learns: start a learner.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        stack: ExitStack,
        lines: Sequence[str] = (),
        shards: int = 1,
        collectors: int = 0,
        learns: bool = True,
    ) -> None:
        self.name, self._folder, self._stack = name, folder, stack
        self.addresses = new_addresses(max(1, shards))
        self.lines = (*lines, f"collect.collectors={max(1, collectors)}")
        self.experiment = experiment_of(self.lines, shards)
        self._flags = [f"--config={CONFIG}", f"--replay={','.join(self.addresses)}"]
        self._flags += [f"--set={line}" for line in (*UNENDING, *self.lines)]
        specs = environments.describe(self.experiment.environment)
        self.table = FrameLayout.of(self.experiment, specs).table
        self.replays = [self._role("replay", shard, f"--run_dir={folder / name}-{shard}") for shard in range(shards)]
        self.learners: list[Process] = []
        if learns:
            more = [f"--run_dir={folder / name}-learner", *(["--embedded"] if not shards else [])]
            self.learners = [self._role("learner", 0, *more)]
        self.collectors: list[Process] = []
        self._number_of_collectors = collectors

    @property
    def windows_per_item(self) -> int:
        """Transitions of one item."""
        return self.experiment.windows_per_item

    def bytes_per_transition(self) -> float:
        """Sent by its collectors so far, for each transition confirmed to them."""
        path = RunDirectory(self._folder / f"{self.name}-learner").status
        return msgspec.json.decode(path.read_bytes(), type=Status).bytes_per_transition or 0.0

    @property
    def base(self) -> list[Process]:
        """All but the collectors."""
        return [*self.replays, *self.learners]

    def servers(self) -> Servers:
        """Those of its replay, once they answer."""
        return Servers(self.addresses, self.table)

    def add(self, name: str, module: str, *flags: str) -> Process:
        """Starts another process, which ends with the system."""
        process = Process(f"{self.name}-{name}", module, flags, self._folder)
        self._stack.callback(process.end)
        return process

    def clients(
        self, what: str, first: int, count: int, seconds: float, addresses: Sequence[str] | None = None
    ) -> Process:
        """Starts light clients, which rest from then on.

        Args:
          what: they do: "fetch", "report" or "write".
          first: number of the first of them.
          count: of them.
          seconds: between two times that each does it.
          addresses: that they speak to; None is those of the replay.
        """
        told = json.dumps([what, addresses or self.addresses, first, count, seconds])
        clients = self.add(f"{what}-clients-{first}", "benchmarks.scaling.measured.clients", told)
        clients.answer()
        clients.rest()
        return clients

    def relay(self, number: int) -> tuple[Process, str]:
        """Starts a relay, and says where it listens."""
        (address,) = new_addresses(1)
        return self._role("relay", number, f"--listen={address}"), address

    def begin(self) -> None:
        """Waits for the learner, and for each collector to collect; collectors rest from then on."""
        for learner in self.learners:
            learner.wait_until_it_says("gradient steps; ")
        self.collectors += [self._role("collector", index) for index in range(self._number_of_collectors)]
        for collector in self.collectors:
            collector.wait_until_it_says("environment steps, ")
            collector.rest()

    def window(self, servers: Servers, collectors: Sequence[Process], seconds: float) -> dict[str, float]:
        """What its roles do in some seconds."""
        kinds: Mapping[str, Sequence[Process]] = {
            "replay": self.replays,
            "learner": self.learners,
            "collector": collectors,
        }

        def wait() -> dict[str, float]:
            time.sleep(seconds)
            return {}

        return window(servers, kinds, wait)

    def _role(self, role: str, index: int, *more: str) -> Process:
        return self.add(f"{role}-{index}", "pipeline.role", f"--role={role}", f"--index={index}", *self._flags, *more)
