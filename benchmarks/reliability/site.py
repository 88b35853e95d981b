"""The hosts of a run on several hosts, what runs on each of them, and what there is to see of it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.reliability.hosts import Host
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records.recorder import Recorder
from pipeline.records.results import Status
from pipeline.security.certificate_authority import INFERENCE, METRICS, METRICS_HOST, OPERATOR, PEERS, REPLAY

LEARNER, SECOND, CUT, KILLED, EVALUATOR = "learner", "learner-2", "collectors-a", "collectors-b", "evaluator"
LEARNERS = LEARNER, SECOND
"""Each has one learner and one server of the replay; the first's learner is the chief."""
COLLECTORS = {CUT: 0, KILLED: 1}
"""Number of the collector on each of their hosts."""
CENTRAL = CUT
"""The host whose collector acts at the acting server; the other's acts by itself."""
REPLAY_PORT, WEIGHTS_PORT, PROXY_PORT, INFERENCE_PORT, PEERS_PORT, METRICS_PORT = 9000, 9001, 9443, 9444, 9445, 9464
TENSORFLOW_PORTS = 9100, 9101
"""Of the learners, each on its own host."""
_ACTS_THERE = "--set=collect.inference='central'"
LANES = 16
"""Of each collector."""
_CHANGES = (
    f"collect.lanes={LANES}",
    f"replay.weights_port={WEIGHTS_PORT}",
    'replay.private="loopback"',
    "collect.collectors=2",
    "learner.local_steps=10",  # each sum of two learners passes four proxies
    "stop.environment_steps=0",
)
SECONDS = 300.0
"""For whatever is waited for."""
POLL_SECONDS = 0.02
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()"

_READ = """
import socket, ssl, sys
host, port, name, path, folder = sys.argv[1:]
context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
context.load_cert_chain(f"{folder}/operator.pem")
client = context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname=name)
client.sendall(f"GET {path} HTTP/1.0\\r\\n\\r\\n".encode())
sys.stdout.buffer.write(b"".join(iter(lambda: client.recv(65536), b"")))
"""


class Process(NamedTuple):
    """A process on one of the hosts."""

    name: str
    process: "subprocess.Popen[Any]"
    log: Path

    def words(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])


class Site:
    """The hosts of one run, and what runs there.

    Args:
      folder: each host has one of its own in it.
      sockets: as well, of a short path: a socket's is limited.
      network: the hosts by name.
      seed: of the run.
    """

    def __init__(self, folder: Path, sockets: Path, network: Mapping[str, Host], seed: int) -> None:
        self.folder, self._sockets, self._network = folder, sockets, network
        self._experiment = ["--config=cartpole", f"--seed={seed}", *(f"--set={line}" for line in _CHANGES)]
        self._starts = 0
        self.run = RunDirectory(self.home(LEARNER) / "run")
        self.processes: dict[str, Process] = {}
        """By host and name; of those that were started again, the last."""

    def host(self, name: str) -> Host:
        """One of the hosts."""
        return self._network[name]

    def home(self, host: str) -> Path:
        """A host's folder."""
        return self.folder / host

    def sockets(self, host: str) -> Path:
        """The folder of a host's proxy's sockets."""
        return self._sockets / host

    def start(self, host: str, name: str, module: str, *arguments: str, **options: Any) -> Process:
        """Starts a module there."""
        log = self.home(host) / f"{name}.log"
        with log.open("ab") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **options}
            command = [sys.executable, "-m", module, *arguments]
            process = Process(f"{name} on {host}", self.host(host).start(command, **streams), log)
        self.processes[process.name] = process
        return process

    def start_role(self, host: str, role: str, *arguments: str, index: int = 0, **options: Any) -> Recorder:
        """Starts a role there; returns its record."""
        self._starts += 1
        record = self.home(host) / f"{role}-{self._starts}"
        recorder = Recorder(record)
        arguments = (f"--role={role}", f"--index={index}", *self._experiment, f"--recorder={record}", *arguments)
        arguments += (f"--metrics=unix:{self._metrics(host) / f'{role}-{index}.sock'}",)
        self.start(host, f"{role}-{index}", "pipeline.role", *arguments, **options)
        return recorder

    def start_proxies(self, host: str, role: str) -> Sequence[str]:
        """Starts a host's proxies to the replay's servers of other hosts; returns the flags of its role."""
        frames: list[str] = []
        messages: list[str] = []
        theirs: tuple[str, ...] = ()
        for shard, there in enumerate(LEARNERS):
            if there == host:
                frames.append(f"127.0.0.1:{REPLAY_PORT}")
                continue
            sockets, acts_there = self.sockets(host) / str(shard), host == CENTRAL and there == LEARNER
            self.start(
                host, f"proxy-{shard}", "pipeline.proxy", "--side=client", f"--role={role}",
                f"--certificates={self.certificates(host, role)}", f"--connect={there}:{PROXY_PORT}",
                f"--sockets={sockets}", *([f"--connect_inference={LEARNER}:{INFERENCE_PORT}"] if acts_there else []),
            )  # fmt: skip
            frames.append(f"unix:{sockets / 'frames.sock'}")
            messages.append(f"unix:{sockets / 'messages.sock'}")
            if acts_there:
                theirs = _ACTS_THERE, f"--inference=unix:{sockets / 'acting.sock'}"
        replay = f"--replay={','.join(frames)}"
        if host in LEARNERS:
            return (replay,)
        own = messages[COLLECTORS.get(host, 0) % len(messages)]
        return replay, f"--weights={own}", f"--reports={own}", *theirs

    def start_learner(self, host: str) -> Sequence[str]:
        """Starts a server of the replay and a learner, and what lets others in to them; returns the role's flags."""
        index, flags = LEARNERS.index(host), self.start_proxies(host, "learner")
        addresses = [f"127.0.0.1:{port}" for port in TENSORFLOW_PORTS]
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        self.start_role(host, "replay", *flags, f"--run_dir={self.home(host) / 'replay'}", index=index)
        self.start(
            host, "proxy", "pipeline.proxy", "--side=server", f"--listen=0.0.0.0:{PROXY_PORT}",
            f"--certificates={self.certificates(host, REPLAY)}",
            f"--replay_port={REPLAY_PORT}", f"--weights_port={WEIGHTS_PORT}",
        )  # fmt: skip
        self.start(
            host, "learners-proxy", "pipeline.proxy", "--side=learners", f"--listen=0.0.0.0:{PEERS_PORT}",
            f"--certificates={self.certificates(host, PEERS)}",
            f"--learners={','.join(f'{name}:{PEERS_PORT}' for name in LEARNERS)}", env=environment,
        )  # fmt: skip
        run_dir = (f"--run_dir={self.run.path}",) if host == LEARNER else ()
        self.start_role(host, "learner", *flags, *run_dir, index=index, env=environment)
        return flags

    def start_acting_server(self, *flags: str) -> None:
        """Starts the acting server on the first learner's host, and what lets collectors of other hosts in to it.

        Args:
          flags: of roles on that host.
        """
        place = f"--inference=unix:{self.sockets(LEARNER) / 'own' / 'acting.sock'}"
        self.start_role(LEARNER, "inference", *flags, _ACTS_THERE, place)
        self.start(
            LEARNER, "inference-proxy", "pipeline.proxy", "--side=inference", f"--listen=0.0.0.0:{INFERENCE_PORT}",
            f"--certificates={self.certificates(LEARNER, INFERENCE)}", place,
        )  # fmt: skip

    def start_metrics(self, host: str, *roles: str) -> None:
        """Starts what shows operators the metrics of a host's roles."""
        self.start(
            host, "metrics-proxy", "pipeline.proxy", "--side=metrics", f"--listen=0.0.0.0:{METRICS_PORT}",
            f"--certificates={self.certificates(host, METRICS)}", f"--sockets={self._metrics(host)}",
            f"--roles={','.join(roles)}",
        )  # fmt: skip

    def read(self, reader: str, host: str, page: str) -> str:
        """A page of a host's roles as an operator on another host reads it; empty if that fails."""
        certificates = str(self.certificates(reader, OPERATOR))
        where = host, str(METRICS_PORT), METRICS_HOST, page
        line = [*self.host(reader).prefix, sys.executable, "-I", "-S", "-c", _READ, *where, certificates]
        answer = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False).stdout
        head, _, body = answer.partition("\n\n")
        return body if head.split(" ")[1:2] == ["200"] else ""

    def _metrics(self, host: str) -> Path:
        return self.sockets(host) / "metrics"

    def start_collector(self, host: str) -> Recorder:
        """Starts what runs on a collectors' host."""
        addresses = self.start_proxies(host, "collector")
        self.start_metrics(host, f"collector-{COLLECTORS[host]}")
        return self.start_role(host, "collector", *addresses, index=COLLECTORS[host])

    def certificates(self, host: str, role: str) -> Path:
        """Copies those of a role to a host, and nothing else."""
        folder = self.home(host) / "certificates"
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("ca.pem", f"{role}.pem"):
            shutil.copy2(self.folder / "certificates" / name, folder)
        return folder

    def status(self) -> Status | None:
        """What the learner says of itself; None before it says anything."""
        try:
            return msgspec.json.decode(self.run.status.read_bytes(), type=Status)
        except (OSError, msgspec.MsgspecError):
            return None

    def gradient_steps(self) -> int:
        """Of the learner."""
        status = self.status()
        return status.gradient_steps if status is not None else 0

    def wait_until(self, holds: Callable[[], bool], what: str) -> float:
        """Waits; returns the seconds that it took.

        Raises:
          RuntimeError: it has not come to hold, or a process has ended that should not have.
        """
        started = time.monotonic()
        while not holds():
            ended = [process for process in self.processes.values() if process.process.poll()]
            if ended or time.monotonic() - started > SECONDS:
                words = "\n".join(f"{process.name}: {process.words()}" for process in ended)
                raise RuntimeError(f"waited {time.monotonic() - started:.0f} s until {what}\n{words}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def played_return(self, episodes: int) -> float:
        """The mean return of so many episodes by the best policy in the learner's directory, played on its host.

        Raises:
          RuntimeError: none could be played.
        """
        flags = f"--run_dir={self.run.path}", f"--episodes={episodes}"
        process = self.start(LEARNER, "evaluate", "pipeline.evaluate", *flags, stdout=subprocess.PIPE, text=True)
        output, _ = process.process.communicate(timeout=SECONDS)
        if process.process.returncode != 0:
            raise RuntimeError(f"no policy plays: {process.words()}")
        return float(json.loads(output.splitlines()[-1])["mean_return"])

    def forget(self, host: str) -> None:
        """Takes the processes of a host out of the book: it has gone down."""
        for name in [name for name in self.processes if name.endswith(f" on {host}")]:
            del self.processes[name]

    def reaches(self, host: str, there: str, port: int) -> bool:
        """Whether a process on a host can connect to a port of another one."""
        command = [*self.host(host).prefix, sys.executable, "-I", "-S", "-c", _CONNECT, there, str(port)]
        return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False).returncode == 0
