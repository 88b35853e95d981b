"""The wheel has every module, each of which is there to be imported."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.installation import how_to_install, version

ROOT = Path(__file__).resolve().parent.parent

IMPORT = """
import importlib, json, sys

asked = json.loads(sys.stdin.read())
sys.path += asked["dependencies"]
failed = {}
for name in asked["modules"]:
    if "absl.flags" in sys.modules:  # commands define flags of the same names
        flags = sys.modules["absl.flags"].FLAGS
        for flag in list(flags):
            delattr(flags, flag)
    try:
        found = importlib.import_module(name).__file__
    except ModuleNotFoundError as error:
        failed[name] = error.name
    else:
        if not found.startswith(sys.prefix):
            failed[name] = f"imported from {found}"
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves its own folders beside what it builds
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    arguments = ["--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}", str(source)]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *arguments], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def modules_of(wheel: Path) -> list[str]:
    """Of the wheel's own list of files."""
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist() if name.endswith(".py")]
    return sorted(
        {".".join(name.parts[:-1] if name.stem == "__init__" else name.with_suffix("").parts) for name in names}
    )


def test_the_wheel_has_all_that_the_folders_have(wheel: Path) -> None:
    sources = [*ROOT.glob("agents/**/*.py"), *ROOT.glob("pipeline/**/*.py")]
    names = {path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__") for path in sources}
    assert set(modules_of(wheel)) == {name.replace("/", ".") for name in names}
    with zipfile.ZipFile(wheel) as archive:
        configs = {name for name in archive.namelist() if name.startswith("configs/")}
        assert {"agents/py.typed", "pipeline/py.typed"} <= set(archive.namelist())
        (entry_points,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert b"reverb-dqn = pipeline.__main__:main" in archive.read(entry_points)
    assert configs == {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*.toml")}


def test_every_module_is_imported_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:  # as an installer does with a wheel of pure Python
        archive.extractall(packages)
    modules = modules_of(wheel)

    def failed(dependencies: list[str]) -> dict[str, str]:
        asked = {"modules": modules, "dependencies": dependencies}
        command = [str(environment / "bin" / "python"), "-I", "-c", IMPORT]
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    # Without dependencies many modules end at the first of these, and none at one of ours.
    alone = set(failed([]).values())
    assert not {name for name in alone if name.partition(".")[0] in ("agents", "pipeline", "configs")}
    # With them behind the environment's own packages, where no link to this checkout is followed, all are there.
    assert failed([sysconfig.get_path("purelib")]) == {}


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "`pip install 'reverb-dqn[atari,ray]'`"),
        (
            {"url": "file:///a%20place/x.whl", "archive_info": {}},
            "`pip install 'reverb-dqn[atari,ray] @ file:///a%20place/x.whl'`",
        ),
        (
            {"url": "file:///a%20clone", "dir_info": {"editable": True}},
            "`pip install -e '/a clone[atari,ray]'`, or `make setup` there for all",
        ),
    ],
)
def test_an_extra_is_installed_as_the_package_was(
    origin: dict[str, Any] | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reverb_dqn-9.8.7.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: reverb-dqn\nVersion: 9.8.7\n")
    if origin:
        (folder / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert how_to_install("atari", "ray") == command
    assert version() == "9.8.7"
