"""A short form of the Atari benchmark: it measures, and writes what it measured into its page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = "above\n\n<!-- atari: begin -->\nold\n<!-- atari: end -->\n\nbelow\n"


def run(*flags: str) -> str:
    """What the benchmark prints last."""
    command = [sys.executable, "-m", "benchmarks.parts.atari", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_memory_of_a_transition_is_measured() -> None:
    of_transition, of_frame = json.loads(run("--lanes=4", "--transitions=3000", "--store=random"))
    assert of_frame == 84 * 84
    # Of so few frames the process's memory tells no more than that not every one of a stack of four is stored.
    assert 0.2 < of_transition / of_frame < 3.5


@pytest.mark.slow
def test_memory_and_speed_are_measured_and_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    flags = ["--collectors=1", "--lanes=4", "--transitions=4000", "--seconds=0.3", "--repeats=1", f"--page={page}"]
    found = json.loads(run(*flags))
    # Of so few frames the process's memory tells no more than that not every one of a stack of four is stored.
    assert 0.2 < found["random"]["frames"] < 3.5
    assert found["played"]["bytes"] < 3.5 * 84 * 84
    assert 0.0 < found["share"] < 2.0
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert f"{found['random']['bytes']:,} bytes" in text
