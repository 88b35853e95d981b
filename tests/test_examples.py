"""What is in examples/ runs as a reader runs it: scripts from another folder, notebooks by Jupyter's own client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "train_and_act": "an episode by hand",
    "own_environment": "won: ",
    "compare_settings": "three steps",
    "q_values_of_states": "drawn: ",
    "own_loop": "the last ten",
}
NOTEBOOKS = {"first_run": "array([", "look_into_a_run": "evaluation/mean_return"}
TRACKERS = {path.stem for path in (ROOT / "examples").glob("track_*.py")}
"""They run in environments of their own, and have tests of their own."""


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} - TRACKERS == set(SCRIPTS)
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name: str, tmp_path: Path) -> None:
    arguments = [sys.executable, ROOT / "examples" / f"{name}.py", *([] if name == "own_loop" else ["."])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SCRIPTS[name] in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [str(output) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any(NOTEBOOKS[name] in each for each in shown), shown
