"""What users of this field have reported as bugs, as small programs: each line that one prints says `ok`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import ROOT

FOLDER = Path(__file__).resolve().parents[1] / "support" / "field_reports"
PROGRAMS = {
    "arguments": 8, "ends": 2, "masks_of_any_form": 4, "observations_as_given": 7, "other_interfaces": 6,
}  # fmt: skip
"""By name, how many lines each prints."""

pytestmark = pytest.mark.slow


def printed(*arguments: str) -> list[str]:
    path = os.pathsep.join((str(ROOT), str(FOLDER)))
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_program_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_was_reported_does_not_happen(program: str) -> None:
    lines = [line for line in printed(str(FOLDER / f"{program}.py")) if line.startswith(("ok", "FAIL"))]
    assert len(lines) == PROGRAMS[program]
    assert not [line for line in lines if not line.startswith("ok")]


def test_a_thread_trains(tmp_path: Path) -> None:
    assert float(printed(str(FOLDER / "ends.py"), "thread", str(tmp_path / "run"))[-1]) > 0.0
