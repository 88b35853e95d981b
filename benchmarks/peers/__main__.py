"""Ours and its peers at the same works, in turn, each in a virtual environment of its own; writes docs/benchmarks.md.

Example:
  python -m benchmarks.peers --work=fixed,learner --peers=sbx,stable_baselines3 --repeats=5

Runs that the file of results has are not run again, so that a broken benchmark goes on where it was; those without a
result are.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.measure import machine, now
from benchmarks.pages import ROOT
from benchmarks.peers import plan, report, results
from benchmarks.peers.cost import Cost
from benchmarks.peers.virtual_environments import Unavailable, python_of, warm
from pipeline.command import run_command
from pipeline.experiment.config import UsageError

KNOWN_PEERS = (*plan.PEERS, plan.CEILINGS, plan.JITTED)

_WORK = flags.DEFINE_list("work", list(plan.WORKS), "Works to run.")
_PEERS = flags.DEFINE_list("peers", list(KNOWN_PEERS), "Peers to run beside ours.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each; a run's seed is its number.", lower_bound=0)
_RESULTS = flags.DEFINE_string("results", "benchmarks/peers/results.jsonl", "File of results, read and added to.")
_ENVIRONMENTS = flags.DEFINE_string("environments", ".peers", "Folder of the peers' virtual environments.")
_DOCS = flags.DEFINE_string("docs", "docs", "Folder of benchmarks.md and images/; empty writes neither.")


def command_of(peer: str, python: Path | str, work: plan.Work, seed: int) -> list[str]:
    """The command line of one run."""
    module = "benchmarks.peers.ours" if peer == plan.OURS else f"benchmarks.peers.programs.{peer}"
    arguments = {"work": work.of, "seed": seed, "started": time.time(), **work.arguments}
    return [str(python), "-m", module, *(f"--{name}={value}" for name, value in arguments.items())]


def run(peer: str, python: Path | str, work: plan.Work, seed: int) -> dict[str, Any]:
    """Runs one program to its end and returns what it printed, or why there is nothing."""

    if work.warm:
        warm(Path(python))

    def on_few_cores() -> None:
        if work.cores:
            os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: work.cores]))

    process = subprocess.Popen(
        command_of(peer, python, work, seed),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=on_few_cores,
        start_new_session=True,
    )
    cost = Cost(process.pid)
    try:
        output, errors = process.communicate(timeout=work.timeout)
    except subprocess.TimeoutExpired:
        return {"missing": f"no result within {work.timeout:.0f} s"}
    finally:
        taken = cost.read()
        _end_group(process.pid)
    try:
        printed: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (errors.strip().splitlines() or ["nothing"])[-1]
        return {"missing": f"exit code {process.returncode}: {said[:300]}"}
    return {**printed, "cost": taken}


def _end_group(group: int) -> None:
    """Ends what a program left behind."""
    try:
        os.killpg(group, 9)
    except ProcessLookupError:
        return


def main(_: list[str]) -> int:
    """Runs what is missing and writes the report."""
    for name, given, known in (("work", _WORK.value, plan.WORKS), ("peers", _PEERS.value, KNOWN_PEERS)):
        if unknown := sorted(set(given) - set(known)):
            raise UsageError(f"--{name}: {', '.join(unknown)} unknown; there are {', '.join(known)}")
    path = ROOT / _RESULTS.value
    pythons, done = _prepare(path), results.done(results.read(path))
    for name in _WORK.value:
        work = plan.WORKS[name]
        peers = [plan.OURS, *(peer for peer in work.peers if peer in pythons)]
        for repeat in range(_REPEATS.value):
            for peer in peers:
                if (name, peer, repeat) not in done:
                    _keep(path, name, peer, repeat, run(peer, pythons[peer], work, repeat))
    if _DOCS.value:
        report.write(results.read(path), ROOT / _DOCS.value)
    return 0


def _prepare(path: Path) -> dict[str, Path | str]:
    """The Pythons of the peers asked for that are to be had; the reason of the others goes among the results."""
    pythons: dict[str, Path | str] = {plan.OURS: sys.executable}
    for peer in _PEERS.value if _REPEATS.value else ():
        print(f"environment of {peer}", flush=True)
        try:
            pythons[peer] = python_of(peer, ROOT / _ENVIRONMENTS.value)
        except Unavailable as reason:
            _keep(path, "environment", peer, 0, {"missing": f"cannot be installed: {reason}"})
    return pythons


def _keep(path: Path, work: str, peer: str, repeat: int, result: dict[str, Any]) -> None:
    when = now()
    results.append(path, results.Run(work, peer, repeat, result, when, machine()))
    shown = {name: value for name, value in result.items() if name != "versions"}
    print(f"{when} {work} {repeat} {peer}: {json.dumps(shown)[:300]}", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
