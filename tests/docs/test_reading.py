"""docs/reading.md: what it names exists, and it is as short as it says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reading.md").read_text()
STEPS = re.findall(r"^\| (\d+) \| `([^`]+)` \| `([^`]+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)
MOST_FILES, MOST_LINES = 15, 2_800
MOST_MODULES, MOST_LOADED_LINES = 93, 13_220

INLINE_RUN = """
import pathlib, sys
import pipeline

sets = ("stop.environment_steps=2000", "stop.target_return=1e9")
pipeline.train(pipeline.load("cartpole", sets), sys.argv[1], launcher="inline")
others = {"s3fs", "aiobotocore", "aiohttp", "pipeline.records.object_store", "pipeline.callbacks.mirroring"}
assert not others & set(sys.modules)
ours = [module for name, module in sys.modules.items() if name.split(".")[0] in ("agents", "pipeline")]
files = [module.__file__ for module in ours if getattr(module, "__file__", None)]
print(len(files), sum(len(pathlib.Path(file).read_text().splitlines()) for file in files))
"""


def names_in(path: Path) -> set[str]:
    """Functions, classes, and methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_path_is_short() -> None:
    files = {path for _, path, _, _ in STEPS}
    assert [int(number) for number, *_ in STEPS] == list(range(1, len(STEPS) + 1))
    assert 10 <= len(files) <= MOST_FILES
    assert sum(len((ROOT / path).read_text().splitlines()) for path in files) <= MOST_LINES


@pytest.mark.parametrize(("path", "name"), [(path, name) for _, path, name, _ in STEPS])
def test_what_is_to_be_opened_is_there(path: str, name: str) -> None:
    assert name in names_in(ROOT / path)


def test_other_functions_that_the_page_names_are_there() -> None:
    everything = set().union(
        *(names_in(path) for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("agents/**/*.py")])
    )
    named = set(re.findall(r"`([A-Z]\w+\.\w+)`", PAGE))
    assert len(named) > 10
    assert named <= everything


def test_an_ordinary_run_passes_through_few_rooms(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INLINE_RUN, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    modules, lines = map(int, done.stdout.splitlines()[-1].split())
    assert modules <= MOST_MODULES
    assert lines <= MOST_LOADED_LINES
