"""A run on several hosts that are all on this machine, one of which is cut off for a while and one of which goes down.

Example:
  python -m benchmarks.several_hosts --folder=runs/several-hosts --write

Replay and learner are on one host, collectors on two and the evaluator on a fourth, in network namespaces on a bridge;
the roles are started one by one, and pipeline.proxy speaks TLS between the hosts. The link of one collectors' host is
cut and restored, then everything on the other one is killed at once and the host comes back. The evaluator's host joins
last: only then can the run be solved. With --write the results go into docs/several_hosts.md. The exit code is 0
only if all of it held: nobody else stood still, both hosts contribute again soon, the run is solved, the ledger
balances to the unit, Reverb's own ports are out of reach, and nothing but TLS crosses the bridge.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from absl import flags

from benchmarks.hosts import Host, hosts, unavailable
from benchmarks.pages import write_between
from benchmarks.wire import Seen
from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records.counters import SILENT, UNCONFIRMED
from pipeline.records.recorder import Recorder
from pipeline.records.results import Status, Summary

_FOLDER = flags.DEFINE_string("folder", None, "Where each host leaves its files; new.")
_CUT_SECONDS = flags.DEFINE_float("cut_seconds", 60.0, "How long a link is cut.", lower_bound=5.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the run.", lower_bound=0)
_WRITE = flags.DEFINE_bool("write", False, "Put the results into docs/several_hosts.md.")
_WATCH = flags.DEFINE_string("watch", None, "Of a process of its own: says whenever weights come from this address.")

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "several_hosts.md"
_LEARNER, _CUT, _KILLED, _EVALUATOR = "learner", "collectors-a", "collectors-b", "evaluator"
_COLLECTORS = {_CUT: 0, _KILLED: 1}
"""Number of the collector on each of their hosts."""
_REPLAY_PORT, _WEIGHTS_PORT, _PROXY_PORT = 9000, 9001, 9443
_CHANGES = (
    f"replay.weights_port={_WEIGHTS_PORT}",
    'replay.private="loopback"',
    "collect.collectors=2",
    'learner.loop="plain"',
    "stop.environment_steps=0",
)
_NAMED = {SILENT, UNCONFIRMED}
_SECONDS = 300.0
_POLL_SECONDS = 0.02
_SETTLE_SECONDS = 1.0
_DOWN_SECONDS = 3.0
_FIRST_TRANSITIONS = 2_000
_MOST_STANDSTILL_SECONDS = 10.0
_MOST_BACK_SECONDS = 20.0
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()"


class Report(msgspec.Struct):
    """`several_hosts.json`."""

    cut_seconds: float
    gradient_steps_while_cut: int = 0
    transitions_while_cut: int = 0
    """Of the collector on the other host."""
    standstill_seconds: float = 0.0
    """The longest while in which the learner or that collector got no further, as the link was cut."""
    frames_back_seconds: float = 0.0
    """From the link's restoration until frames of the host that was cut off were stored."""
    weights_back_seconds: float = 0.0
    """And until weights reached it."""
    host_back_seconds: float = 0.0
    """From the start of the processes of the host that had gone down until frames of theirs were stored."""
    wire: Seen | None = None
    """What crossed the learner's interface."""
    summary: Summary | None = None
    problems: list[str] = []
    """What did not hold; empty if all did."""


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

    def __init__(self, folder: Path, sockets: Path, network: Any, seed: int) -> None:
        self.folder, self._sockets, self._network = folder, sockets, network
        self._experiment = ["--config=cartpole", f"--seed={seed}", *(f"--set={line}" for line in _CHANGES)]
        self._starts = 0
        self.run = RunDirectory(self.home(_LEARNER) / "run")
        self.processes: dict[str, Process] = {}
        """By host and name; of those that were started again, the last."""

    def host(self, name: str) -> Host:
        """One of the hosts."""
        host: Host = self._network[name]
        return host

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

    def start_role(self, host: str, role: str, *arguments: str, index: int = 0) -> Recorder:
        """Starts a role there; returns its record."""
        self._starts += 1
        record = self.home(host) / f"{role}-{self._starts}"
        recorder = Recorder(record)
        arguments = (f"--role={role}", f"--index={index}", *self._experiment, f"--recorder={record}", *arguments)
        self.start(host, f"{role}-{index}", "pipeline.role", *arguments)
        return recorder

    def start_proxy(self, host: str, role: str) -> Sequence[str]:
        """Starts the proxy of a host that is not the learner's; returns its roles' flags."""
        sockets = self.sockets(host)
        self.start(
            host, "proxy", "pipeline.proxy", "--side=client", f"--certificates={self.certificates(host, role)}",
            f"--role={role}", f"--connect={_LEARNER}:{_PROXY_PORT}", f"--sockets={sockets}",
        )  # fmt: skip
        frames, messages = (f"unix:{sockets / name}.sock" for name in ("frames", "messages"))
        return f"--replay={frames}", f"--weights={messages}", f"--reports={messages}"

    def start_collector(self, host: str) -> Recorder:
        """Starts what runs on a collectors' host."""
        addresses = self.start_proxy(host, "collector")
        return self.start_role(host, "collector", *addresses, index=_COLLECTORS[host])

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
            if ended or time.monotonic() - started > _SECONDS:
                words = "\n".join(f"{process.name}: {process.words()}" for process in ended)
                raise RuntimeError(f"waited {time.monotonic() - started:.0f} s until {what}\n{words}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - started

    def forget(self, host: str) -> None:
        """Takes the processes of a host out of the book: it has gone down."""
        for name in [name for name in self.processes if name.endswith(f" on {host}")]:
            del self.processes[name]

    def reaches(self, host: str, port: int) -> bool:
        """Whether a process on a host can connect to a port of the learner's."""
        command = [*self.host(host).prefix, sys.executable, "-I", "-S", "-c", _CONNECT, _LEARNER, str(port)]
        return subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode == 0


class Trial:
    """The run and what is done to it.

    Args:
      site: its hosts.
      cut_seconds: how long a link is cut.
    """

    def __init__(self, site: Site, cut_seconds: float) -> None:
        self._site, self._report = site, Report(cut_seconds)
        self._collectors: dict[str, Recorder] = {}

    def run(self) -> Report:
        """Does all of it.

        Raises:
          RuntimeError: it could not be done to its end.
        """
        site, report = self._site, self._report
        wire = site.start(
            _LEARNER, "wire", "benchmarks.wire", "eth0", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._start()
        self._look_at_ports()
        self._cut()
        self._kill()
        addresses = site.start_proxy(_EVALUATOR, "evaluator")
        site.start_role(_EVALUATOR, "evaluator", *addresses, f"--run_dir={site.home(_EVALUATOR) / 'run'}")
        site.wait_until(site.run.summary.exists, "the run is solved")
        self._end()
        output, _ = wire.process.communicate(timeout=_SECONDS)
        report.wire = msgspec.json.decode(output.splitlines()[-1], type=Seen)
        report.summary = msgspec.json.decode(site.run.summary.read_bytes(), type=Summary)
        self._check(report.wire, report.summary)
        return report

    def _stored(self, host: str) -> int:
        return self._collectors[host].counts.transitions

    def _start(self) -> None:
        site, here = self._site, f"--replay=127.0.0.1:{_REPLAY_PORT}"
        site.start_role(_LEARNER, "replay", here, f"--run_dir={site.home(_LEARNER) / 'replay'}")
        site.start_role(_LEARNER, "learner", here, f"--run_dir={site.run.path}")
        site.start(
            _LEARNER, "proxy", "pipeline.proxy", "--side=server", f"--listen=0.0.0.0:{_PROXY_PORT}",
            f"--certificates={site.certificates(_LEARNER, 'replay')}",
            f"--replay_port={_REPLAY_PORT}", f"--weights_port={_WEIGHTS_PORT}",
        )  # fmt: skip
        self._collectors = {host: site.start_collector(host) for host in _COLLECTORS}
        site.wait_until(
            lambda: site.gradient_steps() > 0 and all(self._stored(host) > _FIRST_TRANSITIONS for host in _COLLECTORS),
            "the run learns from both hosts' collectors",
        )

    def _look_at_ports(self) -> None:
        site, problems = self._site, self._report.problems
        for host in (_CUT, _KILLED, _EVALUATOR):
            if not site.reaches(host, _PROXY_PORT):
                problems.append(f"{host} does not reach the proxy")
            problems += [
                f"{host} reaches Reverb's port {port}"
                for port in (_REPLAY_PORT, _WEIGHTS_PORT)
                if site.reaches(host, port)
            ]

    def _cut(self) -> None:
        site, report = self._site, self._report
        weights = site.home(_CUT) / "watch.log"
        address = f"unix:{site.sockets(_CUT) / 'messages.sock'}"
        watch = site.start(_CUT, "watch", "benchmarks.several_hosts", f"--watch={address}")
        site.wait_until(lambda: weights.stat().st_size > 0, "weights reach who watches for them")
        site.host(_CUT).cut()
        time.sleep(_SETTLE_SECONDS)  # what was on its way may still be confirmed
        cut_off, others, steps, seen = (
            self._stored(_CUT), self._stored(_KILLED), site.gradient_steps(), weights.stat().st_size
        )  # fmt: skip
        report.standstill_seconds = self._standstill(report.cut_seconds - _SETTLE_SECONDS)
        report.gradient_steps_while_cut = site.gradient_steps() - steps
        report.transitions_while_cut = self._stored(_KILLED) - others
        if self._stored(_CUT) != cut_off or weights.stat().st_size != seen:
            report.problems.append("something passed the link that was cut")
        site.host(_CUT).restore()
        restored, back = time.monotonic(), dict[str, float]()

        def is_back() -> bool:
            passed = time.monotonic() - restored
            if self._stored(_CUT) > cut_off:
                back.setdefault("frames", passed)
            if weights.stat().st_size > seen:
                back.setdefault("weights", passed)
            return len(back) == 2

        site.wait_until(is_back, "the host that was cut off contributes again")
        report.frames_back_seconds, report.weights_back_seconds = back["frames"], back["weights"]
        watch.process.kill()
        watch.process.wait()
        del site.processes[watch.name]

    def _standstill(self, seconds: float) -> float:
        """Waits; returns the longest while in which the learner, or the other host's collector, got no further."""
        ways: list[Callable[[], int]] = [self._site.gradient_steps, lambda: self._stored(_KILLED)]
        now = time.monotonic()
        longest, end, since = 0.0, now + seconds, [(way(), now) for way in ways]
        while now < end:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            for place, way in enumerate(ways):
                before, at = since[place]
                longest = max(longest, now - at)
                if (count := way()) > before:
                    since[place] = count, now
        return longest

    def _kill(self) -> None:
        site = self._site
        site.host(_KILLED).kill()
        site.forget(_KILLED)
        time.sleep(_DOWN_SECONDS)
        site.host(_KILLED).restore()
        self._collectors[_KILLED] = site.start_collector(_KILLED)
        self._report.host_back_seconds = site.wait_until(
            lambda: self._stored(_KILLED) > 0, "the host that had gone down contributes again"
        )

    def _end(self) -> None:
        """Waits for the roles, which leave by themselves, and ends the proxies; all should end with 0."""
        processes = [process for process in self._site.processes.values() if "wire" not in process.name]
        for process in sorted(processes, key=lambda process: "proxy" in process.name):
            if "proxy" in process.name:
                process.process.terminate()
            try:
                code = process.process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                self._report.problems.append(f"the {process.name} has not ended")
                continue
            if code != 0:
                self._report.problems.append(f"the {process.name} ended with {code}: {process.words()}")

    def _check(self, wire: Seen, summary: Summary) -> None:
        report, problems = self._report, self._report.problems
        if not summary.solved:
            problems.append(f"the run was not solved: {summary.stop_reason}, mean return {summary.mean_return}")
        account = summary.account
        if account is None or account.unaccounted or account.in_flight:
            problems.append(f"the ledger does not balance: {account}")
        elif {name for name, count in account.lost.items() if count} - _NAMED:
            problems.append(f"lost: {account.lost}")
        if report.standstill_seconds > _MOST_STANDSTILL_SECONDS:
            problems.append(f"others stood still for {report.standstill_seconds:.1f} s while a link was cut")
        longest = max(report.frames_back_seconds, report.weights_back_seconds)
        if longest > _MOST_BACK_SECONDS:
            problems.append(f"the host that was cut off was back after {longest:.1f} s")
        if wire.clear:
            problems.append(f"not all is TLS: {wire.clear[:3]}")
        if wire.records < 100 or wire.skipped > sum(wire.sent.values()) / 100:
            problems.append(f"too little was seen of the wire: {wire}")


def bytes_per_transition(report: Report, addresses: Sequence[str]) -> float:
    """What these hosts sent for each transition stored, with all headers and what was sent again."""
    assert report.wire is not None
    assert report.summary is not None
    assert report.summary.account is not None
    return sum(report.wire.sent.get(address, 0) for address in addresses) / report.summary.account.stored


def rows(report: Report, sent: float, received: float) -> list[str]:
    """The results as lines of Markdown."""
    summary = report.summary
    assert summary is not None
    assert summary.account is not None
    lost = ", ".join(f"{count:,} ({name})" for name, count in summary.account.lost.items() if count) or "none"
    return [
        "| | |",
        "|---|---|",
        f"| a link cut | {report.cut_seconds:.0f} s |",
        f"| meanwhile | {report.gradient_steps_while_cut:,} gradient steps, {report.transitions_while_cut:,} "
        f"transitions from the other host; nobody there stood still for more than {report.standstill_seconds:.1f} s |",
        f"| after its restoration, frames were stored again | after {report.frames_back_seconds:.1f} s |",
        f"| and weights arrived | after {report.weights_back_seconds:.1f} s |",
        f"| new processes on the host that had gone down contributed | after {report.host_back_seconds:.1f} s |",
        f"| solved | after {summary.train_seconds:.0f} s and {summary.environment_steps:,} environment steps |",
        f"| transitions | {summary.account.begun:,} = {summary.account.stored:,} stored + lost: {lost} |",
        f"| bytes for each transition | {sent:.0f} sent by the collectors' hosts, {received:.0f} by the learner's |",
    ]


def watch(address: str) -> None:
    """Says whenever a publication comes; until it is killed."""
    reader, newest = VariablesReader(address, _POLL_SECONDS), None
    while True:
        if reader.newest is not newest:
            newest = reader.newest
            print("publication", flush=True)
        time.sleep(_POLL_SECONDS)


def main(arguments: list[str]) -> int:
    """Checks the command line, tries and prints."""
    refuse_more(arguments)
    if _WATCH.value:
        watch(_WATCH.value)
    if not _FOLDER.value:
        raise UsageError("--folder is missing: where should the hosts leave their files?")
    if reason := unavailable():
        raise UsageError(reason)
    folder = Path(_FOLDER.value).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: choose another --folder")
    names = _LEARNER, _CUT, _KILLED, _EVALUATOR
    for name in names:
        (folder / name).mkdir(parents=True)
    certificates = [sys.executable, "-m", "pipeline.certificates", f"--folder={folder / 'certificates'}"]
    subprocess.run([*certificates, f"--hosts={_LEARNER}"], check=True, stdout=subprocess.DEVNULL)
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        network = stack.enter_context(hosts(*names))
        report = Trial(Site(folder, sockets, network, _SEED.value), _CUT_SECONDS.value).run()
        sent = bytes_per_transition(report, [network[host].address for host in _COLLECTORS])
        received = bytes_per_transition(report, [network[_LEARNER].address])
    write_json(folder / "several_hosts.json", report)
    lines = rows(report, sent, received)
    print("\n".join([*lines, *(f"FAILED: {problem}" for problem in report.problems)]))
    if _WRITE.value:
        write_between(_PAGE, "several hosts", lines)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
