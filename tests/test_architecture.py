"""The house rules that reading the source can check: which room may import which, and how long a file may be."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).resolve().parent.parent

ORDER = (
    "agents",
    "pipeline.experiment",
    "pipeline.runtime",
    "pipeline.environments.interfaces",
    "pipeline.environments.lanes",
    "pipeline.environments",
    "pipeline.messages",
    "pipeline.security",
    "pipeline.records",
    "pipeline.acting",
    "pipeline.replay",
    "pipeline.replay.shards",
    "pipeline.collector",
    "pipeline.evaluator",
    "pipeline.learner",
    "pipeline.learner.workers",
    "pipeline.monitoring",
    "pipeline.datasets",
    "pipeline.comparison",
    "pipeline.callbacks",
    "pipeline.roles",
    "pipeline.launchers",
    "pipeline.export",
    "pipeline.sweep",
    "pipeline.drill",
    "commands",
)
"""The rooms from the ground up: each may import those above its line, never those below.

`commands` are the files directly in `pipeline/` and the `__main__.py` of folders. `make rooms` writes the table of
docs/design.md from this and from each folder's docstring.
"""

MOST_FOLDERS, MOST_FILES, MOST_LINES = 24, 12, 400
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
FOLDER_COMMANDS = ("drill", "export", "replay", "sweep")
"""Commands whose topic has a folder of the same name: they are its `__main__.py`."""
ENTRY_POINTS = {f"pipeline.{name}{'.__main__' * (name in FOLDER_COMMANDS)}" for name in COMMANDS}
SOURCES = sorted([*ROOT.glob("agents/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
FOLDERS = sorted({path.parent for path in ROOT.glob("pipeline/*/**/*.py")})


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in SOURCES}


def room_of(module: str) -> str:
    """The room of a module; the package's face is a command."""
    if module.startswith("agents"):
        return "agents"
    parent = module.rpartition(".")[0]
    if module in ORDER:  # a folder's __init__.py
        return module
    return parent if parent in ORDER and not module.endswith("__main__") else "commands"


def imports_of(path: Path) -> Iterator[str]:
    """All imports: at the top, in functions, and for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    here = ORDER.index(room_of(module_of(path)))
    ours = {name for name in imports_of(path) if name in MODULES and name != "pipeline"}
    below = {name for name in ours if ORDER.index(room_of(name)) > here}
    assert not below, f"{module_of(path)} in {ORDER[here]} imports what is further down"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_what_a_room_may_not_know(path: Path) -> None:
    module, imports = module_of(path), set(imports_of(path))
    if module.startswith("agents"):
        assert not any(name.startswith(("pipeline", "reverb", "absl")) for name in imports)
    if module not in ENTRY_POINTS | {"pipeline.command"}:
        assert not any(name.startswith("absl.flags") or name == "absl.flags" for name in imports)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_entry_points_are_imported_by_nobody(path: Path) -> None:
    # Importing pipeline.train would put the module in the place of the function of that name.
    assert not set(imports_of(path)) & ENTRY_POINTS


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_are_one_idea_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_rooms_are_few_and_small() -> None:
    assert len(FOLDERS) <= MOST_FOLDERS
    files = Counter(path.parent for path in SOURCES if path.parent in FOLDERS)
    full = {module_of(folder / "__init__.py"): count for folder, count in files.items() if count > MOST_FILES}
    assert not full, (
        f"more than {MOST_FILES} files in a room: move what another room uses alone, or join what is one idea"
    )


def test_the_order_names_every_room() -> None:
    assert {module_of(folder / "__init__.py") for folder in FOLDERS} == {
        name for name in ORDER if name[:9] == "pipeline."
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_room_says_what_it_is_for(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    assert len(text.splitlines()) >= 3


def test_files_directly_in_pipeline_are_commands() -> None:
    names = {path.stem for path in ROOT.glob("pipeline/*.py")} - {"__init__", "__main__", "command"}
    assert names == set(COMMANDS) - set(FOLDER_COMMANDS)


def test_the_page_of_the_design_has_these_rooms() -> None:
    assert rooms.PAGE.read_text() == rooms.page(ORDER), "`make rooms` writes it"


def test_the_light_side_imports_no_tensorflow() -> None:
    light = (
        "roles.collector_role",
        "roles.evaluator_role",
        "replay.shards.permits",
        "launchers.local",
        "monitoring.console",
    )
    modules = ", ".join(("agents", "pipeline", *(f"pipeline.{name}" for name in light)))
    code = f"import sys, {modules}; print([m for m in ('tensorflow', 'reverb', 'tf_agents') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_train_from_python_is_a_function() -> None:
    import pipeline

    assert callable(pipeline.train)
