"""What the pages name exists: links, paths, modules; and README.md's picture and figures."""

import ast
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agents import BUILDERS
from pipeline.environments import SUITES
from pipeline.experiment import config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted(ROOT.glob("docs/**/*.md"))
FOLDERS = ("agents", "benchmarks", "configs", "docs", "pipeline", "tests")
WITH_PATHS = (".md", ".py", ".toml", ".yaml", ".sbatch", ".service", "Dockerfile", "Makefile")
"""Ends of the names of files in which a path or a module of ours is to exist."""
NOT_OURS = {
    "agents/dqn/examples/v2/train_eval.py",  # of TF-Agents
    "docs/tutorials/1_dqn_tutorial.ipynb",
    "agents.Dqn",  # the beginning of a name, a variable, a placeholder, and what a tutorial adds
    "agents.values",
    "pipeline.NAME",
    "agents.expected_sarsa",
    "Collector.collect",  # Tianshou's
}
"""What reads like a path, a module or a member of a class of this repository and is none."""


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as links say them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.relative_to(ROOT)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.relative_to(ROOT)} links to {link}"


def missing_paths(text: str) -> set[str]:
    """Paths in backticks, from the root of the repository, at which there is nothing."""
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text))
    return {path for path in named - NOT_OURS if not (ROOT / path).exists()}


def missing_names(text: str) -> set[str]:
    """Dotted names that begin with a package of ours and lead neither to a module nor to a name in one."""
    named = set(re.findall(r"(?<![\w./-])((?:agents|benchmarks|pipeline)(?:\.[A-Za-z_]\w*)+)", text))
    return {name for name in named - NOT_OURS if not name.endswith(".md") and not exists(name)}


def exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        if length == len(parts) and base.is_dir():
            return True
        for source in (base.with_suffix(".py"), base / "__init__.py"):
            if source.is_file():
                return length == len(parts) or bool(re.search(rf"\b{parts[length]}\b", source.read_text()))
    return False


def test_a_name_that_leads_nowhere_is_found() -> None:
    assert missing_paths("`pipeline/replay/writer.py` and `pipeline/writer.py`") == {"pipeline/writer.py"}
    text = (
        "pipeline.writer, pipeline.replay.writer, pipeline.replay.writer.FrameWriter and pipeline.replay.writer.Nobody"
    )
    assert missing_names(text) == {"pipeline.writer", "pipeline.replay.writer.Nobody"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    assert missing_paths(page.read_text()) == set()


def test_modules_that_any_file_names_exist() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [path for path in map(ROOT.joinpath, listed) if path.name.endswith(WITH_PATHS) and path != Path(__file__)]
    assert len(files) > 300
    found = {str(path.relative_to(ROOT)): missing_names(path.read_text()) for path in files if path.is_file()}
    assert {name: missing for name, missing in found.items() if missing} == {}


Members = dict[str, tuple[set[str], set[str]]]
"""Of each class of ours by name: what it derives from, and its members."""


def members_of(sources: Iterable[Path]) -> Members:
    found: Members = {}
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            bases, members = found.setdefault(node.name, (set(), set()))
            bases |= {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            for part in ast.walk(node):
                match part:
                    case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                        members.add(name)
                    case ast.Assign(targets=[ast.Name(id=name)]) | ast.Attribute(attr=name, ctx=ast.Store()):
                        members.add(name)
    return found


def missing_members(text: str, classes: Members) -> set[str]:
    """`Class.member` in backticks of classes of ours that have no such member."""

    def has(name: str, member: str) -> bool:
        bases, members = classes[name]
        foreign = bases - classes.keys() - {"Protocol", "NamedTuple", "Struct", "Exception"}
        return member in members or bool(foreign) or any(has(base, member) for base in bases & classes.keys() - {name})

    named = re.findall(r"`(?:[\w.]+\.)?([A-Z]\w+)\.([a-z_]\w*)(?:\(\))?`", text)
    return {f"{name}.{member}" for name, member in named if name in classes and not has(name, member)} - NOT_OURS


def test_members_of_classes_that_pages_and_docstrings_name_exist() -> None:
    sources = [*ROOT.glob("agents/**/*.py"), *ROOT.glob("pipeline/**/*.py")]
    classes = members_of(sources)
    assert missing_members("`Replay.samples`, `Variables.version`, `collector.Collector.fly()`", classes) == {
        "Collector.fly"
    }
    found = {path.name: missing_members(path.read_text(), classes) for path in [*PAGES, *sources]}
    assert {name: missing for name, missing in found.items() if missing} == {}


# README.md


def test_the_picture_has_the_words_of_the_glossary_and_the_folders_there_are() -> None:
    words = set(re.findall(r"^\| ([\w -]+?) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE))
    (picture,) = re.findall(r"\]\((\S+\.svg)\)", README)
    labels = {"role": set[str](), "flow": set[str](), "folder": set[str]()}
    for text in ElementTree.parse(ROOT / picture).iter("{http://www.w3.org/2000/svg}text"):
        labels.get(text.get("class", ""), set()).add(text.text or "")
    assert {"collector", "replay", "learner", "evaluator"} < labels["role"]
    assert {"frames", "items", "publications", "reports"} == labels["flow"]
    assert labels["role"] | {name.removesuffix("s") for name in labels["flow"]} <= words
    assert {folder for folder in labels["folder"] if not (ROOT / folder / "__init__.py").is_file()} == set()
    for role in labels["role"] - {"run directory"}:
        assert f"pipeline/{role}" in labels["folder"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_kind_of_agent_has_a_row_in_its_page() -> None:
    page = (ROOT / "docs" / "agents.md").read_text()
    missing = [kind for kind in BUILDERS if f"\n| `{kind}` | " not in page]
    assert not missing, f"give {missing} a row in the table of docs/agents.md"


def test_every_suite_of_environments_has_a_row_in_its_page() -> None:
    rows = [line for line in (ROOT / "docs" / "environments.md").read_text().splitlines() if line.startswith("| ")]
    names = {suite: (*suite.starts, *([f"`{suite.extra}`"] if suite.extra else [])) for suite in SUITES}
    missing = [suite.module for suite, words in names.items() if not any(word in row for row in rows for word in words)]
    assert not missing, f"give {missing} a row in the table of docs/environments.md"


def test_figures_of_the_readme_are_those_of_the_pages() -> None:
    section = README.split("\n## What it reaches\n", 1)[1].split("\n## ", 1)[0]
    page = (ROOT / "docs" / "results.md").read_text().splitlines()
    (head,) = (cells(line) for line in page if line.startswith("| task | target "))
    results = [cells(line) for line in page if line[:3] == "| `"]
    solved = (ROOT / "docs" / "benchmarks.md").read_text().split("### Time to solve: seconds of training\n")[1]
    (ours,) = (cells(line) for line in solved.split("\n###")[0].splitlines() if line.startswith("| reverb-dqn"))
    rows = [cells(line) for line in section.splitlines() if line.startswith("|")][2:]
    assert rows[0][1] == "`cartpole` (`dqn`)"
    for _, name, reached, steps, seconds in rows:
        task = name.partition(" ")[0].replace("cartpole_memory", "memory")
        (row,) = (row for row in results if row[0] == task)
        found = [row[head.index(title)] for title in ("reached", "median steps", "median s")]
        assert found == [reached, steps, seconds]
    assert f"takes {ours[1]} s of training on idle cores" in section


def test_the_config_of_a_readers_own_is_taken() -> None:
    (own,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert config.parse(own).environment.import_path == "catch:Catch"
