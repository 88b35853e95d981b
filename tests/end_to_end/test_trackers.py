"""Runs sent to MLflow and to Weights & Biases (offline), from an environment that shares nothing with ours but the run.

`make trackers` creates it; without it these tests are skipped.
"""

import json
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".trackers" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("trained"),
    pytest.mark.skipif(not PYTHON.exists(), reason="no .trackers: `make trackers` creates it"),
]


def track(example: str, folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs an example in the trackers' environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [str(PYTHON), str(ROOT / "examples" / example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def send(example: str, folder: Path, *arguments: object) -> str:
    """What an example printed."""
    done = track(example, folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mlflow_has_each_point_once(trained: Path, tmp_path: Path) -> None:
    arguments = (trained, "--store=sqlite:///mlflow.db")
    assert "\nrun " in send("track_mlflow.py", tmp_path, *arguments)
    curves = pipeline.Run(trained).curves()
    for _ in range(2):
        with sqlite3.connect(tmp_path / "mlflow.db") as store:
            for tag, curve in curves.items():
                sent = store.execute("SELECT step, value FROM metrics WHERE key = ? ORDER BY step", [tag]).fetchall()
                assert [step for step, _ in sent] == curve.x.tolist(), tag
                assert [value for _, value in sent] == pytest.approx(curve.y.tolist(), nan_ok=True), tag
            assert store.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
            ((steps,),) = store.execute("SELECT value FROM params WHERE key = 'stop.gradient_steps'").fetchall()
            assert steps == "400"
        assert "0 points sent" in send("track_mlflow.py", tmp_path, *arguments)


def test_wandb_has_each_step_once(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert "steps sent" in send("track_wandb.py", tmp_path, run, f"--folder={tmp_path}")
    (kept,) = tmp_path.glob("sent-*.json")
    last = json.loads(kept.read_text())
    assert last == {tag: curve.x[-1] for tag, curve in pipeline.Run(run).curves().items()}
    assert "0 steps sent" in send("track_wandb.py", tmp_path, run, f"--folder={tmp_path}")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("example", ["track_mlflow.py", "track_wandb.py"])
def test_what_is_no_run_is_refused_in_one_line_and_nothing_is_written(example: str, tmp_path: Path) -> None:
    done = track(example, tmp_path, tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"error: {tmp_path / 'none'} holds no run: there is no config.toml")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
