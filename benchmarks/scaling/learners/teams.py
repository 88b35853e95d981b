"""Learners as processes, each bound to a core and several on hosts of their own, measured in turn."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pages import ROOT
from benchmarks.processes import Failed
from benchmarks.reliability.hosts import hosts
from benchmarks.scaling.learners.networks import NETWORKS

COUNTS = 1, 2, 4
"""Learners of a team."""
LOCAL_STEPS = 1, 10
GBITS = 0.0, 10.0, 1.0, 0.1
"""Of the links between learners; 0 has no limit."""
NUMBERS = 1_120_000
"""That are summed on each link: the weights of 1024x1024."""
_SAID = re.compile(r"pay from about (\S+) ms .* takes about (\S+) ms")


class Shape(NamedTuple):
    """Who learns, and how."""

    learners: int
    parts: int = 1
    """A lone learner has a batch of so many parts of the whole one."""
    local_steps: int = 1
    gbits: float = 0.0

    @property
    def name(self) -> str:
        """In results."""
        if self.learners == 1:
            return f"1 of 1/{self.parts}" if self.parts > 1 else "1"
        link = f", {self.gbits:g} Gbit/s" if self.gbits else ""
        return f"{self.learners}, {self.local_steps} local steps{link}"


class Learners:
    """One or several learners.

    Args:
      network: name of what they learn; empty sums `NUMBERS`, and nothing else.
      shape: who and how.
      folder: for logs.
      stack: ends them.
    """

    def __init__(self, network: str, shape: Shape, folder: Path, stack: ExitStack) -> None:
        self._shape = shape
        names = [f"learner-{index}" for index in range(shape.learners)]
        self._hosts = list(stack.enter_context(hosts(*names)).values())
        self._processes: list[subprocess.Popen[str]] = []
        told: dict[str, Any] = {"addresses": [f"{name}:9100" for name in names], "numbers": NUMBERS}
        if network:
            batch = NETWORKS[network].batch // shape.parts
            told = {**told, "network": network, "batch": batch, "local_steps": shape.local_steps}
            del told["numbers"]
        cores = sorted(os.sched_getaffinity(0))
        for index, host in enumerate(self._hosts):
            command = ["taskset", "--cpu-list", str(cores[index % len(cores)]), sys.executable]
            command += ["-m", "benchmarks.scaling.learners.worker", json.dumps({**told, "index": index})]
            log = stack.enter_context((folder / f"{shape.name.replace('/', ' ')}-{index}.log").open("ab"))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True, "cwd": ROOT}
            self._processes.append(host.start(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes))

    def wait(self) -> dict[str, float]:
        """Waits until they learn; what they say of themselves.

        Returns:
          `weights`, and if they warn that they do not pay, from how many milliseconds a step they would
          (`said_least_ms`) and what one alone would take (`said_alone_ms`).
        """
        said = [self._answer(process) for process in self._processes]
        found = _SAID.search(said[0]["warning"])
        least, alone = map(float, found.groups()) if found else (0.0, 0.0)
        return {"weights": said[0]["weights"], "said_least_ms": least, "said_alone_ms": alone}

    def measure(self, gbits: float, seconds: float) -> dict[str, float]:
        """What they do in so many seconds, or in a call of the learner if that takes longer.

        Args:
          gbits: of each host's link; 0 has no limit.
          seconds: of the measurement.

        Returns:
          `step_ms` by the clock, `cpu_ms` of each learner and `sent` bytes of each host, all of a gradient step.
        """
        for host in self._hosts:
            host.limit(gbits * 1e9 / 8 if gbits else None)
        sent = self._sent()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes]
        steps = answers[0]["steps"]
        cpu = sum(answer["cpu"] for answer in answers) / len(answers)
        values = {"step_ms": 1e3 * answers[0]["seconds"], "cpu_ms": 1e3 * cpu, "sent": self._sent() - sent}
        return {name: value / steps for name, value in values.items()}

    def _sent(self) -> float:
        return sum(host.sent() for host in self._hosts) / len(self._hosts)

    def _answer(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise Failed(f"a learner of {self._shape.name} has ended with {process.wait()}: see its log")


def shapes_of_steps() -> list[Shape]:
    """One learner of the whole batch and of each team's share, and the teams, on links without a limit."""
    return [*(Shape(1, parts) for parts in COUNTS), *(Shape(2, local_steps=steps) for steps in LOCAL_STEPS), Shape(4)]


def shapes_of_links() -> list[Shape]:
    """Two by link."""
    return [Shape(2, gbits=gbits) for gbits in GBITS]


def measure(
    network: str,
    shapes: Sequence[Shape],
    seconds: float,
    repeats: int,
    folder: Path,
    keep: Callable[[str, int, Mapping[str, float]], None],
) -> None:
    """Measures a network in several shapes, all in turn.

    Args:
      network: its name; empty measures sums alone.
      shapes: what to measure.
      seconds: of one measurement.
      repeats: of each.
      folder: for logs.
      keep: what to do with a measurement: its shape's name, the repeat, values.
    """
    with ExitStack() as stack:
        teams: dict[Shape, tuple[Learners, dict[str, float]]] = {}
        for shape in shapes:  # one after the other: what they measure of themselves is not to meet others' compiling
            if (started := shape._replace(gbits=0.0)) not in teams:
                team = Learners(network, started, folder, stack)
                teams[started] = team, team.wait()
        for repeat in range(repeats):
            for shape in shapes:
                team, said = teams[shape._replace(gbits=0.0)]
                keep(shape.name, repeat, {**team.measure(shape.gbits, seconds), **said})
