"""A run that was trained, for all tests that only look at one: mark them with `xdist_group("trained")`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = (
    "agent.learning_rate=0.002",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.every_steps=500",
    "stop.environment_steps=0",
    "stop.target_return=1e9",  # three episodes can be lucky
    "stop.gradient_steps=400",
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of CartPole by the command, in processes of its own; it is alone in its parent."""
    path = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "pipeline.train", "--config=cartpole", f"--run_dir={path}"]
    result = subprocess.run(
        [*command, *(f"--set={line}" for line in LINES)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "stopped by: gradient_steps" in result.stdout
    assert "tensorboard --logdir" in result.stdout
    return path
