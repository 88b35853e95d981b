"""One world: what the command's check accepts, a run's processes can make, and what they cannot is refused by name."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import pytest

import pipeline
from pipeline.experiment.config import UsageError, parse
from pipeline.launchers.environment_check import specs_in_process
from pipeline.launchers.world import World
from pipeline.security import privacy
from pipeline.security.privacy import Privacy

ROOT = Path(__file__).resolve().parents[3]
MODULE = """
import os, signal, socket, sys
import gymnasium
import numpy as np
from gymnasium import spaces

class Mine(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, wants=""):
        print("hello from a constructor")
        what, _, value = wants.partition(" ")
        if what == "gpu" and os.environ.get("CUDA_VISIBLE_DEVICES") != value:
            raise RuntimeError("No CUDA GPUs are available")
        if what == "port":
            socket.create_connection(("127.0.0.1", int(value)), 2.0).close()
        if what == "file":
            open(value).close()
        if what == "variable" and value not in os.environ:
            raise KeyError(value)
        if what == "exit":
            sys.exit(value)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n += 1
        return np.zeros(1, np.float32), float(action), False, self.n == 10, {}
"""
NAME = "module_of_a_user"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module that is found by a relative entry of the path alone."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / f"{NAME}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["source", *sys.path])
    sys.path_importer_cache.pop("source", None)
    yield tmp_path
    sys.modules.pop(NAME, None)


def seen(wants: str = "", *, private: Privacy | None = None, **sections: Any) -> Any:
    """Specs of the module's environment in a role's world, or of another one."""
    environment = {"import_path": f"{NAME}:Mine", "kwargs": {"wants": wants}, **sections.pop("environment", {})}
    experiment = parse("", ({"environment": environment, "collect": {"lanes": 2}, **sections},))
    return specs_in_process(experiment, World.here(), private or Privacy("open"))


def refusal(*arguments: Any, **sections: Any) -> str:
    with pytest.raises(UsageError) as caught:
        seen(*arguments, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_roles_see_path_folder_and_variables_of_the_caller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "1")
    (folder / "here.txt").touch()
    assert seen("variable OF_THE_CALLER").num_actions == 2
    assert seen("file here.txt").num_actions == 2
    assert "FileNotFoundError" in refusal("file there.txt")


def test_devices_are_hidden_unless_they_are_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "collect.devices='inherit'" in refusal("gpu 0")
    assert seen("gpu 0", collect={"devices": "inherit"})
    assert seen("gpu 1", collect={"devices": "1"})


def test_a_refused_connection_in_a_namespace_names_what_to_set(folder: Path) -> None:
    experiment = parse("")
    with socket.create_server(("127.0.0.1", 0)) as server, privacy.arranged(experiment, True, False) as (_, private):
        if private.namespace is None:
            pytest.skip("no network namespaces here")
        port = server.getsockname()[1]
        assert 'set replay.private="loopback"' in refusal(f"port {port}", private=private)
        assert seen(f"port {port}", private=Privacy("loopback"))


def test_a_connection_that_is_refused_later_names_it_too(folder: Path) -> None:
    script = """
        from pipeline.environments.lanes.faults import Faults
        from pipeline.environments.lanes.contract import EnvironmentFault
        for error in ("Error(111, 'Connection refused')", "OSError(101, 'Network is unreachable')", "2"):
            try:
                Faults("Mine", 0.0).add(3, 100, f"it raised {error}")
            except EnvironmentFault as fault:
                print('replay.private="loopback"' in str(fault))
        """
    with privacy.arranged(parse(""), True, False) as (_, private):
        if private.namespace is None:
            pytest.skip("no network namespaces here")
        command = private.command([sys.executable, "-c", textwrap.dedent(script)])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        said = subprocess.check_output(command, pass_fds=private.descriptors, env=environment, text=True)
    assert said.split() == ["True", "True", "False"]


def test_what_this_process_alone_has_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(folder / "source"))
    mine = __import__(NAME).Mine
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    gymnasium.register("OfThisProcess-v0", entry_point=mine)
    try:
        words = refusal(environment={"id": "OfThisProcess-v0", "import_path": ""})
    finally:
        del gymnasium.registry["OfThisProcess-v0"]
    assert "environment.id='module:OfThisProcess-v0'" in words
    assert "launcher inline" in words
    words = refusal(environment={"import_path": "__main__:Mine"})
    assert "put it into a module" in words
    assert "launcher inline" in words


@pytest.mark.parametrize(
    ("wants", "words"), [("exit 3", "SystemExit: 3"), ("kill", "SIGKILL: hello from a constructor")]
)
def test_a_constructor_that_ends_the_process_does_not_end_the_caller(folder: Path, wants: str, words: str) -> None:
    assert words in refusal(wants)


@pytest.mark.parametrize("torso", ["__main__:mine", "os.nothing:mine"])
def test_a_torso_that_the_learner_would_not_find_is_refused(folder: Path, torso: str) -> None:
    assert f"agent.torso={torso!r}" in refusal(agent={"torso": torso})


def test_a_module_that_begins_a_run_when_it_is_imported_is_told_so(folder: Path) -> None:
    begins = 'import pipeline\npipeline.train(pipeline.load("cartpole"), "run")\n'
    (folder / "source" / f"{NAME}.py").write_text(MODULE + begins)
    assert "if __name__ == '__main__':" in refusal()
    assert not (folder / "run").exists()


def test_a_refused_run_writes_nothing(folder: Path) -> None:
    experiment = parse("", ({"environment.import_path": f"{NAME}:Mine", "environment.kwargs.wants": "kill"},))
    with pytest.raises(UsageError):
        pipeline.train(experiment, folder / "run")
    assert not (folder / "run").exists()


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a folder of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return run


@pytest.mark.parametrize("file", ["agents/__init__.py", "agents" + ".py"])
def test_a_package_agents_of_the_users_is_diagnosed(python: Any, tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    done = python("-m", "pipeline.train", "--config=cartpole", "--run_dir=run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert str((tmp_path / file).parent if "/" in file else tmp_path / file) in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    done = python("-c", "import pipeline")
    assert "ImportError: " in done.stderr.splitlines()[-1]
    assert "rename it" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_script_elsewhere_trains_with_its_neighbours(python: Any, tmp_path: Path) -> None:
    """Beside the script is its environment; in the working directory lie files with names of ours."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{NAME}.py").write_text(MODULE)
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import pipeline

        if __name__ == "__main__":
            changes = {{"environment.import_path": "{NAME}:Mine", "stop.environment_steps": 3000}}
            print(pipeline.train(pipeline.load("cartpole", changes), "run").stop_reason)
        """)
    )
    (tmp_path / ("pipeline" + ".py")).touch()
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    done = python(str(script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "environment_steps"


@pytest.mark.slow
def test_a_class_of_the_program_itself_is_run_inline(python: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(MODULE)
        + textwrap.dedent("""
        gymnasium.register("Mine-v0", entry_point=Mine)
        if __name__ == "__main__":
            import pipeline

            for changes in ({"environment.import_path": "__main__:Mine"}, {"environment.id": "Mine-v0"}):
                experiment = pipeline.load("cartpole", [changes, {"stop.environment_steps": 2000}])
                run = f"run-{len(changes['environment.id'] if 'environment.id' in changes else '')}"
                print(pipeline.train(experiment, run, launcher="inline").stop_reason)
        """)
    )
    done = python(str(script))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "environment_steps"


def test_a_world_of_another_machine_is_taken_as_far_as_it_is_there(tmp_path: Path) -> None:
    here = World.here()
    theirs = World((str(tmp_path), "/no/such/folder"), "/no/such/folder", {"OF": "theirs"})
    assert theirs.within(here) == World((str(tmp_path), *here.path), here.folder, here.variables)
    assert msgspec.json.decode(here.command("module", ["--flag"])[-1]) == list(here.path)
