"""benchmarks.learning.reach: a short form of it, end to end, and the page that it writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import json_lines
from benchmarks.learning.reach import report
from benchmarks.learning.reach.tasks import TASKS, Result
from pipeline.experiment.config import load, shipped

ROOT = Path(__file__).resolve().parents[2]
OTHERS = {
    "atari",  # for a machine with a GPU
    "btr",  # likewise
    "highway_image",
    "highway_shielded",  # benchmarks.learning.driving has it beside the unshielded one
    "intersection",
    "merge",
    "minatar_btr",
    "minatar_seaquest",
    "minatar_spaceinvaders",
    "trading",  # benchmarks.learning.trading: a return there says little without its baselines
    "trading_forex",
}
"""Configs without a target."""
SHORT = (
    "stop.environment_steps=2_000",
    "evaluation.every_steps=500",
    "evaluation.episodes=2",
    "learner.steps_per_call=20",
)


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.learning.reach",
        f"--results={folder / 'reach.jsonl'}",
        f"--docs={folder}",
    ]
    return subprocess.run([*command, *flags], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.timeout(1_300)
def test_what_is_missing_is_run_and_kept_and_the_page_written_from_all(tmp_path: Path) -> None:
    path, kept = tmp_path / "reach.jsonl", Result("cartpole", 0, 499.0, 49_000, 1.0, [(1_000, 20.0), (2_000, 499.0)])
    json_lines.append(path, kept)
    before = path.read_text()
    done = run(tmp_path, "--tasks=cartpole", "--seeds=0:2", *[f"--set={line}" for line in SHORT])
    assert done.returncode == 0, done.stderr
    assert path.read_text().startswith(before), "what the file has is not run again"
    _, result = report.read(path)
    assert (result.task, result.seed) == ("cartpole", 1)
    assert result.environment_steps >= 2_000
    assert result.curve
    page = (tmp_path / "results.md").read_text()
    assert result.best_return is not None
    best = f"| -, {result.best_return:.4g} |"
    assert f"| `cartpole` | 500 | 50,000 | 0 of 2 | 499, {result.mean_return:.4g} {best}" in page
    assert (tmp_path / "images" / "reach.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flag", "words"), [("--tasks=cartpol", "cartpol unknown; there are cartpole"), ("--seeds=3", "such as 0:5")]
)
def test_a_users_mistake_is_one_line(flag: str, words: str, tmp_path: Path) -> None:
    done = run(tmp_path, flag)
    assert done.returncode == 2
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_beyond_its_budget_has_not_reached_its_target() -> None:
    good = Result("cartpole", 0, 500.0, 49_000, 1.0, [(1_000, 20.0)])
    late = Result("cartpole", 1, 500.0, 51_000, 1.0, [])
    poor = Result("cartpole", 2, 499.9, 49_000, 1.0, [])
    (line,) = report.table([good, late, poor])[2:]
    assert "| 1 of 3 | 500, 500, 499.9 |  |" in line


def test_the_best_policy_stands_beside_the_last_where_it_was_measured() -> None:
    fallen, older = Result("acrobot", 0, -120.0, 9, 1.0, [], -80.25), Result("acrobot", 1, -80.0, 9, 1.0, [])
    (line,) = report.table([fallen, older])[2:]
    assert "| 1 of 2 | -120, -80 | -80.25, - |" in line, "what counts is the last one"


def test_what_was_written_around_the_table_stays(tmp_path: Path) -> None:
    result = Result("acrobot", 0, -80.0, 90_000, 2.0, [(1_000, -90.0)])
    report.write([result], tmp_path)
    page = tmp_path / "results.md"
    page.write_text(page.read_text() + "\nWhich one to choose.\n")
    report.write([result, Result("acrobot", 1, -90.0, 90_000, 2.0, [])], tmp_path)
    assert "1 of 2" in page.read_text()
    assert page.read_text().endswith("\nWhich one to choose.\n")


def test_every_shipped_config_is_a_task() -> None:
    tried = {task.config for task in TASKS.values()}
    assert tried | OTHERS == set(shipped())
    assert not tried & OTHERS
    assert all(load(task.config, task.lines) for task in TASKS.values() if not task.dataset)
