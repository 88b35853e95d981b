"""A whole run on a disk that fills up: it goes on, says so, and saves everything once there is room."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from pipeline.records import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
ENDLESS = (
    "learner.steps_per_call=8",
    "learner.loop='plain'",
    "replay.min_size=128",
    "replay.samples_per_insert=8",
    "evaluation.episodes=3",
    "evaluation.every_steps=2000",
    "stop.environment_steps=0",
    "stop.target_return=1e9",
    "checkpoint.every_seconds=1.0",
)


def start(run_dir: Path) -> subprocess.Popen[str]:
    sets = [f"--set={line}" for line in ENDLESS]
    command = [sys.executable, "-m", "pipeline.train", "--config=cartpole", f"--run_dir={run_dir}", *sets]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    )


def runs(run_dir: Path) -> bool:
    return any(
        f"--run_dir={run_dir}" in (process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    wait_until(lambda: not runs(path / "run"), "all processes of the run have ended")
    subprocess.run(["umount", "-l", str(path)], check=True)


def use_up(path: Path) -> None:
    """Writes until the disk takes no more, what has become free since the last time included."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def status(run_dir: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run_dir / "status.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def attempts(run_dir: Path) -> tuple[int, int]:
    """Changes with each attempt to write a status and with each to write a checkpoint: new names come and go."""
    return run_dir.stat().st_mtime_ns, (run_dir / "checkpoints").stat().st_mtime_ns


def is_tried_again(run_dir: Path, filler: Path, tried: tuple[int, int]) -> bool:
    """Whether both have been tried since; what has become free is taken meanwhile."""
    use_up(filler)
    return all(now != then for now, then in zip(attempts(run_dir), tried, strict=True))


@pytest.mark.slow
def test_a_run_outlives_a_full_disk_and_saves_once_there_is_room(disk: Path) -> None:
    run_dir, filler = disk / "run", disk / "filler"
    process = start(run_dir)
    wait_until(lambda: checkpoint.newest(run_dir / "checkpoints"), "there is a checkpoint")
    use_up(filler)
    before = status(run_dir)["gradient_steps"]
    for _ in range(3):  # what was tried first may have been begun while there was room
        tried = attempts(run_dir)
        wait_until(lambda tried=tried: is_tried_again(run_dir, filler, tried), "what is due has been tried again")  # type: ignore[misc]
    assert process.poll() is None
    assert checkpoint.newest(run_dir / "checkpoints") is not None
    filler.unlink()
    wait_until(lambda: status(run_dir).get("gradient_steps", 0) > before + 500, "the run is seen to go on")
    wait_until(lambda: not status(run_dir)["warnings"], "everything is written again")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 1
    found = json.loads((run_dir / "summary.json").read_text())
    assert found["stop_reason"] == "interrupted"
    assert found["failed_checkpoints"] >= 1
    last = checkpoint.newest(run_dir / "checkpoints")
    assert last is not None
    assert last.counters.gradient_steps == found["gradient_steps"]


@pytest.mark.slow
def test_a_summary_that_cannot_be_written_is_an_error_that_says_so(disk: Path) -> None:
    run_dir = disk / "run"
    process = start(run_dir)
    wait_until(lambda: checkpoint.newest(run_dir / "checkpoints"), "there is a checkpoint")
    use_up(disk / "filler")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "summary.json could not be written" in output
    assert not (run_dir / "summary.json").exists()
    assert checkpoint.newest(run_dir / "checkpoints") is not None
