"""A run on several hosts that are all on this machine, one of which is cut off for a while and one of which goes down.

Example:
  python -m benchmarks.reliability.several_hosts --folder=runs/several-hosts --write

Two hosts have a learner and a server of the replay each, the first of them the acting server, too; collectors are on
two more and the evaluator is on a fifth, in network namespaces on a bridge. The roles are started one by one, and
pipeline.proxy speaks TLS between the hosts, the two learners included. One host's collector has its actions from the
acting server. The link of that host is cut and restored, then everything on the other one is killed at once and the
host comes back. The evaluator's host joins last: only then can the run be solved. With --write the results go into
docs/several_hosts.md. The exit code is 0 only if all of it held: nobody else stood still, both hosts contribute again
soon, the run is solved, the ledger balances to the unit, the own ports of Reverb and TensorFlow are out of reach,
nothing but TLS crosses the bridge, the acting server was asked for each of that collector's steps, and the policy that
the far evaluator has left in the learner's directory plays as well.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from absl import flags

from benchmarks.pages import DOCS, write_between
from benchmarks.reliability.hosts import hosts, unavailable
from benchmarks.reliability.site import (
    CENTRAL,
    COLLECTORS,
    CUT,
    EVALUATOR,
    KILLED,
    LANES,
    LEARNER,
    LEARNERS,
    PEERS_PORT,
    POLL_SECONDS,
    PROXY_PORT,
    REPLAY_PORT,
    SECOND,
    SECONDS,
    TENSORFLOW_PORTS,
    WEIGHTS_PORT,
    Site,
)
from benchmarks.reliability.wire import Seen
from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_json
from pipeline.messages.variables_reader import VariablesReader
from pipeline.records.counters import SILENT, UNCONFIRMED
from pipeline.records.recorder import Recorder
from pipeline.records.results import Summary

_FOLDER = flags.DEFINE_string("folder", None, "Where each host leaves its files; new.")
_CUT_SECONDS = flags.DEFINE_float("cut_seconds", 60.0, "How long a link is cut.", lower_bound=5.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the run.", lower_bound=0)
_WRITE = flags.DEFINE_bool("write", False, "Put the results into docs/several_hosts.md.")
_WATCH = flags.DEFINE_string("watch", None, "Of a process of its own: says whenever weights come from this address.")

_NAMED = {SILENT, UNCONFIRMED}
_SETTLE_SECONDS = 1.0
_DOWN_SECONDS = 3.0
_FIRST_TRANSITIONS = 2_000
_EPISODES = 20
_MOST_STANDSTILL_SECONDS = 10.0
_MOST_BACK_SECONDS = 20.0
_MOST_SKIPPED = 0.2
"""Share of the bytes on a wire that its watcher, which shares two cores with the run, may miss."""


class Report(msgspec.Struct):
    """`several_hosts.json`."""

    cut_seconds: float
    gradient_steps_while_cut: int = 0
    windows_while_cut: int = 0
    """Of the collector on the other host."""
    standstill_seconds: float = 0.0
    """The longest while in which the learner or that collector got no further, as the link was cut."""
    frames_back_seconds: float = 0.0
    """From the link's restoration until frames of the host that was cut off were stored."""
    weights_back_seconds: float = 0.0
    """And until weights reached it."""
    host_back_seconds: float = 0.0
    """From the start of the processes of the host that had gone down until frames of theirs were stored."""
    windows_of_central: int = 0
    """Stored of the collector that acts at the acting server, when an operator looked at that."""
    answered: int = 0
    """Of its lanes' steps, those that the acting server had chosen actions for by then."""
    metrics: dict[str, int] = {}
    """By role, how many values of it an operator on another host has read."""
    played_return: float = 0.0
    """Mean of the episodes that the policy in the learner's directory has played after the run."""
    wires: dict[str, Seen] = {}
    """By learner's host, what crossed its interface."""
    summary: Summary | None = None
    problems: list[str] = []
    """What did not hold; empty if all did."""


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
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        wires = {host: site.start(host, "wire", "benchmarks.reliability.wire", "eth0", **pipes) for host in LEARNERS}
        self._start()
        self._look_at_ports()
        self._cut()
        self._kill()
        self._read_metrics()
        addresses = site.start_proxies(EVALUATOR, "evaluator")
        site.start_role(EVALUATOR, "evaluator", *addresses, f"--run_dir={site.home(EVALUATOR) / 'run'}")
        site.wait_until(site.run.summary.exists, "the run is solved")
        self._end()
        for host, wire in wires.items():
            output, _ = wire.process.communicate(timeout=SECONDS)
            report.wires[host] = msgspec.json.decode(output.splitlines()[-1], type=Seen)
        report.summary = msgspec.json.decode(site.run.summary.read_bytes(), type=Summary)
        report.played_return = site.played_return(_EPISODES)
        self._check(report.summary)
        return report

    def _stored(self, host: str) -> int:
        return self._collectors[host].counts.windows

    def _start(self) -> None:
        site = self._site
        site.start_learner(SECOND)
        site.start_acting_server(*site.start_learner(LEARNER))
        site.start_metrics(LEARNER, "replay-0", "learner-0", "inference-0")
        site.start_metrics(SECOND, "replay-1", "learner-1")
        self._collectors = {host: site.start_collector(host) for host in COLLECTORS}
        site.wait_until(
            lambda: site.gradient_steps() > 0 and all(self._stored(host) > _FIRST_TRANSITIONS for host in COLLECTORS),
            "the run learns from both hosts' collectors",
        )

    def _look_at_ports(self) -> None:
        site, problems = self._site, self._report.problems
        hosts_of_all = (*LEARNERS, CUT, KILLED, EVALUATOR)
        for there, tensorflow_port in zip(LEARNERS, TENSORFLOW_PORTS, strict=True):
            is_open = dict.fromkeys((PROXY_PORT, PEERS_PORT), True)
            is_open |= dict.fromkeys((REPLAY_PORT, WEIGHTS_PORT, tensorflow_port), False)
            for host in (name for name in hosts_of_all if name != there):
                for port, wanted in is_open.items():
                    if site.reaches(host, there, port) != wanted:
                        problems.append(f"{host} {'does not reach' if wanted else 'reaches'} {there}:{port}")

    def _cut(self) -> None:
        site, report = self._site, self._report
        weights = site.home(CUT) / "watch.log"
        address = f"unix:{site.sockets(CUT) / '0' / 'messages.sock'}"
        watch = site.start(CUT, "watch", "benchmarks.reliability.several_hosts", f"--watch={address}")
        site.wait_until(lambda: weights.stat().st_size > 0, "weights reach who watches for them")
        site.host(CUT).cut()
        time.sleep(_SETTLE_SECONDS)  # what was on its way may still be confirmed
        cut_off, others, steps, seen = (
            self._stored(CUT), self._stored(KILLED), site.gradient_steps(), weights.stat().st_size
        )  # fmt: skip
        report.standstill_seconds = self._standstill(report.cut_seconds - _SETTLE_SECONDS)
        report.gradient_steps_while_cut = site.gradient_steps() - steps
        report.windows_while_cut = self._stored(KILLED) - others
        if self._stored(CUT) != cut_off or weights.stat().st_size != seen:
            report.problems.append("something passed the link that was cut")
        site.host(CUT).restore()
        restored, back = time.monotonic(), dict[str, float]()

        def is_back() -> bool:
            passed = time.monotonic() - restored
            if self._stored(CUT) > cut_off:
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
        ways: list[Callable[[], int]] = [self._site.gradient_steps, lambda: self._stored(KILLED)]
        now = time.monotonic()
        longest, end, since = 0.0, now + seconds, [(way(), now) for way in ways]
        while now < end:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            for place, way in enumerate(ways):
                before, at = since[place]
                longest = max(longest, now - at)
                if (count := way()) > before:
                    since[place] = count, now
        return longest

    def _kill(self) -> None:
        site = self._site
        site.host(KILLED).kill()
        site.forget(KILLED)
        time.sleep(_DOWN_SECONDS)
        site.host(KILLED).restore()
        self._collectors[KILLED] = site.start_collector(KILLED)
        self._report.host_back_seconds = site.wait_until(
            lambda: self._stored(KILLED) > 0, "the host that had gone down contributes again"
        )

    def _read_metrics(self) -> None:
        """Reads, on a host without a role so far, what every role of the others shows."""
        site, report = self._site, self._report
        roles = dict.fromkeys(("replay-0", "learner-0", "inference-0"), LEARNER)
        roles |= dict.fromkeys(("replay-1", "learner-1"), SECOND)
        roles |= {f"collector-{COLLECTORS[at]}": at for at in COLLECTORS}
        report.windows_of_central = self._stored(CENTRAL)
        for role, host in roles.items():
            text = site.read(EVALUATOR, host, f"/{role}/metrics")
            values = dict(line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#"))
            report.metrics[role] = len(values)
            report.answered += sum(int(float(values[name])) * LANES for name in values if "inference_requests" in name)
            if site.read(EVALUATOR, host, f"/{role}/readyz") != "ok\n" or "reverb_dqn_health_shows_work" not in text:
                report.problems.append(f"an operator does not see that {role} on {host} is at work: {text[:200]}")

    def _end(self) -> None:
        """Waits for the roles, which leave by themselves, and ends the proxies; all should end with 0."""
        processes = [process for process in self._site.processes.values() if "wire" not in process.name]
        for process in sorted(processes, key=lambda process: "proxy" in process.name):
            if "proxy" in process.name:
                process.process.terminate()
            try:
                code = process.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._report.problems.append(f"the {process.name} has not ended")
                continue
            if code != 0:
                self._report.problems.append(f"the {process.name} ended with {code}: {process.words()}")

    def _check(self, summary: Summary) -> None:
        report, problems = self._report, self._report.problems
        if not summary.solved:
            problems.append(f"the run was not solved: {summary.stop_reason}, mean return {summary.mean_return}")
        if report.played_return < (summary.mean_return or 0.0) / 2.0:
            problems.append(f"the policy in the learner's directory plays for {report.played_return:.0f}")
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
        if report.answered < report.windows_of_central:
            problems.append(
                f"{report.windows_of_central} windows, and the acting server was asked {report.answered} times"
            )
        for host, wire in report.wires.items():
            if wire.clear:
                problems.append(f"not all at {host} is TLS: {wire.clear[:3]}")
            if wire.records < 100 or wire.skipped > sum(wire.sent.values()) * _MOST_SKIPPED:
                problems.append(f"too little was seen of the wire of {host}: {wire}")


class Traffic(NamedTuple):
    """Bytes that hosts sent for each window stored, with all headers and what was sent again."""

    of_collectors: float
    of_learners: float
    """To each other, too."""
    seen: float
    """Share of all bytes whose TLS records were followed."""

    @classmethod
    def of(cls, report: Report, addresses: Mapping[str, str]) -> "Traffic":
        """What a run's hosts sent, by what crossed the learners' interfaces; their addresses by name."""
        assert report.summary is not None
        assert report.summary.account is not None
        stored = report.summary.account.stored
        collectors = sum(wire.sent.get(addresses[host], 0) for wire in report.wires.values() for host in COLLECTORS)
        learners = sum(wire.sent.get(addresses[host], 0) for host, wire in report.wires.items())
        everything = sum(sum(wire.sent.values()) for wire in report.wires.values())
        skipped = sum(wire.skipped for wire in report.wires.values())
        return cls(collectors / stored, learners / stored, 1.0 - skipped / everything)


def rows(report: Report, sent: Traffic) -> list[str]:
    """The results as lines of Markdown."""
    summary = report.summary
    assert summary is not None
    assert summary.account is not None
    lost = ", ".join(f"{count:,} ({name})" for name, count in summary.account.lost.items() if count) or "none"
    return [
        "| | |",
        "|---|---|",
        f"| a link cut | {report.cut_seconds:.0f} s |",
        f"| meanwhile | {report.gradient_steps_while_cut:,} gradient steps, {report.windows_while_cut:,} "
        f"transitions from the other host; nobody there stood still for more than {report.standstill_seconds:.1f} s |",
        f"| after its restoration, frames were stored again | after {report.frames_back_seconds:.1f} s |",
        f"| and weights arrived | after {report.weights_back_seconds:.1f} s |",
        f"| steps of that host's collector that the acting server chose the actions of | {report.answered:,} |",
        f"| new processes on the host that had gone down contributed | after {report.host_back_seconds:.1f} s |",
        f"| metrics, read by TLS from a fifth host | "
        f"{', '.join(f'{count} values of {role}' for role, count in report.metrics.items())} |",
        f"| solved | after {summary.train_seconds:.0f} s and {summary.environment_steps:,} environment steps |",
        f"| {_EPISODES} episodes of the policy in the learner's directory | mean return {report.played_return:.0f} |",
        f"| windows | {summary.account.begun:,} = {summary.account.stored:,} stored + lost: {lost} |",
        f"| bytes for each window | {sent.of_collectors:.0f} sent by the collectors' hosts, {sent.of_learners:,.0f} by "
        "the learners', most of them to each other |",
        f"| looked at, of what crossed the learners' interfaces | {sent.seen:.0%}: TLS |",
    ]


def watch(address: str) -> None:
    """Says whenever a publication comes; until it is killed."""
    reader, newest = VariablesReader(address, POLL_SECONDS), None
    while True:
        if reader.newest is not newest:
            newest = reader.newest
            print("publication", flush=True)
        time.sleep(POLL_SECONDS)


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
    names = *LEARNERS, CUT, KILLED, EVALUATOR
    for name in names:
        (folder / name).mkdir(parents=True)
    certificates = [sys.executable, "-m", "pipeline.certificates", f"--folder={folder / 'certificates'}"]
    subprocess.run([*certificates, f"--hosts={','.join(LEARNERS)}"], check=True, stdout=subprocess.DEVNULL)
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hosts-")))
        network = stack.enter_context(hosts(*names))
        report = Trial(Site(folder, sockets, network, _SEED.value), _CUT_SECONDS.value).run()
        sent = Traffic.of(report, {name: host.address for name, host in network.items()})
    write_json(folder / "several_hosts.json", report)
    lines = rows(report, sent)
    print("\n".join([*lines, *(f"FAILED: {problem}" for problem in report.problems)]))
    if _WRITE.value:
        write_between(DOCS / "several_hosts.md", "several hosts", lines)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
