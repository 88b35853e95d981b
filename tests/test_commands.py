"""What every command has in common: it is listed, its help is there at once, a mistake is one line."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_architecture import COMMANDS

from pipeline import doctor
from pipeline.__main__ import completion, main
from pipeline.environments import SUITES

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("tensorflow", "reverb", "tf_agents", "matplotlib", "aiohttp", "ray", "tensorboard", "PIL")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_all_commands_are_listed() -> None:
    result = run("-m", "pipeline")
    assert result.returncode == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert {line.split()[3] for line in lines} == set(COMMANDS)
    assert all(line.rstrip().endswith(".") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dance"], "lists the commands"),
        (["trian", "--config=cartpole"], "did you mean 'train'?"),
        (["completion", "dance"], "bash or zsh"),
        (["role.py"], "did you mean 'role'?"),
    ],
)
def test_a_command_that_there_is_not_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output, error = capsys.readouterr()
    assert (output, len(error.splitlines())) == ("", 1)
    assert words in error


def test_a_command_is_run_by_its_name_with_flags_and_exit_code(tmp_path: Path) -> None:
    refused = run("-m", "pipeline", "evaluate", f"--run_dir={tmp_path}", "--debug")
    assert refused.returncode == 2
    assert "Traceback" in refused.stderr
    assert str(tmp_path) in refused.stderr.splitlines()[-1]
    assert "--policy=" in run("-m", "pipeline", "export", "--help").stdout  # a folder


def test_the_version_is_the_installed_one() -> None:
    import pipeline

    assert run("-m", "pipeline", "--version").stdout.split() == ["reverb-dqn", importlib.metadata.version("reverb-dqn")]
    assert pipeline.__version__ == importlib.metadata.version("reverb-dqn")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["tr"], ["train"]),
        (["train", "--config=cartpole_qr"], ["--config=cartpole_qr_dqn"]),
        (["train", "--resu"], ["--resume"]),
        (["doctor", "--conf"], [f"--config={path.stem}" for path in sorted(ROOT.glob("configs/*.toml"))]),
        (["replay", "--forma"], ["--format"]),
        (["evaluate", "--nothing"], []),
    ],
)
def test_a_shell_completes_commands_and_flags(words: list[str], completed: list[str]) -> None:
    line = " ".join(map(repr, ["reverb-dqn", *words]))
    script = f"{completion('bash')}\nCOMP_WORDS=({line}) COMP_CWORD={len(words)}\n_reverb_dqn 2>/dev/null\n"
    script += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_there_at_once(name: str) -> None:
    result = run("-X", "importtime", "-m", f"pipeline.{name}", "--help")
    assert result.returncode == 0
    assert "--" in result.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_is_one_line(name: str) -> None:
    result = run("-m", f"pipeline.{name}", "--no_such_flag=1")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    flags = "-m", "pipeline.evaluate", f"--run_dir={tmp_path}"
    assert "Traceback" not in run(*flags).stderr
    shown = run(*flags, "--debug")
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1] == run(*flags).stderr.strip()


def test_output_that_nobody_reads_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.train", "--help"],
            stdout=output, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, "")


def test_the_doctor_finds_nothing_to_mend_here(tmp_path: Path) -> None:
    result = run("-m", "pipeline.doctor", f"--run_dir={tmp_path / 'new'}")
    assert result.returncode == 0, result.stdout
    assert "packages: all" in result.stdout
    assert "problem" not in result.stdout
    optional = next(line for line in result.stdout.splitlines() if "optional packages: " in line).partition(": ")[2]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(optional.split(", ")) <= set(extras) - {"dev"}
    assert {suite.extra for suite in SUITES if suite.extra} <= set(optional.split(", ")), "make setup installs them all"


def test_the_doctor_names_extras_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("ale-py", "typer"):  # the second is one of three packages of its extra
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (note,) = (found for found in doctor.findings(tmp_path) if found.words.startswith("not there: "))
    assert (note.level, note.words) == ("note", "not there: atari, minari")
    assert "[atari,minari]" in note.remedy


def test_the_doctor_needs_no_package_and_misses_all_of_them(tmp_path: Path) -> None:
    result = run("-S", "-m", "pipeline.doctor", f"--run_dir={tmp_path}")  # without site-packages
    assert result.returncode == 1, result.stderr
    assert "problem  packages" in result.stdout
    assert "make setup" in result.stdout


def test_the_doctor_says_where_runs_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("-m", "pipeline.doctor", f"--run_dir={tmp_path / 'file'}")
    assert result.returncode == 1
    assert "problem  disk" in result.stdout


def test_the_doctor_says_what_a_config_takes(tmp_path: Path) -> None:
    flags = (f"--run_dir={tmp_path}", "--config=cartpole")
    result = run("-m", "pipeline.doctor", *flags, "--set=replay.capacity=1_000_000_000_000")
    assert result.returncode == 0, result.stderr
    assert "warning  sizes: memory: the replay up to" in result.stdout
    assert "-> lower replay.capacity" in result.stdout
    refused = run("-m", "pipeline.doctor", *flags, "--set=agent.n_step=0")
    assert refused.returncode == 1
    assert "problem  config:" in refused.stdout
    assert "agent.n_step" in refused.stdout


def test_the_doctor_knows_of_proxies() -> None:
    result = run("-m", "pipeline.doctor", http_proxy="http://proxy.invalid:3128", no_proxy="", NO_PROXY="")
    assert "warning  proxy: http_proxy set" in result.stdout
    assert "export no_proxy=" in result.stdout


COMMAND = """
import atexit, os, sys, threading, time
from absl import flags
from pipeline.command import run_command

SEED = flags.DEFINE_integer("seed", 1, "Ours.")

def main(arguments):
    flags.DEFINE_string("seed", "theirs", "As a module of the user's has it.")
    flags.DEFINE_bool("debug", True, "")
    assert (SEED.value, flags.FLAGS.seed, flags.FLAGS.debug) == (5, "theirs", True)
    atexit.register(lambda: print("the simulator says goodbye", flush=True))
    atexit.register(lambda: os.write(1, b"so does its library"))
    print('{"a": 1}')
    return 0

if __name__ == "__main__":
    sys.exit(run_command(main, ""))
"""


def test_the_last_line_of_stdout_is_the_commands_own_and_its_flags_are_no_one_elses(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    result = run(str(tmp_path / "command.py"), "--seed=5", PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout) == (0, '{"a": 1}\n'), result.stderr
    assert "the simulator says goodbye" in result.stderr


def test_a_command_without_stdout_or_with_a_full_one_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    command = f"{sys.executable} {tmp_path / 'command.py'} --seed=5"
    for end, code, words in ((">/dev/full", 1, "stdout could not be written"), (">&-", 0, "")):
        result = subprocess.run(
            ["sh", "-c", f"{command} {end}"],
            capture_output=True, text=True, check=False, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert result.returncode == code, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr
