"""The small measurements read logs of runs: what they look for is still there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_lines_of_logs_that_are_looked_for_are_of_modules_that_there_are() -> None:
    text = "".join(path.read_text() for path in ROOT.glob("benchmarks/**/*.py"))
    named = [name.replace("\\", "") for name in re.findall(r"INFO (pipeline[\w\\.]+):", text)]
    assert named
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
