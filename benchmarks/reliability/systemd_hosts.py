"""Hosts on each of which systemd is process 1 and has the units of docs/recipes start the roles, and restart them.

Needs root: a host's control group, and namespaces of processes and mounts. `boot.sh` beside this file makes the host.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.pages import ROOT
from benchmarks.reliability.launchings import POLL_SECONDS, SECONDS, ByHand, Plan

_SYSTEMD = Path("/lib/systemd/systemd")
_BOOT = Path(__file__).with_name("boot.sh")
_GONE_SECONDS = 10.0
_METRICS = "/run/reverb-dqn-metrics"
"""Where the units have the sockets of metrics."""


def unavailable() -> str:
    """Why no systemd can run on hosts here; empty where one can, as far as is known."""
    if os.geteuid() != 0:
        return "systemd as process 1 of a host needs root"
    if not _SYSTEMD.exists() or shutil.which("useradd") is None:
        return f"there is no {_SYSTEMD}, or no useradd"
    if _groups() is None:
        return "there is no control group of version 2"
    return ""


class BySystemd(ByHand):
    """A run whose roles are services; see `ByHand`."""

    name = "systemd"
    brings_back = "boot the host"

    def __init__(self, folder: Path, plans: Mapping[str, Plan], stack: ExitStack) -> None:
        super().__init__(folder, plans, stack)
        self._inits: dict[str, subprocess.Popen[Any]] = {}
        self._codes: dict[str, int] = {}
        groups = _groups()
        assert groups is not None
        self._group = groups / f"reverb-dqn-{os.getpid()}"

    def start(self) -> None:
        """See `ByHand`."""
        self._group.mkdir()
        self._stack.callback(_remove, self._group)  # once the hosts are gone
        super().start()

    def boot(self, host: str) -> None:
        """Starts systemd on a host, and with it what is enabled there."""
        plan, etc = self.plans[host], self.folder / host / "etc"
        path = "LD_LIBRARY_PATH=/opt/python/lib"
        flags = " ".join(("--config=/etc/reverb-dqn/run.toml", *plan.flags)).format(
            run="/run/reverb-dqn" if plan.proxy else _METRICS
        )
        (etc / "run.conf").write_text(f"{path}\nARGUMENTS={flags}\n")
        proxy = " ".join(plan.proxy).format(run="/run/reverb-dqn")
        (etc / "proxy.conf").write_text(f"{path}\nARGUMENTS={proxy}\n")
        group = self._group / host
        group.mkdir(exist_ok=True)
        enabled = [_unit(role) for role in self.everything(host)]
        made = [str(ROOT), sys.base_prefix, str(Path(sys.prefix) / "lib"), str(self.folder / host)]
        enter = ["sh", "-c", 'echo $$ >"$0"/cgroup.procs && exec "$@"', str(group)]
        alone = ["unshare", "--pid", "--mount", "--cgroup", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        with (self.folder / host / "boot.log").open("ab") as log:
            self._inits[host] = self.network[host].start(
                [*enter, *alone, "sh", str(_BOOT), *made, *enabled],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def log(self, role: str) -> Path:
        """See `ByHand`."""
        return self.folder / self.host_of(role) / f"{_unit(role)}.log"

    def socket(self, role: str) -> Path:
        """See `ByHand`."""
        return Path(f"/proc/{self._init(self.host_of(role))}/root{_METRICS}/{role}.sock")

    def tend(self) -> None:
        """Nothing: systemd does."""

    def identity(self, role: str) -> int:
        """See `ByHand`."""
        shown = self._show(role)
        pid = int(shown.get("MainPID", 0))
        if not pid and (status := shown.get("ExecMainStatus")):
            self._codes[role] = int(status)
        return pid

    def code(self, role: str) -> int | None:
        """See `ByHand`."""
        return self._codes.get(role)

    def notice(self, role: str) -> None:
        """SIGTERM to a role's process, of which systemd knows nothing."""
        self._control(self.host_of(role), "kill", "--kill-whom=main", "--signal=TERM", _unit(role))

    def lose(self, host: str) -> None:
        """See `ByHand`."""
        self.network[host].kill()

    def end(self) -> dict[str, int | None]:
        """Stops the learner's service, which ends the run, and then the others, which wait for it by then."""
        self._control("learner", "stop", _unit("learner-0"))
        for host in self.plans:
            for role in self.everything(host):
                self._control(host, "stop", _unit(role))
        return {}

    def _show(self, role: str) -> dict[str, str]:
        text = self._control(self.host_of(role), "show", "--property=MainPID,ExecMainStatus", _unit(role))
        return dict(line.partition("=")[::2] for line in text.splitlines())

    def _control(self, host: str, *arguments: str) -> str:
        init = self._init(host)
        if not init:
            return ""
        command = ["nsenter", f"--target={init}", "--pid", "--mount", "--cgroup", "systemctl", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS).stdout

    def _init(self, host: str) -> int:
        """Process 1 of a host, as this machine numbers it; 0 of one that is not there."""
        pid = self._inits[host].pid
        with suppress(OSError, IndexError):
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return 0


def _unit(role: str) -> str:
    return "reverb-dqn-proxy.service" if role.startswith("proxy-") else f"reverb-dqn@{role}.service"


def _groups() -> Path | None:
    """Where control groups of version 2 are made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


def _remove(group: Path) -> None:
    for folder in sorted((path for path in (group, *group.rglob("*")) if path.is_dir()), reverse=True):
        deadline = time.monotonic() + _GONE_SECONDS
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:  # what was killed has not gone yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
