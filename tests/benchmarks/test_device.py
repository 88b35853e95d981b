"""The check script for a device runs on the CPU, and says what it was asked for wrongly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def device(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.device", "--seconds=0.02", "--repeats=1", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_every_form_has_its_row(tmp_path: Path) -> None:
    out = tmp_path / "device.json"
    done = device("--configs=cartpole_dqn", f"--out={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert {(row["loop"], row["precision"], row["batches"]) for row in result["rows"]} == {
        (loop, precision, place)
        for loop in ("compiled", "plain")
        for precision in ("float32", "bfloat16")
        for place in ("resident", "from_host", "prefetched")
    }
    assert all(row["gradient_steps_per_second"] > 0 and row["bytes_of_a_call"] > 0 for row in result["rows"])
    assert result["accelerators"] == []
    assert "12 rows in" in done.stdout


@pytest.mark.slow
def test_a_config_that_has_no_row_and_a_folder_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for flag, told in (
        ("--configs=atari", "--configs: there is no 'atari'"),
        (f"--out={tmp_path}/no/file.json", "there is no folder"),
    ):
        done = device(flag)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
