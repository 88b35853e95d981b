"""What roles on other hosts leave in the learner's run directory: policies, and each role's log and faults.

On one machine, roles write into the one run directory that they share. Roles that were started by hand have each their
own or none, so the learner keeps for them what a run leaves. Never imported by an inline run. No TensorFlow.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pipeline.acting.sent_policies import SentPolicy
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import is_socket, port_of, respelled
from pipeline.messages.channel import take
from pipeline.messages.contents import REPORTS_TABLE, CollectorReport, Evaluation, Filmstrip, Report, Variables
from pipeline.messages.role_words import RoleLogs, RoleWords, WhereRole, roles_file, where_roles
from pipeline.messages.traffic import Arrivals, Departures
from pipeline.records.counters import Counters
from pipeline.runtime import native

if TYPE_CHECKING:
    from pipeline.evaluator.judge import Judge
    from pipeline.replay.replay import Replay

log = logging.getLogger(__name__)

_MOST = 2**31 - 1
_MOST_RELAYS = 64
_AGAIN_SECONDS = 1.0
_BYTES_SECONDS = 2.0
_REFUSED = 2
"""Exit code of a role that could not take part as it was started."""


class BytesAtReplay:
    """Bytes that collectors have sent, as the replay's servers count them.

    Args:
      replay: of the run. What this process itself has sent to servers elsewhere is taken off; behind a proxy of its own
        it is among the rest.
      goes_on: count from now on: what was before has been counted.
    """

    def __init__(self, replay: "Replay", goes_on: bool) -> None:
        self._replay, self._at = replay, -math.inf
        ports = [port_of(each, "--replay") for each in replay.addresses if not is_socket(each)]
        self._here = [] if replay.seen() else [Arrivals(port) for port in ports]
        self._own, self._there = Departures(ports), dict[str, int]()
        self._given = 0
        if goes_on:
            self.more()

    def more(self) -> int:
        """How many have come since the last call; asked for anew only now and then."""
        if time.monotonic() - self._at < _BYTES_SECONDS:
            return 0
        self._at = time.monotonic()
        total = sum(arrivals.read()[1] for arrivals in self._here)
        self._own.read()
        for served in (seen.served for seen in self._replay.seen()):
            others = sum(count for peer, count in served.received.items() if peer not in self._own.names)
            self._there[served.identity] = max(others, self._there.get(served.identity, 0))
        total += sum(self._there.values())
        more = max(0, total - self._given)
        self._given += more
        return more


class FarRoles:
    """Takes all reports: keeps those that concern the run directory, and hands the others on.

    Args:
      experiment: the run.
      run: its directory.
      published: gives the learner's newest publication.
      warnings: of the run's status; a role that has failed is among them until it is back, and what was refused.
      hand_on: takes what collectors and evaluator have counted.
      counters: of the run, which count the reports that are refused.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        published: Callable[[], Variables | None],
        warnings: list[str],
        hand_on: Callable[[Report], None],
        counters: Counters,
    ) -> None:
        self._experiment, self._run = experiment, run
        self._published, self._warnings, self._hand_on = published, warnings, hand_on
        self._counters, self._refusals = counters, ""
        self._replay: Replay | None = None
        self._bytes: BytesAtReplay | None = None
        self._guard = threading.Lock()
        self._logs = RoleLogs(run.logs)
        self._judge: Judge | None = None
        self._kept: SentPolicy | None = None
        self._is_best = False
        self._roles = where_roles(run)
        self._faults: dict[str, str] = {}

    def listen(self, replay: "Replay") -> None:
        """Takes the reports that come to the servers of a replay, in threads that never end."""
        self._replay = replay
        for address in replay.addresses:
            threading.Thread(target=self._listen, args=(address,), name="reports", daemon=True).start()

    def _listen(self, address: str) -> None:
        kinds = CollectorReport | Evaluation | Filmstrip | SentPolicy | RoleWords
        for spelling in itertools.chain([address], respelled(address)):
            try:
                take(native.reverb_client(spelling), REPORTS_TABLE, kinds, _MOST, self.accept, self._refuse)
            except Exception as error:  # of Reverb: the next attempt may do
                log.warning("reports at %s are not to be had, and asked for again: %s", address, error)
            time.sleep(_AGAIN_SECONDS)

    def accept(self, report: Report | SentPolicy | RoleWords) -> None:
        """Takes a report; a policy has to come before its evaluation.

        Raises:
          ValueError: no role of this run can have sent it.
        """
        if isinstance(report, CollectorReport):
            _refuse_impossible(self._experiment, report)
            report = self._with_bytes(report)
        if isinstance(report, SentPolicy):
            with self._guard:
                self._keep(report)
            return
        if isinstance(report, RoleWords):
            with self._guard:
                self._note(report)
            return
        if isinstance(report, Evaluation) and self._kept is not None and self._kept.at == report.at:
            # An evaluator that was started anew elsewhere does not know how good others were.
            report = msgspec.structs.replace(report, is_best=self._is_best)
        self._hand_on(report)

    def _with_bytes(self, report: CollectorReport) -> CollectorReport:
        """A report whose bytes are counted once: at the replay, where a proxy keeps collectors from counting theirs."""
        if self._bytes is None and report.windows and not report.bytes_sent and self._replay is not None:
            self._bytes = BytesAtReplay(self._replay, goes_on=self._counters.bytes_sent > 0)
        if self._bytes is None:
            return report
        self._counters.bytes_sent += self._bytes.more()
        return msgspec.structs.replace(report, bytes_sent=0)

    def _refuse(self, error: Exception) -> None:
        """Counts and shows that somebody has sent what is no report; who it was is not known."""
        with self._guard:
            self._counters.refused_reports += 1
            count, (reason, *_) = self._counters.refused_reports, str(error).splitlines() or [repr(error)]
            if self._refusals in self._warnings:
                self._warnings.remove(self._refusals)
            self._refusals = f"reports that are none have come, and were refused: {count}, the newest one: {reason}"
            self._warnings.append(self._refusals)
            if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
                log.warning("%s", self._refusals)

    def _keep(self, sent: SentPolicy) -> None:
        own = self._published()
        if own is None or (self._kept is not None and self._kept.at == sent.at):
            return
        try:
            policy = sent.completed(own)
        except ValueError as error:
            log.error("the policy of gradient step %d is not kept: %s", sent.policy.gradient_steps, error)
            return
        score = -math.inf if policy.score is None else policy.score
        self._is_best = self._its_judge().take(policy, score, sent.is_whole)
        self._kept = sent

    def _its_judge(self) -> "Judge":
        if self._judge is None:
            from pipeline.evaluator.judge import Judge

            self._judge = Judge(self._experiment, self._run.policies)
        return self._judge

    def _note(self, words: RoleWords) -> None:
        if not self._is_of_this_run(words):
            return
        self._logs.write(words)
        if words.role == "collector" and words.exit_code == _REFUSED:
            self._note_refused(words.index)
        fault = words.fault
        if (before := self._faults.pop(words.name, "")) and before in self._warnings:
            self._warnings.remove(before)
        if fault:
            log.error("%s", fault)
            self._faults[words.name] = fault
            self._warnings.append(fault)
        where = WhereRole(words.host, words.folder, fault)
        if self._roles.get(words.name) != where:
            self._roles[words.name] = where
            try:
                write_json(roles_file(self._run), self._roles)
            except OSError as error:
                log.error("%s could not be written: %s", roles_file(self._run), error)

    def _note_refused(self, index: int) -> None:
        """A collector that was refused has come and left: no steps of the run's budget are kept for it."""
        counters, name = self._counters, f"collector-{index}."
        if not any(process.startswith(name) for process in [*counters.processes, *counters.left]):
            counters.left.append(f"{name}refused")

    def _is_of_this_run(self, words: RoleWords) -> bool:
        """Whether the run can have such a role: files are made for no other."""
        most = {
            "collector": self._experiment.collectors,
            "replay": max(1, self._experiment.replay.shards),
            "evaluator": 1,
            "inference": 1,
        }
        return 0 <= words.index < most.get(words.role, _MOST_RELAYS)


def _refuse_impossible(experiment: Experiment, report: CollectorReport) -> None:
    """Refuses counts that no collector of the run can have.

    Raises:
      ValueError: says which.
    """
    if not 0 <= report.index < experiment.collectors:
        raise ValueError(f"it is of collector {report.index}, and there are {experiment.collectors}")
    counts = msgspec.structs.asdict(report.counts)
    if negative := [name for name, count in counts.items() if count < 0]:
        raise ValueError(f"collector {report.index} has counted {negative[0]}={counts[negative[0]]}")
    if report.unconfirmed < 0:
        raise ValueError(f"collector {report.index} has {report.windows} windows confirmed of {report.begun} begun")
