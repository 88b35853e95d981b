"""Tutorials, followed to the letter: their files are saved, their commands run, and what they promise is looked for."""

import ast
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import command_lines, parsed
from tiers import tiered

import pipeline
from pipeline.experiment.config import shipped

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
SAVED = re.compile(r"[Ss]ave\s+this\s+as\s+`([\w./]+)`")
PROMISES = {
    "custom_environment.md": '"episodes": 1000',
    "first_run.md": "stopped by: ",
    "resume.md": "All held",
    "own_network.md": "mean_return",
    "own_algorithm.md": "policy.tflite",
    "tf_agents.md": "the greedy policy reaches the end in 2 steps",
    "dashboards.md": "evaluation return",
    "several_hosts.md": "not solved",
    "deploy.md": "predictions",
}
"""Of each tutorial, words that its commands print at the end."""
OURS = ("agents", "pipeline")


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Language, file to save it as (or empty) and content of each block of a page, in order."""
    end = 0
    for match in BLOCK.finditer(text):
        named = SAVED.findall(text[end : match.start()])
        yield match[1], named[-1] if named else "", match[2]
        end = match.end()


def follow(commands: str, folder: Path) -> str:
    """Runs shell lines in a folder, with this Python as `python`; returns what they printed."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    if not python.exists():
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    # The tutorial's own PYTHONPATH, and behind it this checkout in the place of an installation.
    lines = f"set -e\nexport PYTHONPATH={ROOT}\n{commands}".replace("PYTHONPATH=$PWD", f"PYTHONPATH=$PWD:{ROOT}")
    variables = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    variables.pop("TF_NUM_INTRAOP_THREADS", "")  # a reader's learner has the threads that TensorFlow gives it
    result = subprocess.run(
        ["bash", "-c", lines],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_tutorial_is_followed() -> None:
    assert set(PROMISES) == {path.name for path in TUTORIALS.glob("*.md")}


FIRST = ("custom_environment.md",)
"""Of the tutorials the one that takes the least time."""


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("name", tiered(PROMISES, FIRST))
def test_a_tutorial_does_what_it_says(tmp_path: Path, name: str) -> None:
    printed = ""
    for language, saved_as, content in blocks((TUTORIALS / name).read_text()):
        if language == "sh":
            printed = follow(content, tmp_path)
        else:
            assert saved_as, f"a reader does not know what to do with this block:\n{content}"
            (tmp_path / saved_as).write_text(content)
    assert PROMISES[name] in printed
    if name == "custom_environment.md":
        assert json.loads(printed.splitlines()[-1])["mean_return"] > 33.0  # of 34.5; ordering the same earns 24.9


@pytest.mark.parametrize("name", ["README.md", *(f"docs/tutorials/{name}" for name in PROMISES)])
def test_the_commands_of_a_page_are_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for language, saved_as, content in blocks((ROOT / name).read_text()):
        if language == "python" and saved_as:  # a config may name what the page has the reader write
            (tmp_path / saved_as).write_text(content)
    text = "\n".join(content for language, _, content in blocks((ROOT / name).read_text()) if language == "sh")
    for variable, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
        text = text.replace(f"${variable}", value)
    for command, given in command_lines(text):
        words = list(itertools.takewhile(lambda word: word not in (">", "2>&1", "&"), given))
        subcommands = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
        values = parsed(" ".join([command, *subcommands]), words[len(subcommands) :])
        if values.get("config", "") in shipped():
            pipeline.load(values["config"], tuple(word[len("--set=") :] for word in words if word.startswith("--set=")))


@pytest.mark.parametrize("name", ["README.md", *(f"docs/tutorials/{name}" for name in PROMISES)])
def test_the_python_of_a_page_names_what_there_is(name: str) -> None:
    for language, _, content in blocks((ROOT / name).read_text()):
        if language != "python":
            continue
        program, modules = ast.parse(content), {}
        for node in ast.walk(program):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                names = [alias for alias in node.names if alias.name in OURS]
                modules |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in names}
        for node in ast.walk(program):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"there is no {node.value.id}.{node.attr}"


def test_the_environment_of_ones_own_is_short() -> None:
    (_, _, environment), *_ = blocks((TUTORIALS / "custom_environment.md").read_text())
    assert len(environment.splitlines()) <= 40


README = (ROOT / "README.md").read_text()
OWN_TASK = README.split("\n## A task of your own\n", 1)[1].split("\n## ", 1)[0]
"""The section of README.md that shows an environment, its config, and how it is solved."""


def here(commands: str) -> str:
    """Commands of README.md, which are given in the root of a clone, for `follow`."""
    return commands.replace(".venv/bin/python", "python")


@pytest.mark.slow
def test_the_readmes_own_task_is_solved(tmp_path: Path) -> None:
    for language, saved_as, content in blocks(OWN_TASK):
        if language == "sh":
            printed = follow(here(content), tmp_path)
        else:
            assert saved_as, f"a reader does not know what to do with this block:\n{content}"
            (tmp_path / saved_as).write_text(content)
    assert json.loads((tmp_path / "runs" / "catch" / "summary.json").read_text())["solved"]
    assert json.loads(printed.splitlines()[-1])["mean_return"] == 1.0  # the best there is; at random -0.7


@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    """In one folder and in order, but for a reader's own task, and for `make test`, which is what runs this."""
    for language, _, content in blocks(README.replace(OWN_TASK, "")):
        if language == "python":
            (tmp_path / "block.py").write_text(content)
            follow("PYTHONPATH=$PWD python block.py", tmp_path)
        elif language == "sh":
            made = re.sub(r"^make train.*", f"make -C {ROOT} train RUN_DIR={tmp_path / 'made'}", content, flags=re.M)
            lines = [line for line in made.splitlines() if not line.startswith("make test")]
            printed = follow(here("\n".join(lines)), tmp_path)
            assert printed, content
    assert (tmp_path / "made" / "summary.json").is_file()
    for name in ("episode.mp4", "curves.png", "exported/first/policy.tflite"):
        assert (tmp_path / name).stat().st_size > 1_000
