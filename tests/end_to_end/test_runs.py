"""Whole runs, each command in processes of its own."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from one_after_another import refusals
from small_runs import (
    ENDLESS,
    ROOT,
    SHRUNK,
    TAGS,
    gradient_steps,
    inline,
    last_of,
    processes_of,
    start,
    summary,
    tags_of,
    train,
)
from waiting import wait_until

from pipeline.records import checkpoint
from pipeline.records.recorder import Recorder

SUMMARY_FIELDS = {
    "solved", "stop_reason", "seed", "environment_steps", "gradient_steps", "episodes", "mean_return",
    "startup_seconds", "train_seconds", "environment_steps_per_second", "gradient_steps_per_second",
    "samples_per_insert",
}  # fmt: skip


def collected(run_dir: Path) -> int:
    """Environment steps by a run's collectors on their own account, also before the learner hears of them."""
    return sum(Recorder(path).counts.environment_steps for path in (run_dir / "recorders").glob("collector-*"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    yield path
    wait_until(lambda: not processes_of(path), "all processes of the run have ended")


@pytest.mark.slow
def test_a_run_that_is_killed_before_its_first_checkpoint_begins_anew(run_dir: Path) -> None:
    lines = (*ENDLESS[:-1], "stop.environment_steps=2_000", "checkpoint.every_seconds=1e6", "evaluation.every_steps=10")
    running = start(run_dir, *lines)
    wait_until(lambda: collected(run_dir) >= 500, "it collects")
    running.kill()
    running.wait()
    wait_until(lambda: not processes_of(run_dir), "all processes have ended with the command")
    assert checkpoint.newest(run_dir / "checkpoints") is None
    assert not (run_dir / "summary.json").exists()
    done = train(run_dir, *lines, flags=("--resume",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"the run begins anew, without its [\d,]+ environment steps of before", done.stdout)
    found = summary(run_dir)
    assert found["gradient_steps"] > 100
    assert 2_000 <= found["environment_steps"] < 2_100
    assert found["account"]["lost"] == {}
    steps = [json.loads(line)["environment_steps"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "what was evaluated before is not of this run"


@pytest.mark.xdist_group("trained")
def test_a_run_leaves_what_it_should(trained: Path) -> None:
    found = summary(trained)
    assert set(found) >= SUMMARY_FIELDS
    assert found["stop_reason"] == "gradient_steps"
    assert found["gradient_steps"] >= 400
    assert found["environment_steps"] > 128
    assert found["episodes"] > 0
    assert found["mean_return"] is not None, "the last weights are evaluated"
    assert found["evaluations"] > 0
    for role in ("learner", "collector-0", "evaluator"):
        assert (trained / "logs" / f"{role}.log").is_file()
    assert tags_of(trained / "tensorboard") >= set().union(*TAGS.values())
    assert all(path.is_file() for path in (trained / "tensorboard").iterdir()), "it is one entry in TensorBoard"
    assert (trained / "policies" / "best" / "policy.msgpack").is_file()
    assert list((trained / "checkpoints").glob("0*/manifest.json"))


@pytest.mark.xdist_group("trained")
def test_evaluate_scores_the_best_and_the_latest_policy(trained: Path) -> None:
    results = []
    for policy in ("best", "latest", "best"):
        flags = (f"--run_dir={trained}", f"--policy={policy}", "--episodes=7", "--seed=3")
        output = subprocess.run(
            [sys.executable, "-m", "pipeline.evaluate", *flags],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        results.append(json.loads(output.stdout.splitlines()[-1]))
    fields = {
        "mean_return",
        "std_return",
        "min_return",
        "max_return",
        "episodes",
        "environment_steps",
        "gradient_steps",
    }
    assert all(set(result) == fields and result["episodes"] == 7 for result in results)
    assert results[0] == results[2]
    assert results[1]["environment_steps"] >= results[0]["environment_steps"]


def test_two_collectors_add_up_and_sigterm_saves_what_a_resumed_run_goes_on_from(run_dir: Path) -> None:
    ladder = ("collect.collectors=2", "exploration.ladder_alpha=7.0")
    endless = (*ENDLESS, "replay.samples_per_insert=8", *ladder)
    process = start(run_dir, *endless)
    own = run_dir / "tensorboard" / "collectors"

    def has_begun() -> bool:  # the first collector may fill the replay alone
        return gradient_steps(run_dir) > 100 and "exploration/epsilon/collector-1" in tags_of(own)

    wait_until(has_begun, "both have reported and the run learns")
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 1
    before = summary(run_dir)
    assert (before["stop_reason"], before["lost_transitions"]) == ("interrupted", 0)
    for tag in ("episodes", "environment_steps"):
        each = [last_of(own, f"system/{tag}/collector-{index}") for index in (0, 1)]
        assert sum(each) == last_of(run_dir / "tensorboard", f"system/{tag}") == before[tag]
    assert (before["account"]["unaccounted"], before["account"]["lost"]) == (0, {})
    wait_until(lambda: not processes_of(run_dir), "nothing is left")

    # More than the replay's slack lets the learner take before a collector has started.
    budget = f"stop.gradient_steps={before['gradient_steps'] + 800}"
    resumed = train(run_dir, *endless, budget, flags=("--resume",))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    after = summary(run_dir)
    assert before["gradient_steps"] < after["gradient_steps"] <= before["gradient_steps"] + 800 + 64
    assert after["environment_steps"] > before["environment_steps"]
    assert after["episodes"] >= before["episodes"]
    assert after["train_seconds"] > before["train_seconds"]
    assert (after["account"]["unaccounted"], after["account"]["lost"]) == (0, {}), "the replay was there again, too"
    assert "resumed from" in (run_dir / "logs" / "learner.log").read_text()


def test_a_killed_run_leaves_nothing_and_goes_on_and_a_second_interrupt_ends_it_at_once(run_dir: Path) -> None:
    endless = (*ENDLESS, "replay.samples_per_insert=8", "checkpoint.every_seconds=0.5")
    process = start(run_dir, *endless)
    wait_until(lambda: checkpoint.newest(run_dir / "checkpoints"), "there is a checkpoint")
    refused = train(run_dir, *endless, flags=("--resume",))
    assert (refused.returncode, refused.stderr.count("in use")) == (2, 1), "one run at a time"
    saved = checkpoint.newest(run_dir / "checkpoints")
    assert saved is not None
    saved_steps = saved.counters.gradient_steps
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(run_dir), "the roles have died with their supervisor")

    (run_dir / "status.json").unlink()
    process = start(run_dir, *endless, flags=("--resume",))
    wait_until(lambda: gradient_steps(run_dir) > saved_steps, "the run has gone on")
    (learner,) = (found for found in psutil.Process(process.pid).children() if "--role=learner" in found.cmdline())
    learner.suspend()  # it does not get as far as to leave by itself
    process.send_signal(signal.SIGINT)
    wait_until(lambda: is_pending(learner.pid, signal.SIGTERM), "the learner has been asked to leave")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "interrupted twice: ended without a checkpoint" in output


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a signal before it that it has not taken."""
    (mask,) = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_inline_runs_and_resumes(run_dir: Path) -> None:
    lines = *SHRUNK, "replay.samples_per_insert=32"
    first = train(run_dir, *lines, flags=("--launcher=inline",))
    assert first.returncode == 0, first.stdout + first.stderr
    before = summary(run_dir)
    assert inline(run_dir, *lines, "stop.gradient_steps=480", resume=True) == 0
    after = summary(run_dir)
    assert before["gradient_steps"] == 400
    assert after["gradient_steps"] == 480
    assert after["samples_per_insert"] == pytest.approx(32.0, rel=0.1)


REFUSED = [
    (("--config=nope",), "cartpole"),
    (("--config=cartpole", "--set=agent.n_stepp=3"), "agent.n_step"),
    (("--config=cartpole", "--set=agent.n_step=0"), "agent.n_step"),
    (("--config=cartpole", '--set=agent.n_step="three"'), "agent.n_step"),
    (("--config=cartpole", "--set=replay.capacity=-5"), "replay.capacity"),
    (("--config=cartpole", "--set=learner.batch_size=1000000"), "replay.capacity"),
    (("--config=cartpole", "--set=replay.lanes_per_item=7"), "does not divide"),
    (("--config=cartpole", "--set=replay.min_size=2000000"), "replay.min_size"),
    (("--config=cartpole", '--set=environment.id="CartPole-v99"'), "CartPole-v99"),
    (("--config=pong", '--set=environment.kwargs.protocol="mnih15"'), "there are machado, mnih"),
    (("--config=highway", '--set=environment.shield="no_such:shield"'), "environment.shield"),
    (("--config=trading", '--set=environment.kwargs.csv="missing.csv"'), "missing.csv"),
    (("--config=trading", "--set=evaluation.kwargs.window=3"), "evaluation.kwargs"),
    (("--config=cartpole", "--set=environment.frame_stack=0"), "environment.frame_stack"),
    (("--config=cartpole", '--set=environment.engine="envpol"'), "no 'envpol' (did you mean 'envpool'?)"),
    (("--config=cartpole", '--set=environment.id="Pendulum-v1"'), "Discrete"),
    (("--config=cartpole", "--launcher=cluster"), "launcher"),
    (("--config=cartpole", "--set=collect.max_collectors=2"), "collect.max_collectors=2"),
    (("--config=cartpole", "--ray_address=auto"), "--launcher=ray"),
    (("--config=cartpole", "--launcher=ray", "--require_private"), "--require_private"),
    (("--config=cartpole", "--seeds=3"), "seed"),
    (("--config=cartpole", "--metrics=9464"), "--metrics=9464 is neither host:port"),
    (("--config=cartpole", "--metrics=unix:m", "--launcher=inline"), "--metrics is for --launcher=local"),
    ((), "--config"),
]


def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    refusals("train", [((f"--run_dir={run_dir}", *flags), words) for flags, words in REFUSED])
    assert not run_dir.exists()


@pytest.mark.xdist_group("trained")
def test_a_run_directory_of_another_run_is_refused(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    flags = ("--config=cartpole", f"--run_dir={trained}")
    refusals(
        "train", [(flags, "--resume"), ((*flags, "--set=agent.hidden_units=[8]", "--resume"), "agent.hidden_units")]
    )
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_port_in_use_is_refused(run_dir: Path) -> None:
    import socket

    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as occupied:
        occupied.bind(("::", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        result = train(run_dir, *SHRUNK, f"replay.port={port}")
    assert result.returncode == 2
    assert str(port) in result.stderr
    assert not run_dir.exists()


def test_without_ray_its_extra_is_named(run_python: Callable[..., str], tmp_path: Path) -> None:
    code = """
    import sys

    sys.modules["ray"] = None
    import pipeline

    try:
        pipeline.train(pipeline.load("cartpole"), sys.argv[1], launcher="ray")
    except pipeline.UsageError as error:
        print(error)
    """
    assert "[ray]" in run_python(code, str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
