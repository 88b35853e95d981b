"""Whole runs, each command in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.environments import suite_of
from pipeline.experiment.config import load, shipped
from pipeline.learner import bad_batches

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 240
SHRUNK = (
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.images=false",
    "evaluation.every_steps=500",
    "stop.environment_steps=0",
    "stop.target_return=1e9",  # three episodes can be lucky
    "stop.gradient_steps=400",
)
# Few gradient steps for a step, so that the longest episodes of the classic problems (500 steps) come to an end.
REPLAYED = ("replay.samples_per_insert=2", "replay.capacity=20_000")
ON_POLICY = ("learner.steps_per_call=1", "stop.gradient_steps=40")
SUITES = {
    "atari": (*REPLAYED, "environment.max_episode_steps=40"),
    "driving": (),  # a step of a car takes 20 ms, and its episodes are short: it needs no more of them
    "minatar": (*REPLAYED, "environment.max_episode_steps=60"),
}
IMAGES = ("stop.gradient_steps=40", "agent.hidden_units=[16]", "collect.collectors=1")
"""Of stacks of them: a gradient step of their network takes 30 ms, and a second collector might come too late."""
SUMMARY_FIELDS = {
    "solved", "stop_reason", "seed", "environment_steps", "gradient_steps", "episodes", "mean_return",
    "startup_seconds", "train_seconds", "environment_steps_per_second", "gradient_steps_per_second",
    "samples_per_insert",
}  # fmt: skip
TAGS = {
    "learner": {
        "learner/loss", "learner/td_error", "learner/q_mean", "learner/q_max", "learner/gradient_norm",
        "learner/learning_rate", "replay/size", "replay/samples_per_insert", "replay/samples_per_insert_wanted",
        "replay/data_age_gradient_steps", "speed/environment_steps_per_second", "speed/gradient_steps_per_second",
        "speed/train_seconds", "health/resident_mib",
    },
    "collector-0": {
        "collector/epsilon", "collector/faulty_episodes", "collector/weights_age_gradient_steps",
        "collector/weights_age_seconds", "collector/bytes_sent_per_transition", "episode/return", "episode/length",
        "health/resident_mib",
    },
    "supervisor": {"health/resident_mib"},
    "evaluator": {"evaluation/mean_return", "evaluation/std_return", "health/resident_mib"},
}  # fmt: skip

PRIORITY_TAGS = {
    f"priority/{name}" for name in ("mean", "maximum", "largest_ever", "importance_exponent", "skipped_items")
}


def command(module: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", module, *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}


def train(run_dir: Path, *overrides: str, config: str = "cartpole", flags: tuple[str, ...] = ()) -> Any:
    sets = [f"--set={line}" for line in overrides]
    arguments = command("pipeline.train", f"--config={config}", f"--run_dir={run_dir}", *sets, *flags)
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=TIMEOUT, env=environment(), check=False, cwd=ROOT
    )


def start(run_dir: Path, *overrides: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    sets = [f"--set={line}" for line in overrides]
    arguments = command("pipeline.train", "--config=cartpole", f"--run_dir={run_dir}", *sets, *flags)
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=ROOT
    )


def summary(run_dir: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return result


def processes_of(run_dir: Path) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(argument == f"--run_dir={run_dir}" for argument in line):
            found.append(line)
    return found


def wait_until(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.1)


def gradient_steps(run_dir: Path) -> int:
    try:
        return int(json.loads((run_dir / "status.json").read_text())["gradient_steps"])
    except FileNotFoundError:
        return 0


def tags_of(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return set(accumulator.Tags()["tensors"])


def last_of(folder: Path, tag: str) -> float:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return float(make_ndarray(accumulator.Tensors(tag)[-1].tensor_proto))


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run"
    yield path
    wait_until(lambda: not processes_of(path), 10, "all processes of the run have ended")


@pytest.mark.parametrize("config", [name for name in shipped() if not load(name).is_offline])
def test_every_shipped_config_runs_and_leaves_what_it_should(run_dir: Path, config: str) -> None:
    experiment = load(config)
    on_policy, suite = experiment.agent.on_policy, suite_of(experiment.environment.id)
    of_suite = SUITES.get(suite.extra, REPLAYED) if suite else REPLAYED
    slow = experiment.environment.frame_stack > 1
    fitting = ON_POLICY if on_policy else (*of_suite, *(IMAGES if slow else ()))
    result = train(run_dir, *SHRUNK, *fitting, config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "stopped by: gradient_steps" in result.stdout
    assert "tensorboard --logdir" in result.stdout
    found = summary(run_dir)
    assert set(found) >= SUMMARY_FIELDS
    assert found["gradient_steps"] >= (40 if on_policy or slow else 400)
    assert found["environment_steps"] > 128
    assert found["episodes"] > 0
    assert found["mean_return"] is not None, "the last weights are evaluated"
    for role in ("learner", "collector-0", "evaluator"):
        assert (run_dir / "logs" / f"{role}.log").is_file()
    for role, tags in TAGS.items():
        assert tags_of(run_dir / "tensorboard" / role) >= tags
    assert experiment.replay.prioritized == (tags_of(run_dir / "tensorboard" / "learner") >= PRIORITY_TAGS)
    assert (run_dir / "policies" / "best" / "policy.msgpack").is_file()
    assert list((run_dir / "checkpoints").glob("0*/manifest.json"))


@pytest.mark.parametrize("config", [name for name in shipped() if load(name).is_offline])
def test_every_shipped_offline_config_learns_from_the_run_of_another(
    run_dir: Path, config: str, tmp_path: Path
) -> None:
    assert train(tmp_path / "source", *SHRUNK, *REPLAYED).returncode == 0
    dataset = f"offline.dataset={json.dumps(str(tmp_path / 'source'))}"
    result = train(run_dir, *SHRUNK, dataset, "evaluation.every_steps=100", config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "400 gradient steps" in result.stdout
    assert summary(run_dir)["mean_return"] is not None
    assert tags_of(run_dir / "tensorboard" / "learner") >= TAGS["learner"]
    assert not (run_dir / "tensorboard" / "collector-0").exists()


def test_evaluate_scores_the_best_and_the_latest_policy(run_dir: Path) -> None:
    assert train(run_dir, *SHRUNK).returncode == 0
    results = []
    for policy in ("best", "latest", "best"):
        flags = (f"--run_dir={run_dir}", f"--policy={policy}", "--episodes=7", "--seed=3")
        output = subprocess.run(
            command("pipeline.evaluate", *flags), capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
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


def test_several_collectors_add_up(run_dir: Path) -> None:
    overrides = (*SHRUNK[:-1], "collect.collectors=2", "exploration.ladder_alpha=7.0")
    process = start(run_dir, *overrides)
    second = run_dir / "tensorboard" / "collector-1"  # once it has reported; the first may fill the replay alone
    wait_until(second.is_dir, 120, "the second collector has reported")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    found = summary(run_dir)
    assert "collector/epsilon" in tags_of(second)
    assert found["lost_transitions"] == 0
    folders = [run_dir / "tensorboard" / f"collector-{index}" for index in (0, 1)]
    assert sum(last_of(folder, "collector/episodes") for folder in folders) == found["episodes"]
    assert sum(last_of(folder, "collector/environment_steps") for folder in folders) == found["environment_steps"]
    assert (found["account"]["unaccounted"], found["account"]["lost"]) == (0, {})


def test_sigterm_saves_and_resume_goes_on_at_the_same_counters(run_dir: Path) -> None:
    endless = (*SHRUNK[:-1], "replay.samples_per_insert=8")
    process = start(run_dir, *endless)
    wait_until(lambda: gradient_steps(run_dir) > 100, 120, "the run learns")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    before = summary(run_dir)
    assert before["stop_reason"] == "interrupted"
    assert before["lost_transitions"] == 0
    wait_until(lambda: not processes_of(run_dir), 10, "nothing is left")

    # More than the replay's slack lets the learner take before a collector has started.
    budget = f"stop.gradient_steps={before['gradient_steps'] + 800}"
    resumed = train(run_dir, *endless, budget, flags=("--resume",))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    after = summary(run_dir)
    assert before["gradient_steps"] < after["gradient_steps"] <= before["gradient_steps"] + 800 + 64
    assert after["environment_steps"] > before["environment_steps"]
    assert after["episodes"] >= before["episodes"]
    assert after["train_seconds"] > before["train_seconds"]
    log = (run_dir / "logs" / "learner.log").read_text()
    assert "resumed from" in log


def test_a_second_interrupt_does_not_wait(run_dir: Path) -> None:
    process = start(run_dir, *SHRUNK[:-1])
    wait_until(lambda: gradient_steps(run_dir) > 10, 120, "the run learns")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert process.wait(30) == 1
    assert time.monotonic() - started < 20


def test_a_killed_supervisor_leaves_nothing_running(run_dir: Path) -> None:
    process = start(run_dir, *SHRUNK[:-1])
    wait_until(lambda: gradient_steps(run_dir) > 10, 120, "the run learns")
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(run_dir), 10, "the roles have died with their supervisor")


def test_a_stalled_run_says_who_waits_for_whom_and_exits_3(run_dir: Path) -> None:
    slow = ('environment.id=""', 'environment.import_path="environments_that_fail:SlowEnvironment"')
    result = train(run_dir, *SHRUNK, *slow, "learner.stall_seconds=3.0", "collect.lanes=4")
    assert result.returncode == 3, result.stdout + result.stderr
    assert "the learner waits for collectors" in result.stdout
    assert summary(run_dir)["stop_reason"] == "stalled"


def test_a_diverged_run_exits_4_and_keeps_no_bad_weights(run_dir: Path) -> None:
    huge = ('environment.id=""', 'environment.import_path="environments_that_fail:HugeRewardEnvironment"')
    result = train(run_dir, *SHRUNK, *huge, 'agent.loss="mse"')
    assert result.returncode == 4, result.stdout + result.stderr
    assert summary(run_dir)["stop_reason"] == "diverged"
    assert "there was no checkpoint to roll back to" in result.stdout
    assert list((run_dir / "bad_batches").glob("*.msgpack"))
    assert not list((run_dir / "checkpoints").glob("0*"))


def test_a_run_that_goes_bad_for_a_while_rolls_back_and_recovers(run_dir: Path) -> None:
    # 800 transitions of a replay of 512: for a while there is nothing else to draw.
    passing = ('environment.id=""', 'environment.import_path="environments_that_fail:PassingHugeRewardEnvironment"')
    replay = ("replay.capacity=512", "replay.samples_per_insert=8", "collect.collectors=1", "collect.lanes=4")
    learner = ("learner.bad_updates=5", "learner.rollbacks=1000", "learner.rollback_learning_rate_factor=0.9")
    settings = (
        *passing,
        *replay,
        *learner,
        'agent.loss="mse"',
        "learner.batch_size=64",
        "checkpoint.every_seconds=0.2",
    )
    result = train(run_dir, *SHRUNK, *settings, flags=("--launcher=inline",))
    assert result.returncode == 0, result.stdout + result.stderr
    found = summary(run_dir)
    assert found["stop_reason"] == "gradient_steps"
    assert found["gradient_steps"] == 400
    assert 5 <= found["skipped_updates"] < 400
    assert found["rollbacks"] >= 1
    assert result.stdout.count("warning: updates were skipped") == 1
    assert {"learner/skipped_updates", "learner/rollbacks"} <= tags_of(run_dir / "tensorboard" / "learner")
    newest = max((run_dir / "bad_batches").glob("*.msgpack"))
    assert bad_batches.read(newest)["reward"].max() == np.float32(1e30)


@pytest.mark.parametrize("launcher", ["local", "inline"])
def test_an_environment_that_breaks_again_and_again_is_named_and_ends_the_run(run_dir: Path, launcher: str) -> None:
    broken = ('environment.id=""', 'environment.import_path="environments_that_fail:NanEnvironment"')
    result = train(run_dir, *SHRUNK, *broken, "collect.lanes=4", flags=(f"--launcher={launcher}",))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "NanEnvironment" in result.stdout + result.stderr
    # Each lane's every second episode breaks: of four lanes the third time is one too many.
    assert re.search(r"lane 2, step [0-9]+: .*faulty episodes: 11 of the last [0-9]+", result.stdout + result.stderr)
    assert "collect.faulty_episodes=0.01 allows 10 of 1,000" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert summary(run_dir)["stop_reason"] == "failed"
    assert summary(run_dir)["dropped_episodes"] == 12, "all four broke"


@pytest.mark.parametrize("launcher", ["local", "inline"])
def test_faults_cost_a_run_no_more_than_their_episodes(run_dir: Path, launcher: str) -> None:
    broken = (
        'environment.id=""',
        'environment.import_path="environments_that_fail:Unreliable"',
        "environment.kwargs={kinds=['raises', 'nan', 'nan_reward', 'text_reward', 'shape', 'dtype'], chance=0.02}",
        "collect.faulty_episodes=1.0",
    )
    result = train(run_dir, *SHRUNK, *broken, flags=(f"--launcher={launcher}",))
    assert result.returncode == 0, result.stdout + result.stderr
    ended = summary(run_dir)
    assert ended["gradient_steps"] == 400
    assert 0 < ended["dropped_episodes"] < ended["episodes"]
    assert "'Unreliable', lane " in ended["newest_fault"]
    assert ended["lost_transitions"] == 0
    assert f"{ended['dropped_episodes']} episodes were dropped for faults; the newest: environment" in result.stdout


def test_inline_runs_and_resumes(run_dir: Path) -> None:
    first = train(run_dir, *SHRUNK, flags=("--launcher=inline",))
    assert first.returncode == 0, first.stdout + first.stderr
    before = summary(run_dir)
    again = train(run_dir, *SHRUNK, "stop.gradient_steps=480", flags=("--launcher=inline", "--resume"))
    assert again.returncode == 0, again.stdout + again.stderr
    after = summary(run_dir)
    assert before["gradient_steps"] == 400
    assert after["gradient_steps"] == 480
    assert after["samples_per_insert"] == pytest.approx(load("cartpole").replay.samples_per_insert, rel=0.1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
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
        (("--config=cartpole", '--set=environment.engine="envpol"'), "there are envpool, gymnasium"),
        (("--config=cartpole", '--set=environment.id="Pendulum-v1"'), "Discrete"),
        (("--config=cartpole", "--launcher=cluster"), "launcher"),
        (("--config=cartpole", "--set=collect.max_collectors=2"), "collect.max_collectors=2"),
        (("--config=cartpole", "--ray_address=auto"), "--launcher=ray"),
        (("--config=cartpole", "--launcher=ray", "--require_private"), "--require_private"),
        (("--config=cartpole", "--seeds=3"), "seed"),
        ((), "--config"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    arguments = command("pipeline.train", f"--run_dir={tmp_path / 'run'}", *flags)
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_run_directory_of_another_run_is_refused(run_dir: Path) -> None:
    assert train(run_dir, *SHRUNK).returncode == 0
    again = train(run_dir, *SHRUNK)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    other = train(run_dir, *SHRUNK, "agent.hidden_units=[8]", flags=("--resume",))
    assert other.returncode == 2
    assert "agent.hidden_units" in other.stderr


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


def test_without_ray_its_extra_is_named(run_python: Callable[..., str]) -> None:
    code = """
    import sys

    sys.modules["ray"] = None
    from pipeline import UsageError, load
    from pipeline.launchers import Cluster, joined

    try:
        joined(load("cartpole"), Cluster())
    except UsageError as error:
        print(error)
    """
    assert "pip install .[ray]" in run_python(code)
