"""Tutorials, followed to the letter: their files are saved, their commands run, and what they promise is looked for."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (TUTORIALS / name).read_text(), re.DOTALL)


def follow(commands: str, folder: Path) -> str:
    """Runs shell lines in a folder, with this Python as `python`; returns what they printed."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    if not python.exists():
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    # The tutorial's own PYTHONPATH, and behind it this checkout in the place of an installation.
    lines = f"set -e\n{commands}".replace("PYTHONPATH=$PWD", f"PYTHONPATH=$PWD:{ROOT}")
    result = subprocess.run(
        ["bash", "-c", lines],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_an_environment_of_ones_own(tmp_path: Path) -> None:
    name = "custom_environment.md"
    (environment,), (experiment,), (commands,) = (blocks(name, language) for language in ("python", "toml", "sh"))
    assert len(environment.splitlines()) <= 40
    (tmp_path / "kiosk.py").write_text(environment)
    (tmp_path / "kiosk.toml").write_text(experiment)
    printed = follow(commands, tmp_path)
    result = json.loads(printed.splitlines()[-1])
    assert result["episodes"] == 1000
    assert result["mean_return"] > 33.0  # of 34.5; always ordering the same earns 24.9 at most
