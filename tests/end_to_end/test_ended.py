"""Runs end with what was asked for: their budget kept, something learned, a policy, or the word that says why not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import ROOT, environment, inline, summary, train
from waiting import SECONDS

SMALL = (
    "agent.hidden_units=[8]",
    "learner.steps_per_call=8",
    "learner.loop='plain'",
    "replay.min_size=128",
    "evaluation.episodes=3",
    "evaluation.images=false",
    "evaluation.every_steps=500",
    "stop.environment_steps=1000",
)
ENDLESS = (*SMALL, "environment.id=''", "environment.import_path='environments_without_end:Endless'")


def policy_of(run_dir: Path, *flags: str) -> Any:
    """What pipeline.evaluate prints of a run's best policy."""
    command = [sys.executable, "-m", "pipeline.evaluate", f"--run_dir={run_dir}", "--episodes=1", *flags]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, env=environment(), check=False, cwd=ROOT
    )
    return result.returncode, result.stdout.splitlines()[-1:], result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        ("collect.lanes=1",),
        ("collect.lanes=4", "collect.collectors=3", "collect.report_seconds=30.0", "collect.variables_seconds=30.0"),
        ("collect.lanes=16", "collect.collectors=2", "learner.publish_seconds=20.0"),
        ("collect.lanes=4", "replay.shards=1"),
        ("collect.lanes=4", "replay.prioritized=true", "agent.n_step=3", "replay.min_size=1000"),  # not one step more
    ],
)
def test_a_budget_of_environment_steps_is_kept_and_learned_from(tmp_path: Path, lines: tuple[str, ...]) -> None:
    run_dir = tmp_path / "run"
    result = train(run_dir, *SMALL, *lines)
    assert result.returncode == 0, result.stdout + result.stderr
    found, lanes = summary(run_dir), int(lines[0].partition("=")[2])
    assert found["stop_reason"] == "environment_steps"
    assert 1000 <= found["environment_steps"] < 1000 + lanes
    # Of the first min_size windows the limiter gives no more than its slack.
    assert found["gradient_steps"] > 0
    assert found["samples_per_insert"] >= 28.0 or "replay.min_size=1000" in lines, "the learner has caught up"
    assert (found["account"]["unaccounted"], found["account"]["lost"]) == (0, {})


def test_a_resume_of_a_run_in_one_process_takes_fewer_steps_than_it_has_lanes(tmp_path: Path) -> None:
    run_dir, lines = tmp_path / "run", (*SMALL, "collect.lanes=4", "learner.loop='plain'", "agent.hidden_units=[16]")
    assert inline(run_dir, *lines, "stop.environment_steps=400") == 0
    budget = summary(run_dir)["environment_steps"] + 2
    assert inline(run_dir, *lines, f"stop.environment_steps={budget}", resume=True) == 0
    found = summary(run_dir)
    assert found["stop_reason"] == "environment_steps"
    assert budget <= found["environment_steps"] < budget + 4


@pytest.mark.slow
def test_a_run_ends_with_the_evaluation_under_way_that_solves_its_task(tmp_path: Path) -> None:
    """The evaluator leaves with it, so that no other is waited for."""
    run_dir = tmp_path / "run"
    lines = ("environment.id=''", "environment.import_path='environments_that_fail:SlowlyEvaluated'")
    more = ("evaluation.kwargs.pause=0.2", "evaluation.every_steps=200", "stop.target_return=5", "collect.lanes=4")
    result = train(run_dir, *SMALL, *lines, *more)
    assert result.returncode == 0, result.stdout + result.stderr
    found = summary(run_dir)
    assert (found["solved"], found["stop_reason"]) == (True, "environment_steps")
    assert "in vain" not in result.stdout + result.stderr


@pytest.mark.slow
def test_a_task_without_an_end_has_a_result_and_a_policy_and_says_what_to_set(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    lines = ("stop.environment_steps=20_000", "collect.lanes=8", "evaluation.max_episode_steps=100")
    result = train(run_dir, *ENDLESS, *lines)
    assert result.returncode == 0, result.stdout + result.stderr
    found = summary(run_dir)
    assert found["mean_return"] is not None
    assert found["episodes"] == 0
    assert "environment.max_episode_steps" in found["message"]
    assert "no episode has ended in 8,000 environment steps" in result.stdout
    assert found["message"] in result.stdout
    code, printed, errors = policy_of(run_dir)
    assert code == 0, errors
    assert json.loads(printed[0])["unfinished"] == 1
    assert "had not ended after 100 steps" in errors


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "inline"])
def test_an_environment_of_which_one_can_exist_trains_without_evaluations(tmp_path: Path, launcher: str) -> None:
    run_dir = tmp_path / "run"
    lines = (
        *ENDLESS[:-1],
        "environment.import_path='environments_without_end:OnlyOne'",
        f"environment.kwargs.lock='{tmp_path / 'lock'}'",
        "collect.lanes=1",
        "evaluation.enabled=false",
        "stop.environment_steps=60_000",
        "stop.target_return=8.0",
        "exploration.epsilon_decay_steps=2000",
    )
    result = train(run_dir, *lines, flags=(f"--launcher={launcher}",))
    assert result.returncode == 0, result.stdout + result.stderr
    found = summary(run_dir)
    assert (found["stop_reason"], found["solved"]) == ("target_return", True)
    assert found["mean_return"] >= 8.0
    assert "mean training return" in result.stdout
    assert {path.name for path in (run_dir / "policies").iterdir()} == {"best", "latest"}
    code, printed, errors = policy_of(run_dir)
    assert code == 0, errors
    assert json.loads(printed[0])["episodes"] == 1


@pytest.mark.slow
def test_a_run_that_has_learned_nothing_says_so(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    sizes = ("replay.capacity=3_000_000", "replay.min_size=2_000_000")
    result = train(run_dir, *SMALL, "stop.environment_steps=0", "stop.seconds=0.2", *sizes)
    assert result.returncode == 3, result.stdout + result.stderr
    found = summary(run_dir)
    assert (found["stop_reason"], found["gradient_steps"]) == ("nothing_learned", 0)
    assert "replay.min_size=2,000,000" in found["message"]
    assert found["message"] in result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_resume_of_an_ended_run_changes_nothing_and_one_with_more_steps_goes_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert inline(run_dir, *SMALL) == 0
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    resumed = train(run_dir, *SMALL, flags=("--resume",))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "has reached its end (environment_steps)" in resumed.stdout
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    more = ("stop.environment_steps=1500", "evaluation.seed=7")
    resumed = train(run_dir, *SMALL, *more, flags=("--resume", "--launcher=inline"))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert 1500 <= summary(run_dir)["environment_steps"] < 1516
    assert "the best policy begins anew" in resumed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("change", ["size = 2", "actions = 3", 'dtype = "uint8"', "high = 255.0"])
def test_an_environment_that_no_longer_fits_a_policy_is_one_line(tmp_path: Path, change: str) -> None:
    run_dir = tmp_path / "run"
    assert inline(run_dir, *ENDLESS, "environment.kwargs.ends_at=5") == 0
    config = run_dir / "config.toml"
    config.write_text(config.read_text().replace("ends_at = 5", f"ends_at = 5\n{change}"))
    for module, *flags in (("evaluate",), ("play",), ("export", f"--out={tmp_path / 'out'}"), ("serve", "--port=0")):
        command = [sys.executable, "-m", f"pipeline.{module}", f"--run_dir={run_dir}", *flags]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment(), check=False, cwd=ROOT
        )
        assert result.returncode == 2, result.stdout + result.stderr
        lines = [line for line in result.stderr.splitlines() if "WARN" not in line]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: the environment does not fit the policy")
    assert not (tmp_path / "out").exists()
