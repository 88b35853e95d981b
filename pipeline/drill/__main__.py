"""Trains while it kills and disturbs the run's processes, and checks that every loss is accounted for.

It kills, freezes and restarts every role and the supervisor, fills the disk, corrupts a checkpoint, and gives notice to
leave; with replay.shards the replay's servers are killed, too, alone and soon after the learner, and with
collect.inference = "central" the acting server. Then the run has to solve its task, its ledger has to balance to the
unit, its counters must never have gone back beyond a checkpoint, and no process or port may be left.

Example:
  python -m pipeline.drill --config=cartpole --run_dir=runs/drill --kills=20 --seed=1

The run's disk is a small one that only the drill sees; logs, summary and `drill.json` are copied to --run_dir. The
exit code is 0 only if every check passed.
"""

import random
import shutil
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from absl import flags

from agents.struct_types import prepared
from pipeline.command import refuse_more, run_command
from pipeline.drill import faults, small_disk
from pipeline.drill.faults import Drilled, DrillFailure
from pipeline.experiment.config import UsageError, load
from pipeline.experiment.run_directory import RunDirectory, refuse_no_folder, write_json
from pipeline.messages.ports import free_port
from pipeline.records.results import Summary

_CONFIG = flags.DEFINE_string("config", None, "Path of a TOML config, or the name of a shipped one; with a target.")
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the drill leaves its results; new.")
_KILLS = flags.DEFINE_integer("kills", 20, "Faults done to the run.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the order of the faults, and of the run.", lower_bound=0)
_SET = flags.DEFINE_multi_string("set", [], "A line of TOML that overrides the config; may be repeated.")
_DISK = flags.DEFINE_integer("disk_mebibytes", 512, "Size of the run's disk.", lower_bound=32)

_CHECKPOINT_SECONDS = 3.0
_STALL_SECONDS = 4.0
_SILENT_SECONDS = 10.0
_RECOVER_SECONDS = 90.0
_SOLVE_SECONDS = 600.0

FAULTS: dict[str, faults.Fault] = {
    "collector killed": faults.kill("collector"),
    "evaluator killed": faults.kill("evaluator"),
    "learner killed": faults.kill("learner"),
    "supervisor killed, run resumed": faults.kill_supervisor,
    "collector frozen for good": faults.freeze("collector", goes_on=False),
    "evaluator frozen for 2 s": faults.freeze("evaluator", goes_on=True),
    "learner frozen for 2 s": faults.freeze("learner", goes_on=True),
    "learner frozen for good": faults.freeze("learner", goes_on=False),
    "disk full for 7 s": faults.fill_disk(2.0 * _CHECKPOINT_SECONDS + 1.0),
    "checkpoint spoiled, learner killed": faults.corrupt_checkpoint,
    "notice to leave, run resumed": faults.terminate_and_resume,
}
"""The faults that every drill draws from, by name."""
_OF_REPLAYS: dict[str, faults.Fault] = {
    "replay killed": faults.kill("replay"),
    "learner killed, replay soon after": faults.kill_learner_and_replay,
}
"""And where the replay has processes of its own."""
_OF_ACTING_SERVERS: dict[str, faults.Fault] = {"acting server killed": faults.kill("inference")}
"""And where collectors act at a server."""


class FaultResult(msgspec.Struct, frozen=True):
    """One fault, and how long the run took to recover."""

    fault: str
    seconds: float
    """From the fault's end until the run collected and learned again."""
    environment_steps: int
    gradient_steps: int
    """Of the run when the fault was done."""


class Report(msgspec.Struct, frozen=True):
    """`drill.json`."""

    config: str
    seed: int
    done: list[FaultResult]
    problems: list[str]
    """The checks that failed, in words; empty if all passed."""
    summary: Summary | None


class Drill:
    """One drill.

    Args:
      config: as `pipeline.train` takes it.
      overrides: of it.
      seed: of the faults' order and of the run.
      kills: how many faults.
      target: mean return that solves the task.
      folder: where results are left; the small disk is mounted below it.
    """

    def __init__(
        self, config: str, overrides: tuple[str, ...], seed: int, kills: int, target: float, folder: Path
    ) -> None:
        self._config, self._seed, self._kills = config, seed, kills
        self._random = random.Random(seed)
        self._port = free_port()
        common = [
            *overrides,
            f"checkpoint.every_seconds={_CHECKPOINT_SECONDS}",
            f"collect.stall_seconds={_STALL_SECONDS}",
            f"learner.silent_seconds={_SILENT_SECONDS}",
            f"replay.port={self._port}",
        ]
        endless = ["stop.target_return=1e9", "stop.environment_steps=0", "stop.gradient_steps=0", "stop.seconds=0"]
        base = [f"--config={config}", f"--seed={seed}", *(f"--set={line}" for line in common)]
        self._goal = [f"--set=stop.target_return={target}"]
        drilling = [*base, *(f"--set={line}" for line in endless)]
        self._drilled = Drilled(RunDirectory(folder / "disk" / "run"), drilling, [*drilling, "--resume"])
        experiment = load(config, overrides)
        self._faults, self._roles = dict(FAULTS), ["learner", "evaluator"]
        self._roles += [f"collector-{index}" for index in range(experiment.collectors)]
        if shards := experiment.replay.shards:
            self._faults |= _OF_REPLAYS
            self._roles += [f"replay-{index}" for index in range(shards)]
        if experiment.collect.inference == "central":
            self._faults |= _OF_ACTING_SERVERS
            self._roles.append("inference")
        self._done: list[FaultResult] = []
        self._problems: list[str] = []

    def run(self) -> Report:
        """Makes the faults, lets the run solve its task, and checks the result."""
        drilled = self._drilled
        drilled.start()
        if not self._wait_for_progress(_RECOVER_SECONDS):
            self._problems.append("the run did not start to learn")
        else:
            for _ in range(self._kills):
                if not self._do(self._random.choice(sorted(self._faults))):
                    break
        if (code := drilled.end()) != 1 and not self._problems:
            self._problems.append(faults.how_it_left(code))
        summary = self._solve()
        self._check(summary)
        return Report(self._config, self._seed, self._done, self._problems, summary)

    def _do(self, name: str) -> bool:
        drilled = self._drilled
        before, saved = drilled.status(), drilled.saved()
        assert before is not None
        print(f"{before.environment_steps:>10,} environment steps  {name}", flush=True)
        starts = {role: drilled.newest(role)[0] for role in self._roles}
        try:
            victim = self._faults[name](drilled, self._random)
        except DrillFailure as error:
            self._problems.append(str(error))
            return False
        ended = time.monotonic()
        replaced = not victim or self._wait_for_successor(victim, starts[victim])
        if not (replaced and self._wait_for_progress(_RECOVER_SECONDS)):
            assert drilled.supervisor is not None
            ended_with = drilled.supervisor.poll()
            how = f"did not go on within {_RECOVER_SECONDS:.0f} s" if ended_with is None else f"ended with {ended_with}"
            self._problems.append(f"{name}: the run {how}")
            return False
        seconds = time.monotonic() - ended
        self._done.append(FaultResult(name, seconds, before.environment_steps, before.gradient_steps))
        after = drilled.status()
        assert after is not None
        if saved is not None and "spoiled" not in name:
            for counter in ("environment_steps", "gradient_steps", "episodes"):
                if getattr(after, counter) < getattr(saved, counter):
                    self._problems.append(
                        f"{name}: {counter} went back to {getattr(after, counter)}, and the checkpoint before it had "
                        f"{getattr(saved, counter)}"
                    )
        time.sleep(self._random.uniform(0.0, _CHECKPOINT_SECONDS))
        return True

    def _wait_for_successor(self, role: str, starts: int) -> bool:
        """Waits until a role's new process works; false if it does not in time."""

        def works() -> bool:
            started, recorder = self._drilled.newest(role)
            if recorder is None or started <= starts:
                return False
            return (recorder.progress or recorder.counts.environment_steps or recorder.beats) > 0

        return self._drilled.goes_on_until(works, _RECOVER_SECONDS)

    def _wait_for_progress(self, seconds: float) -> bool:
        """Waits until the run collects and learns, by its status; false if it does not in time."""
        return self._drilled.goes_on_until(faults.Progress(self._drilled.status).is_seen, seconds)

    def _solve(self) -> Summary | None:
        drilled = self._drilled
        drilled.go_on_with(self._goal)
        assert drilled.supervisor is not None
        if not drilled.wait_until(lambda: drilled.supervisor.poll() is not None, _SOLVE_SECONDS):  # type: ignore[union-attr]
            drilled.end()
        try:
            return msgspec.json.decode(drilled.run.summary.read_bytes(), type=prepared(Summary))
        except (OSError, msgspec.MsgspecError):
            return None

    def _check(self, summary: Summary | None) -> None:
        drilled, problems = self._drilled, self._problems
        if summary is None:
            problems.append("the run left no summary")
            return
        if not summary.solved:
            problems.append(f"the run was not solved: mean return {summary.mean_return}")
        if summary.account is None or summary.account.unaccounted:
            problems.append(f"the ledger does not balance: {summary.account}")
        elif not summary.account.prefetched >= 0:
            problems.append(f"more was learned from than drawn: {summary.account}")
        if left := drilled.processes():
            problems.append(f"processes are left: {left}")
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("::ffff:127.0.0.1", self._port)) == 0:
                problems.append(f"something listens on port {self._port}")


def _print(report: Report) -> None:
    by_name: dict[str, list[float]] = {}
    for done in report.done:
        by_name.setdefault(done.fault, []).append(done.seconds)
    for name, seconds in sorted(by_name.items()):
        print(f"{name:<36} {len(seconds):>3} times, back after {statistics.median(seconds):5.1f} s (median)")
    for problem in report.problems:
        print(f"FAILED: {problem}")
    if not report.problems and report.summary is not None and report.summary.account is not None:
        account = report.summary.account
        lost = ", ".join(f"{count:,} {name}" for name, count in account.lost.items()) or "none"
        print(
            f"All held: solved after {report.summary.environment_steps:,} environment steps and {len(report.done)} "
            f"faults; {account.begun:,} windows = {account.stored:,} stored + lost ({lost})"
        )


def main(arguments: list[str]) -> int:
    """Checks the command line, makes the drill and prints its report."""
    refuse_more(arguments)
    if not _RUN_DIR.value or not _CONFIG.value:
        raise UsageError("--config and --run_dir are needed: what should be drilled, and where are the results left?")
    experiment = load(_CONFIG.value, tuple(_SET.value), _SEED.value)
    if experiment.stop.target_return is None:
        raise UsageError(f"{_CONFIG.value} has no stop.target_return: a drill has to see that the run solves its task")
    folder = Path(_RUN_DIR.value).resolve()
    refuse_no_folder(folder, "--run_dir")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: choose another --run_dir")
    try:
        (folder / "disk").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--run_dir={folder} cannot be written: {error.strerror}") from None
    small_disk.mount(folder / "disk", _DISK.value)
    target = experiment.stop.target_return
    drill = Drill(_CONFIG.value, tuple(_SET.value), _SEED.value, _KILLS.value, target, folder)
    report = drill.run()
    _leave(folder, report)
    _print(report)
    return 1 if report.problems else 0


def _leave(folder: Path, report: Report) -> None:
    """Copies what is worth keeping from the small disk."""
    run: Any = folder / "disk" / "run"
    for name in ("logs", "tensorboard"):
        shutil.copytree(run / name, folder / name, dirs_exist_ok=True)
    for name in ("config.toml", "summary.json"):
        if (run / name).is_file():
            shutil.copy2(run / name, folder / name)
    shutil.copy2(folder / "disk" / "output.log", folder / "output.log")
    write_json(folder / "drill.json", report)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
