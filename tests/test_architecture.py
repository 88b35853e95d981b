"""The house rules that reading the source can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "train",
    "evaluate",
    "play",
    "status",
    "doctor",
    "reference",
    "role",
    "drill",
    "certificates",
    "proxy",
    "plot",
    "sweep",
    "export",
    "serve",
    "replay",
)
ENTRY_POINTS = {f"pipeline.{name}" for name in COMMANDS}
SOURCES = sorted([*ROOT.glob("agents/**/*.py"), *ROOT.glob("pipeline/**/*.py")])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    module, imports = module_of(path), set(imports_of(path))
    if module.startswith("agents"):
        assert not any(name.startswith(("pipeline", "reverb", "absl")) for name in imports)
    if not module.startswith("pipeline.launchers") and module not in {"pipeline.experiment", "pipeline.train"}:
        assert not any(name.startswith("pipeline.launchers") for name in imports)
    if module not in ENTRY_POINTS | {"pipeline.command"}:
        assert not any(name.startswith("absl.flags") or name == "absl.flags" for name in imports)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_entry_points_are_imported_by_nobody(path: Path) -> None:
    # Importing pipeline.train would put the module in the place of the function of that name.
    assert not set(imports_of(path)) & ENTRY_POINTS


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_are_one_idea_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_light_side_imports_no_tensorflow() -> None:
    modules = "pipeline, pipeline.collecting, pipeline.permits, pipeline.launchers.local, pipeline.console, agents"
    code = f"import sys, {modules}; print([m for m in ('tensorflow', 'reverb', 'tf_agents') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_train_from_python_is_a_function() -> None:
    import pipeline

    assert callable(pipeline.train)
