"""What local steps do to learning: whole runs of one learner and of two, until they are solved or a budget is used.

Every role is a process of this machine, started as on several hosts. Environment steps are compared, not seconds.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.processes import Failed, Process
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records.results import Summary

SEEDS = (0, 1, 2, 3, 4)
STEPS = {"cartpole": 50_000}
"""Environment steps of a run that is not solved, by the name of its config."""
_SECONDS = 3_600.0


class Form(NamedTuple):
    """Who learns."""

    learners: int
    local_steps: int

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.learners} learners, {self.local_steps} local steps" if self.learners > 1 else "1 learner"


FORMS = (Form(1, 1), Form(2, 1), Form(2, 4), Form(2, 10))


def train(config: str, form: Form, seed: int, folder: Path) -> Mapping[str, float]:
    """A run to its end: a replay, a collector, an evaluator and the learners.

    Args:
      config: name of a shipped one.
      form: who learns.
      seed: of the run.
      folder: for its files; new.

    Returns:
      What its summary says.

    Raises:
      Failed: a process did not do what it was to do.
    """
    lines = f"stop.environment_steps={STEPS[config]}", "collect.collectors=1", f"learner.local_steps={form.local_steps}"
    flags = [f"--config={config}", f"--seed={seed}", f"--replay=127.0.0.1:{free_port()}"]
    flags += [f"--set={line}" for line in lines]
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(form.learners)]
    run = RunDirectory(folder / "learner")
    with ExitStack() as stack:

        def start(role: str, index: int = 0, *more: str, **environment: str) -> Process:
            told = [f"--role={role}", f"--index={index}", *flags, *more]
            process = Process(f"{role}-{index}", "pipeline.role", told, folder, environment=environment)
            stack.callback(process.end)
            return process

        start("replay", 0, f"--run_dir={folder / 'replay'}")
        learners = []
        for index in range(form.learners):
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            own = [] if index else [f"--run_dir={run.path}"]
            learners.append(start("learner", index, *own, TF_CONFIG=json.dumps(cluster)))
        start("collector")
        start("evaluator", 0, f"--run_dir={folder / 'evaluator'}")
        if learners[0].wait(_SECONDS) != 0:
            raise learners[0].failed("did not end well")
    summary = msgspec.json.decode(run.summary.read_bytes(), type=Summary)
    if summary.stop_reason not in {"target_return", "environment_steps"}:
        raise Failed(f"the run ended as {summary.reason}")
    return {
        "solved": float(summary.solved),
        "environment_steps": summary.environment_steps,
        "gradient_steps": summary.gradient_steps,
        "best_return": summary.best_mean_return if summary.best_mean_return is not None else float("nan"),
        "train_seconds": summary.train_seconds,
    }
