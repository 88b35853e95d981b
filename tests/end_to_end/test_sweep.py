"""Real sweeps: killed, interrupted, gone on with; runs that fail; and what is refused. And plots of their runs."""

import csv
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from one_after_another import refusals
from waiting import SECONDS, wait_until

from pipeline.experiment import config

ROOT = Path(__file__).resolve().parent.parent.parent
SHRUNK = (
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.every_steps=500",
    "stop.environment_steps=0",
    "stop.target_return=1e9",
    "stop.gradient_steps=160",
)
SWEEP = ("--config=frozenlake", "--grid=agent.discount=[0.9, 0.99]", "--seeds=0:1", "--parallel=2")


def start(module: str, *flags: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    arguments = [sys.executable, "-m", module, *flags]
    return subprocess.Popen(arguments, stdout=stdout, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT)


def run(module: str, *flags: str) -> tuple[int, str]:
    process = start(module, *flags)
    output, _ = process.communicate()
    return process.returncode, output


def sets(*lines: str) -> list[str]:
    return [f"--set={line}" for line in lines]


def processes_of(folder: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(f"{folder}/" in argument for argument in line):
            found.append(line)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sweep"
    yield path
    wait_until(lambda: not processes_of(path), "all processes of the sweep have ended")


def runs_of(out: Path) -> list[Path]:
    return [out / f"agent.discount={discount}" / "seed-0" for discount in (0.9, 0.99)]


def test_a_sweep_is_compared_and_its_runs_are_not_done_again(out: Path, tmp_path: Path) -> None:
    flags = [*SWEEP, *sets(*SHRUNK), f"--out={out}"]
    code, output = run("pipeline.sweep", *flags)
    assert code == 0, output
    results = json.loads((out / "sweep.json").read_text())
    assert results["is_ended"]
    assert {outcome["name"] for outcome in results["outcomes"]} == {"agent.discount=0.9", "agent.discount=0.99"}
    assert all(outcome["finished"] == 1 and outcome["mean_return"] >= 0 for outcome in results["outcomes"])
    returns = [outcome["mean_return"] for outcome in results["outcomes"]]
    assert returns == sorted(returns, reverse=True)
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [(row["agent.discount"], row["seed"], row["stop_reason"]) for row in rows] == [
        ("0.9", "0", "gradient_steps"),
        ("0.99", "0", "gradient_steps"),
    ]
    assert (out / "sweep.png").stat().st_size > 5_000

    ended = [(path / "summary.json").stat().st_mtime_ns for path in runs_of(out)]
    again = run("pipeline.sweep", *flags)
    assert again[0] == 0
    assert "2 runs have ended before" in again[1]
    assert again[1].splitlines()[1:] == output.splitlines()[-4:], "the table is the same"
    assert [(path / "summary.json").stat().st_mtime_ns for path in runs_of(out)] == ended

    code, output = run("pipeline.sweep", *flags, *sets("agent.learning_rate=0.5"))
    assert (code, output.count("\n")) == (2, 1)
    assert "other values of agent.learning_rate" in output

    figure = tmp_path / "curves.png"
    code, output = run("pipeline.plot", f"--runs={out}/*/seed-*", f"--out={figure}", "--x=seconds", "--y=learner/loss")
    assert code == 0, output
    assert [line.split()[0] for line in output.splitlines()[-4:]] == [
        "group",
        "agent.discount=0.9",
        "agent.discount=0.99",
        "figure:",
    ]
    assert figure.stat().st_size > 5_000


@pytest.mark.slow
def test_a_sweep_that_was_killed_and_interrupted_goes_on(out: Path) -> None:
    flags = [*SWEEP, *sets(*SHRUNK), f"--out={out}"]
    runs = runs_of(out)
    sweep = start("pipeline.sweep", *flags)
    wait_until(lambda: all((run / "logs" / "learner.log").exists() for run in runs), "both runs have started")
    sweep.kill()
    sweep.wait()
    wait_until(lambda: not processes_of(out), "nothing is left of a killed sweep")

    sweep = start("pipeline.sweep", *flags)
    wait_until(lambda: all(map(processes_of, runs)), "both runs have gone on, or begun anew")
    code, output = run("pipeline.sweep", *flags)
    assert (code, output) == (2, f"error: {out} is in use by a sweep: wait for its end, or choose another --out\n")
    sweep.send_signal(signal.SIGTERM)
    output, _ = sweep.communicate()
    assert sweep.returncode == 1
    assert "interrupted: the same command goes on" in output
    assert not processes_of(out)

    code, output = run("pipeline.sweep", *flags)
    assert code == 0, output
    assert json.loads((out / "sweep.json").read_text())["is_ended"]
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [row["stop_reason"] for row in rows] == ["gradient_steps", "gradient_steps"]


def test_runs_that_fail_are_named_and_the_others_go_on(out: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for taken in (first, second):
            taken.bind(("", 0))
            taken.listen()
        ports = [taken.getsockname()[1] for taken in (first, second)]
        flags = ["--config=cartpole", f"--grid=replay.port={ports}", "--seeds=7:8", f"--out={out}"]
        terminal, stdout = pty.openpty()
        sweep = start("pipeline.sweep", *flags, stdout=stdout)
        os.close(stdout)
        shown = b""
        while True:
            try:
                shown += os.read(terminal, 65_536)
            except OSError:  # so Linux says that the other end is closed
                break
        os.close(terminal)
        assert sweep.wait(SECONDS) == 1
    text = " ".join(shown.decode().split())
    for port in ports:
        assert f"FAILED: replay.port={port}/seed-7: exit code 2: error: " in text
        assert f"{out}/replay.port={port}/seed-7.log" in text
        assert not (out / f"replay.port={port}" / "seed-7").exists()
    assert "0 of 2 runs" in text, "the live line"
    assert "0 of 1 - - 0 - -" in text, "the table"
    assert not (out / "sweep.png").exists()


SEARCH = (
    "--config=cartpole",
    "--search=random",
    "--trials=4",
    "--pruner=asha",
    "--parallel=2",
    "--space=agent.learning_rate={low=1e-4, high=1e-2, log=true}",
    "--space=agent.hidden_units=[[8], [16, 16]]",
    *sets(*SHRUNK[:4], "evaluation.every_steps=250", "stop.environment_steps=4000", "stop.target_return=1e9"),
)


def trials_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "sweep.csv").open()))


@pytest.mark.slow
def test_a_killed_search_goes_on_to_a_config_that_trains(out: Path) -> None:
    flags = [*SEARCH, f"--out={out}"]
    search = start("pipeline.sweep", *flags)
    begun = "trial-*/seed-0/logs/learner.log"
    wait_until(lambda: len(list(out.glob(begun))) > 2 or search.poll() is not None, "a third trial has begun")
    assert search.poll() is None
    search.kill()
    search.wait()
    wait_until(lambda: not processes_of(out), "nothing is left of a killed search")
    before = {row["trial"]: row["agent.learning_rate"] for row in trials_of(out)}
    ended = {row["trial"] for row in trials_of(out) if row["state"] in ("complete", "pruned")}
    assert ended

    code, output = run("pipeline.sweep", *flags)
    assert code == 0, output
    assert f"{len(ended)} trials have ended before" in output
    rows = trials_of(out)
    assert len(rows) == 4
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    after = {row["trial"]: row["agent.learning_rate"] for row in rows}
    assert before.items() <= after.items(), "trials that had been begun keep their values"
    assert len(set(after.values())) == 4
    for row in rows:  # what is pruned has ended with a checkpoint, as any run that is told to end
        summary = json.loads((out / row["trial"] / "seed-0" / "summary.json").read_text())
        wanted = {"complete": ["environment_steps"], "pruned": ["interrupted", "environment_steps"]}[row["state"]]
        assert summary["stop_reason"] in wanted or row["trial"] in ended
    for name in ("history.png", "best.toml", "search.db"):
        assert (out / name).stat().st_size > 500

    again = run("pipeline.sweep", *flags)
    assert again[0] == 0
    assert "started" not in again[1]
    best = config.load(str(out / "best.toml"))
    code, output = run(
        "pipeline.train", f"--config={out / 'best.toml'}", f"--run_dir={out / 'again'}", *sets("stop.seconds=1")
    )
    assert code == 0, output
    winner = json.loads((out / "sweep.json").read_text())["best"]
    assert best.agent.learning_rate == winner["values"]["agent.learning_rate"]


@pytest.mark.slow
def test_trials_that_fail_are_named_and_tried_again(out: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--config=frozenlake", "--search=grid", f"--space=replay.port=[{port}, 0]", f"--out={out}"]
        flags += sets(*SHRUNK)
        code, output = run("pipeline.sweep", *flags)
        assert code == 1
        assert "FAILED: trial-0000: exit code 2: error: " in output
        assert str(port) in output
        assert [row["state"] for row in trials_of(out)] == ["failed", "complete"]
    code, output = run("pipeline.sweep", *flags)
    assert code == 0, output
    assert [row["state"] for row in trials_of(out)] == ["failed", "complete", "complete"]


REFUSED = {
    "sweep": [
        (("--config=cartpole", "--grid=agent.n_step=[1, 0]"), "agent.n_step"),
        (("--config=cartpole", "--grid=agent.n_step=3"), "as a list"),
        (("--config=cartpole", "--parallel=0"), "parallel"),
        (("--config=cartpole", "--space=agent.n_step=[1, 3]"), "add --search=tpe"),
        (("--config=cartpole", "--search=tpe", "--trials=3"), "--space is missing"),
        (("--config=cartpole", "--search=tpe", "--trials=3", "--grid=agent.n_step=[1, 3]"), "write it as --space"),
        (("--config=cartpole", "--search=tpe", "--space=agent.n_step=[1, 3]"), "--trials is missing"),
        (("--config=cartpole", "--search=tpe", "--trials=3", "--space=agent.n_step=[1, 0]"), "agent.n_step"),
        (("--config=cartpole", "--search=best"), "tpe|random|grid"),
        (("--config=cartpole", "more"), "--name=value"),
        ((), "--config"),
    ],
    "plot": [
        (("--runs=nothing*",), "matches no run"),
        ((), "--runs"),
        (("--runs=*", "--x=minutes"), "environment_steps|seconds"),
        (("--runs=*", "more"), "in quotes"),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_command_line_is_one_line_exit_code_2_and_nothing_written(tmp_path: Path, name: str) -> None:
    refusals(name, [((f"--out={tmp_path / 'new.png'}", *flags), words) for flags, words in REFUSED[name]])
    assert not list(tmp_path.iterdir())
