"""A run each of whose roles is on a host of its own, and is started there by hand: what a loop of a shell would do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from agents.struct_types import prepared
from benchmarks.pages import ROOT
from benchmarks.reliability.hosts import Host, hosts
from pipeline.experiment.config import dump, load
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.results import Status

SETS = (
    "learner.steps_per_call=8", 'learner.loop="plain"', "replay.min_size=128", "replay.samples_per_insert=4",
    "evaluation.episodes=2", "evaluation.every_steps=2000", "evaluation.images=false", "stop.target_return=1e9",
    "stop.environment_steps=0", "checkpoint.every_seconds=5.0", "collect.lanes=4", "collect.collectors=2",
    "replay.capacity=1000000",
)  # fmt: skip
SECONDS = 300.0
"""For whatever is waited for."""
POLL_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_AGAIN = (1, 3, 7)
"""Exit codes after which docs/distributed.md has a role started again."""
_AGAIN_SECONDS = 1.0


class Plan(NamedTuple):
    """What is on a host."""

    roles: tuple[str, ...]
    flags: tuple[str, ...]
    """That all of its roles get; {run} is a folder for sockets."""
    config: str = "central"
    proxy: tuple[str, ...] = ()
    """Flags of the host's proxy; empty has none."""
    certificates: str = ""
    """Whose the proxy shows."""


_REPLAYS = "--replay=replay-a:9000,replay-b:9000"
APART = {
    "replay-a": Plan(("replay-0",), (_REPLAYS,)),
    "replay-b": Plan(("replay-1",), (_REPLAYS,)),
    "learner": Plan(("learner-0",), (_REPLAYS,)),
    "collectors": Plan(("inference-0", "collector-0"), (_REPLAYS, "--inference=unix:{run}/acting.sock")),
    "relay": Plan(("relay-0",), (_REPLAYS, "--listen=relay:9002")),
    "far": Plan(("collector-1",), (_REPLAYS, "--weights=relay:9002"), "local"),
    "evaluator": Plan(("evaluator-0",), (_REPLAYS,)),
}
"""Every role on a host of its own; an acting server is on that of its collectors."""
_HERE, _SOCKETS = "--replay=127.0.0.1:9000", "unix:{run}/%s.sock"
_THERE = tuple(f"--{flag}={_SOCKETS % name}" for flag, name in (
    ("replay", "frames"), ("weights", "messages"), ("reports", "messages")
))  # fmt: skip
PROXIED = {
    "learner": Plan(
        ("replay-0", "learner-0", "evaluator-0"), (_HERE,), "proxied",
        ("--side=server", "--listen=0.0.0.0:9443", "--replay_port=9000", "--weights_port=9001"), "replay",
    ),
    "collectors": Plan(
        ("collector-0",), _THERE, "proxied",
        ("--side=client", "--role=collector", "--connect=learner:9443", "--sockets={run}"), "collector",
    ),
}  # fmt: skip
"""As docs/distributed.md has plain hosts."""
_CONFIGS = {
    "central": ('collect.inference="central"',),
    "local": (),
    "proxied": ("replay.weights_port=9001", 'replay.private="loopback"', "collect.collectors=1"),
}


class ByHand:
    """A run whose roles are processes that a loop starts again as docs/distributed.md says.

    Args:
      folder: each host has one of its own in it.
      plans: of the hosts, by name.
      stack: ends all of it.
    """

    name = "by hand"
    brings_back = "start the host's roles again"
    """What somebody has to do once a host that was lost is there again."""

    def __init__(self, folder: Path, plans: Mapping[str, Plan], stack: ExitStack) -> None:
        self.folder, self.plans, self._stack = folder, plans, stack
        self.run = RunDirectory(folder / "learner" / "learner-0")
        self._short = folder  # of sockets
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self._ended: dict[str, tuple[int, float]] = {}
        self._is_leaving = False
        self.network: Mapping[str, Host] = {}

    def start(self) -> None:
        """Makes the hosts, and starts everything."""
        import tempfile

        self._short = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        authority = self.folder / "certificates"
        make = [sys.executable, "-m", "pipeline.certificates", f"--folder={authority}", "--hosts=learner"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        for host, plan in self.plans.items():
            (self._short / host).mkdir()
            etc = self.folder / host / "etc"
            (etc / "certificates").mkdir(parents=True, mode=0o700)
            (etc / "run.toml").write_text(dump(load("cartpole", (*SETS, *_CONFIGS[plan.config]), 1)))
            if plan.proxy:
                for name in ("ca", plan.certificates):
                    shutil.copy2(authority / f"{name}.pem", etc / "certificates")
        self.network = self._stack.enter_context(hosts(*self.plans))
        for host in self.plans:
            self.boot(host)

    def host_of(self, role: str) -> str:
        """On which host a role is; a proxy is named by its host, such as proxy-learner."""
        return next(host for host, plan in self.plans.items() if role in (*plan.roles, f"proxy-{host}"))

    def roles(self) -> list[str]:
        """All of the run, proxies included."""
        return [role for host in self.plans for role in self.everything(host)]

    def asked_of_operator(self, is_lost: bool) -> str:
        """What somebody had to do after the last fault."""
        return self.brings_back if is_lost else ""

    def everything(self, host: str) -> list[str]:
        """What is on a host."""
        plan = self.plans[host]
        return [*([f"proxy-{host}"] if plan.proxy else []), *plan.roles]

    def boot(self, host: str) -> None:
        """Starts what is on a host."""
        for role in self.everything(host):
            self._begin(role)

    def _begin(self, role: str) -> None:
        host = self.host_of(role)
        plan, etc, run = self.plans[host], self.folder / host / "etc", self._short / host
        if role.startswith("proxy-"):
            command = ["pipeline.proxy", *plan.proxy, f"--certificates={etc / 'certificates'}"]
        else:
            kind, _, index = role.partition("-")
            command = [
                "pipeline.role",
                f"--role={kind}",
                f"--index={index}",
                f"--config={etc / 'run.toml'}",
                "--resume",
            ]
            command += [f"--run_dir={self.folder / host / role}", f"--metrics=unix:{self.socket(role)}", *plan.flags]
        with self.log(role).open("ab") as log:
            self._running[role] = self.network[host].start(
                [sys.executable, "-m", *(argument.format(run=run) for argument in command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._ended.pop(role, None)

    def log(self, role: str) -> Path:
        """What a role's processes say."""
        return self.folder / self.host_of(role) / f"{role}.log"

    def socket(self, role: str) -> Path:
        """Where a role tells how it is."""
        return self._short / self.host_of(role) / f"{role}.sock"

    def tend(self) -> None:
        """Starts again what has ended and is to be started again."""
        now = time.monotonic()
        for role, process in self._running.items():
            if (code := process.poll()) is None:
                continue
            _, ended = self._ended.setdefault(role, (code, now))
            is_again = code in _AGAIN or code < 0 or (role.startswith("proxy-") and code != 2)
            if is_again and not self._is_leaving and now - ended > _AGAIN_SECONDS:
                self._begin(role)

    def identity(self, role: str) -> int:
        """Of the process that runs now; 0 of none."""
        process = self._running[role]
        return 0 if process.poll() is not None else process.pid

    def code(self, role: str) -> int | None:
        """Exit code of the process that has just ended."""
        return self._running[role].poll()

    def notice(self, role: str) -> None:
        """SIGTERM to a role's process."""
        self._running[role].send_signal(signal.SIGTERM)

    def lose(self, host: str) -> None:
        """Ends everything on a host at once, as when it loses power; it is unplugged then."""
        self.network[host].kill()
        for role in self.everything(host):
            self._running[role].wait()
            self._ended[role] = (0, time.monotonic() + SECONDS)  # there is no loop any more

    def bring_back(self, host: str) -> None:
        """The host, or another one with its address and disk, is there."""
        self.network[host].restore()
        self.boot(host)

    def is_at_work(self, role: str) -> bool:
        """Whether a role says so at /readyz; a proxy if it runs."""
        if role.startswith("proxy-"):
            return bool(self.identity(role))
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_ANSWER_SECONDS)
            client.connect(str(self.socket(role)))
            client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(65_536).partition(b"\r\n")[0]
        return False

    def status(self) -> Status | None:
        """What the run says of itself."""
        try:
            return msgspec.json.decode(self.run.status.read_bytes(), type=prepared(Status))
        except (OSError, msgspec.MsgspecError):
            return None

    def end(self) -> dict[str, int | None]:
        """Ends the run by its learner; the exit codes of all roles."""
        self._is_leaving = True
        self.notice("learner-0")
        roles = [role for plan in self.plans.values() for role in plan.roles]
        codes = {role: self._await_end(role) for role in roles}
        for role in self._running:
            if role.startswith("proxy-"):
                self.notice(role)
                codes[role] = self._await_end(role)
        return codes

    def wrong_ends(self, codes: Mapping[str, int | None]) -> list[str]:
        """What is wrong with the exit codes of a run that was ended by its learner."""
        wanted = {role: 1 if role == "learner-0" else 0 if role.startswith("proxy-") else 7 for role in codes}
        return [
            f"{role} ended with {code}, not with {wanted[role]}" for role, code in codes.items() if code != wanted[role]
        ]

    def _await_end(self, role: str) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._running[role].wait(SECONDS)
        return None


class Way(Protocol):
    """What waits for something has to do meanwhile, and can tell."""

    def tend(self) -> None:
        """Does what the way of launching does."""

    def log(self, role: str) -> Path:
        """What a role's processes say."""


def wait_until(way: Way, holds: Callable[[], bool], what: str, roles: Sequence[str] = ()) -> None:
    """Waits, and lets the way of launching do what it does meanwhile.

    Raises:
      TimeoutError: it has not come to hold.
    """
    deadline = time.monotonic() + SECONDS
    while not holds():
        way.tend()
        if time.monotonic() > deadline:
            words = "\n".join(f"{role}: {way.log(role).read_text(errors='replace')[-1500:]}" for role in roles)
            raise TimeoutError(f"waited {SECONDS:.0f} s until {what}\n{words}")
        time.sleep(POLL_SECONDS)
