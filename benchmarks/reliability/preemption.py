"""Notice to leave and loss of the host, of every role, by each way of launching: what each costs, and who has to act.

Example:
  python -m benchmarks.reliability.preemption --folder=runs/preemption --write

By hand and by systemd each role is on a host of its own (network namespaces); systemd itself runs there as process 1,
with the units of docs/recipes. Under Ray the hosts are nodes of a cluster. What each case has cost is a line of
`preemption.jsonl` in the folder, and how each run ended one of `ends.jsonl`; a run that is there is not made again.
With --write the table goes into docs/reliability.md. The exit code is 0 only if every role came back in time, every
run ended as it was told to, and every ledger balances to the unit.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from absl import flags

from agents.struct_types import prepared
from benchmarks import json_lines
from benchmarks.pages import DOCS, table, write_between
from benchmarks.reliability.hosts import unavailable
from benchmarks.reliability.launchings import APART, PROXIED, ByHand, Plan, wait_until
from pipeline.command import refuse_more, run_command
from pipeline.drill.faults import Progress
from pipeline.experiment.config import UsageError
from pipeline.records import checkpoint
from pipeline.records.results import Summary

if TYPE_CHECKING:
    from benchmarks.reliability.ray_nodes import ByRay

_FOLDER = flags.DEFINE_string("folder", None, "Where each run leaves its files, and `preemption.jsonl`.")
_WAYS = flags.DEFINE_list("ways", ["hand", "systemd", "ray"], "Of launching.")
_ROLES = flags.DEFINE_list("roles", [], "Only these, by the names of the table; none tries all.")
_WRITE = flags.DEFINE_bool("write", False, "Put the table into docs/reliability.md.")

NOTICE, LOSS = "SIGTERM", "host lost"
_AWAY_SECONDS = 3.0
"""How long a host that was lost is away."""
_NAMES = {
    "replay-0": "replay, shard 0", "replay-1": "replay, another shard", "learner-0": "learner",
    "collector-0": "collector", "evaluator-0": "evaluator", "inference-0": "acting server", "relay-0": "relay",
    "proxy-collectors": "proxy of collectors", "proxy-learner": "proxy of the learner's host",
}  # fmt: skip


class Cost(msgspec.Struct):
    """A line of `preemption.jsonl`: what one case has cost."""

    way: str
    run: str
    """Which of the way's runs."""
    what: str
    """The role, or all that was on its host."""
    fault: str
    run_seconds: float = 0.0
    """From the fault until the run collected and learned."""
    role_seconds: float = 0.0
    """And until all that was on the host was at work again."""
    code: int | None = None
    """That the role's process ended with; None of one that was killed."""
    lost: dict[str, int] = {}
    gradient_steps: int = 0
    """Lost."""
    operator: str = ""
    """What somebody has to do."""
    problem: str = ""


class Ended(msgspec.Struct):
    """A line of `preemption.jsonl`: how a run ended."""

    way: str
    run: str
    summary: Summary | None
    problems: list[str]


class Case(NamedTuple):
    """A role, and what is done to it."""

    role: str
    fault: str


class Trial:
    """One run, and what is done to it.

    Args:
      way: how it is launched.
      run: its name.
      keep: takes each line of results.
    """

    def __init__(self, way: "ByHand | ByRay", run: str, keep: Callable[[Any], None]) -> None:
        self._way, self._run, self._keep = way, run, keep
        self._lost: dict[str, int] = {}
        self._cost: Cost | None = None
        """Of the newest case, whose losses are not all known yet."""

    def do(self, cases: Sequence[Case]) -> None:
        """Starts the run, does all of it, and ends the run."""
        way, problems = self._way, list[str]()
        way.start()
        try:
            self._settle()
            for case in cases:
                self._keep_cost()
                self._do(case)
                self._settle()
        except TimeoutError as error:
            problems.append(str(error))
        codes = way.end()
        summary = None
        if way.run.summary.is_file():
            summary = msgspec.json.decode(way.run.summary.read_bytes(), type=prepared(Summary))
        account = summary.account if summary else None
        if account is None or account.unaccounted or account.in_flight:
            problems.append(f"the ledger does not balance: {account}")
        problems += way.wrong_ends(codes)
        if account is not None:
            self._take_lost(account.lost)
        self._keep_cost()
        self._keep(Ended(way.name, self._run, summary, problems))

    def _keep_cost(self) -> None:
        if self._cost is not None:
            self._keep(self._cost)
            self._cost = None

    def _settle(self) -> None:
        """Waits until all roles are at work and the run goes on, and takes what the last case has lost by now."""
        way = self._way
        roles = way.roles()
        wait_until(way, lambda: all(map(way.is_at_work, roles)), "all roles are at work", roles)
        wait_until(way, Progress(way.status).is_seen, "the run collects and learns", ["learner-0"])
        status = way.status()
        if status is not None and status.account is not None:
            self._take_lost(status.account.lost)

    def _take_lost(self, lost: dict[str, int]) -> None:
        if self._cost is not None:
            of_it = self._cost.lost
            for name, count in lost.items():
                of_it[name] = of_it.get(name, 0) + count - self._lost.get(name, 0)
        self._lost = dict(lost)

    def _do(self, case: Case) -> None:
        way = self._way
        host, before = way.host_of(case.role), way.status()
        struck = way.everything(host) if case.fault == LOSS else [case.role]
        what = " + ".join(_NAMES.get(role, role) for role in struck)
        print(f"{way.name}: {case.fault} of {what}", flush=True)
        cost = self._cost = Cost(way.name, self._run, what, case.fault)
        old = {role: way.identity(role) for role in struck}
        began = time.monotonic()
        if case.fault == NOTICE:
            way.notice(case.role)
            wait_until(way, lambda: way.identity(case.role) != old[case.role], f"{case.role} leaves", [case.role])
            cost.code = way.code(case.role)
        else:
            way.lose(host)
        if "learner-0" in struck and before is not None:
            last, saved = way.status() or before, checkpoint.newest(way.run.checkpoints)
            cost.gradient_steps = last.gradient_steps - (saved.counters.gradient_steps if saved else 0)
        if case.fault == LOSS:
            time.sleep(max(0.0, began + _AWAY_SECONDS - time.monotonic()))
            way.bring_back(host)
        progress = Progress(way.status)

        def is_back() -> bool:
            passed = time.monotonic() - began
            if not cost.run_seconds and progress.is_seen():
                cost.run_seconds = passed
            if not cost.role_seconds and all(
                way.identity(role) not in (0, old[role]) and way.is_at_work(role) for role in struck
            ):
                cost.role_seconds = passed
            return bool(cost.run_seconds and cost.role_seconds)

        try:
            wait_until(way, is_back, f"{what} is back after {case.fault}", [*struck, "learner-0"])
        except TimeoutError as error:
            cost.problem = str(error)
            print(cost.problem, flush=True)
            raise
        cost.operator = way.asked_of_operator(case.fault == LOSS)


def runs_of(way: str) -> dict[str, tuple[dict[str, Plan], list[Case]]]:
    """The runs of a way of launching, by name: their hosts, unless they are nodes of Ray, and what is done in them.

    What a collector that goes with its host had begun is known when the run ends: that case is the last one.
    """
    notices: tuple[str, ...] = ("collector-0", "evaluator-0", "replay-1", "replay-0", "learner-0")
    losses: tuple[str, ...] = ("replay-1", "collector-0", "learner-0")
    if way == "ray":
        return {"cluster": ({}, _cases(notices, losses))}
    losses = "evaluator-0", "relay-0", "replay-1", "replay-0", "learner-0", "collector-0"
    proxies = "proxy-learner", "proxy-collectors"
    return {
        "apart": (APART, _cases(("inference-0", "relay-0", *notices), losses)),
        "proxied": (PROXIED, _cases(proxies, proxies)),
    }


def _cases(notices: Iterable[str], losses: Iterable[str]) -> list[Case]:
    return [*(Case(role, NOTICE) for role in notices), *(Case(role, LOSS) for role in losses)]


def rows(costs: Iterable[Cost], ends: Iterable[Ended]) -> list[str]:
    """The results as lines of Markdown."""
    ends = list(ends)
    lines = table(
        "| launched | what | fault | run goes on, s | back at work, s | exit code | windows lost | gradient steps lost "
        "| somebody has to |",
        (
            (
                cost.way, cost.what, cost.fault, f"{cost.run_seconds:.1f}", f"{cost.role_seconds:.1f}",
                "killed" if cost.code is None else cost.code,
                ", ".join(f"{count:,} ({name})" for name, count in cost.lost.items() if count) or "0",
                f"{cost.gradient_steps:,}", cost.operator or "do nothing",
            )
            for cost in costs
        ),
    )  # fmt: skip
    lines.append("")
    for end in ends:
        account = end.summary.account if end.summary else None
        if account is not None:
            lost = ", ".join(f"{count:,} ({name})" for name, count in account.lost.items() if count) or "none"
            lines.append(
                f"- {end.way}, {end.run}: of {account.begun:,} windows {account.stored:,} were stored; lost: {lost}; "
                f"unaccounted for: {account.unaccounted}."
            )
        lines += [f"- {end.way}, {end.run} FAILED: {problem}" for problem in end.problems]
    return lines


def main(arguments: list[str]) -> int:
    """Checks the command line, tries what has not been tried, prints, and writes."""
    refuse_more(arguments)
    if not _FOLDER.value:
        raise UsageError("--folder is missing: where should the runs leave their files?")
    if reason := unavailable():
        raise UsageError(reason)
    folder = Path(_FOLDER.value).resolve()
    results, ends_file = folder / "preemption.jsonl", folder / "ends.jsonl"

    def keep(line: Cost | Ended) -> None:
        json_lines.append(results if isinstance(line, Cost) else ends_file, line)

    for way in _WAYS.value:
        for name, (plans, cases) in runs_of(way).items():
            wanted = [case for case in cases if not _ROLES.value or case.role in _ROLES.value]
            if not wanted or any(
                (end.way, end.run) == (_WORDS[way], name) for end in json_lines.read(ends_file, Ended)
            ):
                continue
            others = [cost for cost in json_lines.read(results, Cost) if (cost.way, cost.run) != (_WORDS[way], name)]
            place = folder / f"{way}-{name}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            json_lines.write(results, others)  # without those of a call that was interrupted
            with ExitStack() as stack:
                Trial(_make(way, place, plans, stack), name, keep).do(wanted)
    costs, ends = json_lines.read(results, Cost), json_lines.read(ends_file, Ended)
    lines = rows(costs, ends)
    print("\n".join(lines))
    if _WRITE.value:
        write_between(DOCS / "reliability.md", "preemption", lines)
    return 1 if any(cost.problem for cost in costs) or any(end.problems for end in ends) else 0


_WORDS = {"hand": "by hand", "systemd": "systemd", "ray": "Ray"}


def _make(way: str, folder: Path, plans: dict[str, Plan], stack: ExitStack) -> "ByHand | ByRay":
    if way == "ray":
        from benchmarks.reliability.ray_nodes import ByRay

        return ByRay(folder, stack)
    if way == "systemd":
        from benchmarks.reliability.systemd_hosts import BySystemd

        return BySystemd(folder, plans, stack)
    return ByHand(folder, plans, stack)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
