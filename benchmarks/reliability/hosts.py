"""Several hosts on this machine: network namespaces, each with a name and an address, joined by a bridge in another.

Nothing of it lies in this machine's own network or has a name there, so that any number of tests can have hosts at
once. A process that waits for this one's end holds each host: all of it is gone when this one is, however it ends.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

_NETWORK = "10.80.0."
_SECONDS = 30.0
_BRIDGE = "link add name bridge type bridge"
_OWNER = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
"""Of the namespaces, if it is not root: a user namespace, in which this user may do as root does."""


def unavailable() -> str:
    """Why there can be no hosts here; empty where there can."""
    tools = "unshare", "nsenter", "hostname", "mount", "ip", "tc"
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"several hosts are made with iproute2 and util-linux: {', '.join(missing)} is missing"
    command = ["unshare", *_OWNER, "--net", "--uts", "--mount", "ip", *_BRIDGE.split()]
    if subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS).returncode != 0:
        return "several hosts are made by root, or where the kernel lets users make namespaces"
    return ""


class Machine:
    """Namespaces of network and host name, held by a process that ends with this one.

    Args:
      name: which it takes for its host name.
      owner: options of `nsenter` for the user namespace that owns it; None makes one where one is needed.
    """

    def __init__(self, name: str, owner: Sequence[str] | None = None) -> None:
        make = ["unshare", *_OWNER] if owner is None else ["nsenter", *owner, "unshare"]
        script = 'hostname "$0" && ip link set lo up && echo up && exec cat'
        self.holder = subprocess.Popen(
            [*make, "--net", "--uts", "sh", "-c", script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"up\n", f"no host {name}"
        self.owner = ["--target", str(self.holder.pid), *(["--user", "--preserve-credentials"] if _OWNER else [])]
        # The kernel gives the number of a namespace that is gone to the next one, which may be another machine's:
        # `end` would kill that one's processes. This descriptor keeps the namespace, and so its number, until then.
        self._name_space = os.open(_host_name_space(self.holder.pid), os.O_RDONLY)
        self._number = os.fstat(self._name_space).st_ino

    @property
    def prefix(self) -> list[str]:
        """Puts a command into it, which keeps its process id."""
        return ["nsenter", *self.owner, "--net", "--uts"]

    def ip(self, *lines: str) -> None:
        """Commands of `ip` within."""
        text, command = "\n".join(lines), [*self.prefix, "ip", "-batch", "-"]
        done = subprocess.run(command, input=text, text=True, check=False, capture_output=True, timeout=_SECONDS)
        assert done.returncode == 0, f"{done.stderr.strip()}, of: {text}"

    def stop(self) -> None:
        """Stops all of its processes where they are."""
        stopped: set[int] = set()
        while new := self._processes() - stopped:
            _send(new, signal.SIGSTOP)
            stopped |= new

    def end(self) -> None:
        """Ends all of its processes; as they are stopped first, none sees another one's end."""
        deadline = time.monotonic() + _SECONDS
        while processes := self._processes():
            assert time.monotonic() < deadline, f"processes {processes} do not end"
            self.stop()
            _send(self._processes(), signal.SIGKILL)
            time.sleep(0.01)
        self.holder.communicate()
        os.close(self._name_space)

    def _processes(self) -> set[int]:
        """Those with its host name: a process that makes a network of its own within keeps that."""
        pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        return {pid for pid in pids if _number_of_host_name_space(pid) == self._number}


class Host:
    """One of the hosts.

    Args:
      number: of it, from 1.
      count: of all hosts.
      name: that the other hosts know it by.
      switch: that it is plugged into.
      names: file in the form of /etc/hosts.
    """

    def __init__(self, number: int, count: int, name: str, switch: Machine, names: Path) -> None:
        self.name, self.address = name, f"{_NETWORK}{number}"
        self._number, self._switch, self._names = number, switch, names
        self._others = [other for other in range(1, count + 1) if other != number]
        self._port = f"port{number}"
        self._rate: float | None = None
        self._started: list[subprocess.Popen[Any]] = []
        self._boot()
        self.restore()

    @property
    def prefix(self) -> list[str]:
        """Puts a command on this host; it keeps its process id."""
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return [*self._machine.prefix, "unshare", "--mount", "sh", "-c", script, str(self._names)]

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """A process on this host, in a session of its own.

        Args:
          command: of the process.
          options: of `subprocess.Popen`.
        """
        self._started.append(subprocess.Popen([*self.prefix, *command], start_new_session=True, **options))
        return self._started[-1]

    def cut(self) -> None:
        """Unplugs the host: what is sent to it or by it is lost without a word."""
        self._switch.ip(f"link set {self._port} down")

    def restore(self) -> None:
        """Plugs it in again."""
        self._switch.ip(f"link set {self._port} up")

    def limit(self, rate: float | None) -> None:
        """Limits what passes each way to that many bytes per second; None lifts the limit."""
        self._rate = rate
        for machine, device in ((self._switch, self._port), (self._machine, "eth0")):
            command = [*machine.prefix, "tc", "qdisc", "replace", "dev", device, "root"]
            if rate is None:
                command += ["noqueue"]
            else:  # tc's bps are bytes; a burst has to hold what passes between two ticks of the slowest clocks
                command += ["tbf", "rate", f"{rate:.0f}bps", "burst", f"{max(16_384, rate / 100):.0f}"]
                command += ["latency", "200ms"]
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)

    def sent(self) -> int:
        """Bytes that it has sent since it started, with all headers."""
        command = [*self._machine.prefix, "ip", "-json", "-stats", "link", "show", "dev", "eth0"]
        done = subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        return int(json.loads(done.stdout)[0]["stats64"]["tx"]["bytes"])

    def kill(self) -> None:
        """Ends every process at once, as when the machine goes down: the others hear nothing of it.

        The host that `restore` plugs in has started anew, with the same address and no memory of any connection.
        """
        self.end()
        self._boot()
        if self._rate is not None:
            self.limit(self._rate)

    def end(self) -> None:
        """Ends every process, and the host, without a word to the others."""
        self._machine.stop()
        self._switch.ip(f"link delete {self._port}")
        self._machine.end()
        for process in self._started:
            process.wait()

    def _boot(self) -> None:
        """Starts the host, unplugged. The others need not notice: its interface has the address that it always has."""
        self._machine = Machine(self.name, self._switch.owner)
        device = f"name eth0 address {_hardware(self._number)} netns {self._machine.holder.pid}"
        self._switch.ip(f"link add name {self._port} type veth peer {device}", f"link set {self._port} master bridge")
        # Who had to ask for the others' hardware would soon find out that it is cut off. Beyond a router nobody does.
        known = (f"neighbour add {_NETWORK}{n} lladdr {_hardware(n)} dev eth0 nud permanent" for n in self._others)
        self._machine.ip(f"address add {self.address}/24 dev eth0", "link set eth0 up", *known)


@contextmanager
def hosts(*names: str) -> Iterator[Mapping[str, Host]]:
    """Makes hosts of these names, which reach each other by name and by address, and removes them with all on them."""
    with ExitStack() as stack:
        lines = ["127.0.0.1 localhost", *(f"{_NETWORK}{number} {name}" for number, name in enumerate(names, 1))]
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "hosts"
        file.write_text("\n".join(lines) + "\n")
        switch = Machine("switch")
        stack.callback(switch.end)
        switch.ip(_BRIDGE, "link set bridge up")
        network: dict[str, Host] = {}
        for number, name in enumerate(names, 1):
            network[name] = Host(number, len(names), name, switch, file)
            stack.callback(network[name].end)
        yield network


def _hardware(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def _host_name_space(pid: int) -> str:
    return f"/proc/{pid}/ns/uts"


def _number_of_host_name_space(pid: int) -> int | None:
    """Which namespace of host names a process is in; None of one that has ended, or is another user's."""
    try:
        return os.stat(_host_name_space(pid)).st_ino
    except OSError:
        return None


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
