"""Small runs of CartPole, by the command in processes of their own or inline in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import waiting

from pipeline.experiment.config import load
from pipeline.launchers import launch

ROOT = Path(__file__).resolve().parents[2]
SHRUNK = (
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.images=false",
    "evaluation.every_steps=500",
    "stop.environment_steps=0",
    "stop.target_return=1e9",  # three episodes can be lucky
    "stop.gradient_steps=400",
)
ENDLESS = SHRUNK[:-1]
TINY = (
    "collect.lanes=4",
    "learner.batch_size=16",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "evaluation.episodes=2",
)
"""Of runs of some hundred steps, which make what a test reads."""
TAGS = {
    "learner": {
        "learner/loss", "learner/td_error", "learner/q_mean", "learner/q_max", "learner/gradient_norm",
        "learner/learning_rate", "replay/size", "replay/samples_per_insert", "replay/samples_per_insert_wanted",
        "replay/data_age_gradient_steps", "speed/environment_steps_per_second", "speed/gradient_steps_per_second",
        "speed/train_seconds", "system/learner_mib",
    },
    "collectors": {
        "exploration/epsilon", "system/faulty_episodes", "system/weights_age_gradient_steps",
        "system/weights_age_seconds", "system/bytes_sent_per_transition", "episode/return", "episode/length",
        "system/collectors_mib",
    },
    "supervisor": {"system/supervisor_mib"},
    "evaluator": {"evaluation/mean_return", "evaluation/std_return", "system/evaluator_mib"},
}  # fmt: skip
"""That TensorBoard shows of a run in processes, by the role that they are of."""


def command(module: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", module, *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}


def train(run_dir: Path, *overrides: str, config: str = "cartpole", flags: tuple[str, ...] = ()) -> Any:
    sets = [f"--set={line}" for line in overrides]
    arguments = command("pipeline.train", f"--config={config}", f"--run_dir={run_dir}", *sets, *flags)
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=waiting.SECONDS, env=environment(), check=False, cwd=ROOT
    )


def start(run_dir: Path, *overrides: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    sets = [f"--set={line}" for line in overrides]
    arguments = command("pipeline.train", "--config=cartpole", f"--run_dir={run_dir}", *sets, *flags)
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=ROOT
    )


def inline(run_dir: Path, *overrides: str, config: str = "cartpole", resume: bool = False) -> int:
    """Runs in this process; the exit code."""
    return launch(load(config, overrides), run_dir, launcher="inline", resume=resume)


def summary(run_dir: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return result


def processes_of(run_dir: Path) -> list[list[str]]:
    """Command lines of what runs for a run."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(argument == f"--run_dir={run_dir}" for argument in line):
            found.append(line)
    return found


def gradient_steps(run_dir: Path) -> int:
    try:
        return int(json.loads((run_dir / "status.json").read_text())["gradient_steps"])
    except FileNotFoundError:
        return 0


def tags_of(folder: Path) -> set[str]:
    """Of a folder of TensorBoard files, without those in folders within it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return set(accumulator.Tags()["tensors"])


def last_of(folder: Path, tag: str) -> float:
    """The last value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return float(make_ndarray(accumulator.Tensors(tag)[-1].tensor_proto))
