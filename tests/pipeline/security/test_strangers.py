"""Run directories of other users: what their configs name runs as one's own, and that is said, or not done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from untrained import untrained_run

import pipeline
from pipeline import UsageError
from pipeline.experiment.config import dump, parse
from pipeline.export import directory
from pipeline.security import strangers

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
pytestmark = pytest.mark.xdist_group("serving")  # they start TensorFlow once


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a policy, whose config names nothing but what is there for everyone."""
    folder = tmp_path_factory.mktemp("strangers") / "run"
    untrained_run(folder, "environment.id='CartPole-v1'", "agent.hidden_units=[8]")
    return folder


@pytest.fixture(scope="module")
def export(run: Path) -> Path:
    """The policy as an export, as far as `pipeline.serve` needs one."""
    source = directory.of_run(run, "best")
    folder = run.parent / "export"
    shutil.copytree(run / "policies" / "best", folder)
    directory.write_json(folder / "interface.json", source.interface)
    (folder / "config.toml").write_text(dump(source.experiment))
    return folder


def harmful(folder: Path, where: Path, *edits: tuple[str, str]) -> Path:
    """A copy of a folder with other lines in its config."""
    shutil.copytree(folder, where)
    text = (where / "config.toml").read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    (where / "config.toml").write_text(text)
    return where


def spoiling(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment of processes in which the module `spoils` can be imported, and the file that it then leaves."""
    left = tmp_path / "spoiled"
    (tmp_path / "spoils.py").write_text(
        f"import pathlib\npathlib.Path({str(left)!r}).touch()\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "def allowed(observation): return observation[:, :2] < 9\n"
    )
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}, left


def command(name: str, *flags: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", f"pipeline.{name}", *flags]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd="/tmp", env=env)


OWN_ENVIRONMENT = (
    ('id = "CartPole-v1"', 'id = ""'),
    ('import_path = ""', 'import_path = "spoils:CartPoleEnv"'),
)
OWN_KIND = (('kind = "dqn"', 'kind = "spoils:Config"'),)
OWN_SCHEDULE = (('epsilon_schedule = ""', 'epsilon_schedule = "spoils:allowed"'),)
OWN_SHIELD = (('shield = ""', 'shield = "spoils:allowed"'),)
A_PROGRAM = (
    ('id = "CartPole-v1"', 'id = ""'),
    ('import_path = ""', 'import_path = "subprocess:Popen"'),
)
REGISTERED = (('id = "CartPole-v1"', 'id = "spoils:CartPole-v1"'),)
WORDS = (("[environment.kwargs]", '[environment.kwargs]\nsutton_barto_reward = "os.path"'),)


@pytest.mark.parametrize("edits", [OWN_ENVIRONMENT, OWN_KIND, OWN_SCHEDULE, OWN_SHIELD, REGISTERED, A_PROGRAM, WORDS])
def test_nothing_that_is_named_is_imported_where_it_is_not_trusted(
    run: Path, tmp_path: Path, edits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, left = spoiling(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    folder = harmful(run, tmp_path / "run", *edits)
    for call in (pipeline.evaluate, pipeline.load_policy):
        with pytest.raises(UsageError, match="not trusted"):
            call(folder, trust=False)
    assert not left.exists()
    assert "spoils" not in sys.modules


def test_what_names_no_code_needs_no_trust(run: Path, export: Path) -> None:
    assert pipeline.evaluate(run, episodes=1, trust=False).lengths.sum() > 0
    for folder in (run, export):
        assert pipeline.load_policy(folder, trust=False).act(np.zeros(4, np.float32)) in (0, 1)
    assert pipeline.Run(run).experiment(trust=False) == pipeline.Run(run).experiment()


def test_an_export_acts_without_the_code_that_its_config_names(export: Path, tmp_path: Path) -> None:
    observation = np.array([0.01, -0.02, 0.03, -0.04], np.float32)
    wanted = pipeline.load_policy(export).q_values(observation)
    for number, edits in enumerate((OWN_ENVIRONMENT, OWN_KIND, OWN_SCHEDULE)):
        policy = pipeline.load_policy(harmful(export, tmp_path / str(number), *edits), trust=False)
        np.testing.assert_array_equal(policy.q_values(observation), wanted)
        if edits is not OWN_ENVIRONMENT:
            with pytest.raises(UsageError, match="trust=False"):
                _ = policy.experiment


def test_an_export_with_a_shield_of_its_own_is_refused(export: Path, tmp_path: Path) -> None:
    folder = harmful(export, tmp_path / "export")
    interface = json.loads((folder / "interface.json").read_text())
    (folder / "interface.json").write_text(json.dumps({**interface, "shield": "spoils:allowed"}))
    with pytest.raises(UsageError, match=r"environment\.shield.*not trusted"):
        pipeline.load_policy(folder, trust=False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[environment]\nid = 'CartPole-v1'", []),
        ("[environment]\nimport_path = 'a.b'", ["environment.import_path='a.b'"]),
        ("[evaluation]\nkwargs = {a = ['c:d.e', {f = 1}]}", ["evaluation.kwargs.a[0]='c:d.e'"]),
        ("[agent]\nkind = 'mine:Config'", ["agent.kind='mine:Config'"]),
        ("[collect]\ndevices = 'GPU:0'", []),
        ("no TOML", []),
    ],
)  # fmt: skip
def test_what_a_config_names(text: str, named: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    assert strangers.named_code(tmp_path) == named


def test_what_is_ours_is_trusted(tmp_path: Path) -> None:
    experiment = parse("base = 'cartpole_memory'")  # its environment is named by an import path
    (tmp_path / "config.toml").write_text(dump(experiment))
    assert pipeline.Run(tmp_path).experiment(trust=False) == experiment
    with strangers.reading(tmp_path, trust=False):
        assert pipeline.environments.describe(experiment.environment).num_actions == 2


@needs_root
def test_whose_a_directory_is(run: Path, tmp_path: Path) -> None:
    assert strangers.owner_of(run) == ""
    theirs = harmful(run, tmp_path / "run")
    os.chown(theirs / "config.toml", NOBODY, NOBODY)
    assert strangers.owner_of(theirs) == "nobody"
    os.chown(theirs / "config.toml", 0, 0)
    os.chown(theirs, 54_321, 54_321)
    assert strangers.owner_of(theirs) == "number 54321"
    assert strangers.owner_of(tmp_path / "nothing") == ""


@needs_root
@pytest.mark.slow
def test_commands_say_whose_code_they_run_and_run_none_of_it_where_told(
    run: Path, export: Path, tmp_path: Path
) -> None:
    env, left = spoiling(tmp_path)
    theirs, no_code = harmful(run, tmp_path / "run", *OWN_ENVIRONMENT), harmful(run, tmp_path / "plain")
    their_export = harmful(export, tmp_path / "export", *OWN_ENVIRONMENT)
    for folder in (theirs, no_code, their_export):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    calls = [
        ("evaluate", f"--run_dir={theirs}", "--episodes=1"),
        ("play", f"--run_dir={theirs}"),
        ("export", f"--run_dir={theirs}", f"--out={tmp_path / 'out'}"),
        ("serve", f"--run_dir={theirs}", "--port=0"),
    ]
    for call in calls:
        refused = command(*call, "--trust=no", env=env)
        assert refused.returncode == 2, refused
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "environment.import_path='spoils:CartPoleEnv' is code that" in refused.stderr
    done = command("evaluate", f"--run_dir={no_code}", "--episodes=1", "--trust=no", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not left.exists(), "nothing has been imported so far"
    done = command("evaluate", f"--run_dir={theirs}", "--episodes=1", env=env)
    assert done.returncode == 0, done.stderr
    assert f"{theirs} belongs to another user (nobody)" in done.stderr
    assert "environment.import_path='spoils:CartPoleEnv'" in done.stderr
    assert left.exists(), "what was said is so"
