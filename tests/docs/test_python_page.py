"""docs/python.md: its examples run, in order and in one folder, as its first paragraph says; its tables are true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.callbacks.callback import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path) -> None:
    (module,) = (block for block in BLOCKS if block.startswith("import gymnasium\nimport numpy as np\n\n\nclass"))
    assert "Save this as `lever.py`" in PAGE.replace("\n", " ")
    (tmp_path / "lever.py").write_text(module)
    (tmp_path / "page.py").write_text("\n\n".join(block for block in BLOCKS if block != module))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "page.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the run is in first" in done.stdout
    assert "ended: " in done.stdout


def test_the_page_names_what_there_is() -> None:
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert re.findall(r"^\| `(on_\w+)` \|", PAGE, re.MULTILINE) == list(METHODS)
    named = set(re.findall(r"pipeline\.([A-Za-z_]+)", PAGE))
    assert named <= set(pipeline.__all__), named - set(pipeline.__all__)
