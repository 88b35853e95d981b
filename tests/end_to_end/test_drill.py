"""Short forms of the drill, of the benchmark of many drills, and of the soak."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from one_after_another import refusals
from waiting import wait_until

from benchmarks.pages import write_between
from pipeline.experiment.config import dump, load

ROOT = Path(__file__).resolve().parent.parent.parent


def command(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip


SHORT = ('learner.loop="plain"', "learner.steps_per_call=8", "evaluation.every_steps=1000", "stop.target_return=50.0")


def test_a_drill_kills_a_role_has_the_task_solved_and_balances_the_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    flags = [f"--set={line}" for line in SHORT]
    result = command("pipeline.drill", "--config=cartpole", f"--run_dir={folder}", "--kills=1", "--seed=1", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    report: dict[str, Any] = json.loads((folder / "drill.json").read_text())
    check(report)
    assert [done["fault"] for done in report["done"]] == ["collector killed"]
    assert set(report["summary"]["account"]["lost"]) <= {"collector killed", "replay restarted"}
    assert "All held" in result.stdout
    assert (folder / "logs" / "learner.log").is_file()
    assert not (folder / "disk" / "run").exists(), "the small disk ends with the drill"
    assert not processes_of(folder)


def check(report: dict[str, Any]) -> None:
    """That all held."""
    assert report["problems"] == []
    account = report["summary"]["account"]
    assert report["summary"]["solved"]
    assert (account["unaccounted"], account["in_flight"]) == (0, 0)
    assert account["begun"] == account["stored"] + sum(account["lost"].values())


def processes_of(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if any(str(folder) in part for part in _line(process))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    run_dir = f"--run_dir={folder}"
    cases = [
        (("--config=cartpole",), "--run_dir"),
        (("--config=nope", run_dir), "cartpole"),
        (("--config=cartpole", run_dir, "--set=agent.n_step=0"), "agent.n_step"),
        (("--config=trading", run_dir), "stop.target_return"),
        (("--config=cartpole", run_dir, "--kills=0"), "kills"),
    ]
    refusals("drill", cases)
    assert not folder.exists()


@pytest.mark.slow
def test_a_drill_that_is_killed_takes_its_run_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    flags = ("--config=cartpole", f"--run_dir={folder}", "--kills=50")
    drill = subprocess.Popen([sys.executable, "-m", "pipeline.drill", *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(processes_of(folder)) >= 5, "the roles, their supervisor and the drill run")
    finally:
        drill.kill()
        drill.wait()
    wait_until(lambda: not processes_of(folder), "all of them have ended", lambda: f"{processes_of(folder)}")


@pytest.mark.slow
def test_many_drills_make_a_table(tmp_path: Path) -> None:
    folder, config = tmp_path / "drills", tmp_path / "short.toml"
    config.write_text(dump(load("cartpole", SHORT)))
    flags = (f"--config={config}", "--seeds=1", "--kills=2", f"--folder={folder}")
    result = command("benchmarks.reliability.drills", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((folder / "0" / "drill.json").read_text())
    check(report)
    assert len(report["done"]) == 2
    assert "1 of 1 drills passed, with 2 faults in" in result.stdout
    assert "unaccounted for: 0." in result.stdout
    again = command("benchmarks.reliability.drills", *flags)
    assert again.stdout.splitlines()[1:] == result.stdout.splitlines()[-len(again.stdout.splitlines()) + 1 :]


@pytest.mark.slow
def test_a_soak_shows_what_each_role_takes(tmp_path: Path) -> None:
    # The first kill comes once the run is seen to learn, whenever that is; these are some more seconds of it.
    flags = ("--environment_steps=1000000", "--kill_seconds=60", f"--folder={tmp_path / 'soak'}")
    result = command("benchmarks.reliability.soak", *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "unaccounted for: 0." in result.stdout
    assert re.search(r"with [1-9]\d* kills", result.stdout), result.stdout
    output = (tmp_path / "soak" / "output.log").read_text()
    assert "collector-0 was killed (SIGKILL)\ncollector-0 is restarted" in output, output


def test_the_page_has_a_place_for_each_table(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text((ROOT / "docs" / "reliability.md").read_text())
    for name in ("checkpoints", "drills", "soak"):
        write_between(page, name, ["a line"])
    assert page.read_text().count("a line") == 3
