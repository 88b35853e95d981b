"""The small measurements read logs of runs: what they look for is still there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_lines_of_logs_that_are_looked_for_are_of_modules_that_there_are() -> None:
    text = "".join(path.read_text() for path in ROOT.glob("benchmarks/**/*.py"))
    named = [name.replace("\\", "") for name in re.findall(r"INFO (pipeline[\w\\.]+):", text)]
    assert named
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        (("--transports=640", "--repeats=1"), 5),
        (("--config=cartpole", "--lanes=4", "--lane_groups", "--seconds=0.05", "--repeats=1"), 3),
        (("--config=cartpole", "--lanes=4", "--collectors=1", "--seconds=0.2", "--repeats=1"), 3),
    ],
)
def test_acting_servers_are_measured(flags: tuple[str, ...], rows: int) -> None:
    line = [sys.executable, "-m", "benchmarks.parts.inference", *flags, "--set=learner.batch_size=64"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (value for name, value in json.loads(done.stdout.splitlines()[-1]).items() if name != "machine")
    assert len(found) == rows
