"""Evaluations: fixed episodes, fairly counted; the best policy is kept."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import ROOT, SUPPORT
from environments_for_tests import episode_length, reward_of
from environments_that_fail import Unreliable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import ArraySpec, Specs
from pipeline import environments
from pipeline.acting import policy_files, stored_policies
from pipeline.acting.policy_files import Policy
from pipeline.evaluator.evaluator import Evaluator, GreedyRunner
from pipeline.evaluator.training_judge import TrainingJudge
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array, Variables


@pytest.fixture
def policy_of(publish: Callable[..., Variables]) -> Callable[..., Policy]:
    """A policy that prefers one action."""

    def make(specs: Specs, prefers: int = 0) -> Policy:
        variables = publish(specs, prefers)
        return Policy(variables.program, variables.weights, 0, 0, 0.0)

    return make


def episode_return(lane: int, episode: int, action: int) -> float:
    return sum(reward_of(lane, episode, step, action) for step in range(episode_length(lane, episode)))


@pytest.mark.parametrize("episodes", [1, 5, 64, 70, 200])
def test_every_lane_plays_its_share_of_episodes(
    make_experiment: Any, counting_specs: Specs, policy_of: Any, episodes: int
) -> None:
    policy = policy_of(counting_specs, prefers=2)
    runner = GreedyRunner(make_experiment(), counting_specs, policy, episodes)
    returns, lengths, *_ = runner.run(policy, 0)
    runner.close()
    lanes = min(episodes, 64)
    # Taking the first episodes to end, whoever played them, would give more short ones.
    played = [(lane, episode) for lane in range(lanes) for episode in range((episodes - lane - 1) // lanes + 1)]
    assert len(played) == episodes
    assert sorted(lengths) == sorted(episode_length(*one) for one in played)
    assert sorted(returns) == sorted(episode_return(*one, action=2) for one in played)


@pytest.mark.parametrize("environment_id", ["NoisyForTests-v0", "CartPole-v1", "Acrobot-v1"])
def test_the_same_seed_and_weights_play_the_same_episodes(
    make_experiment: Any, policy_of: Any, environment_id: str
) -> None:
    experiment = make_experiment(
        f"environment.id='{environment_id}'", "environment.import_path='environments_for_tests'"
    )
    specs = environments.describe(experiment.environment)
    policies_ = [policy_of(specs, 0), policy_of(specs, 1)]
    runners = [GreedyRunner(experiment, specs, policies_[0], 7) for _ in range(2)]
    first = runners[0].run(policies_[0], 5)
    runners[0].run(policies_[1], 5)
    assert runners[0].run(policies_[0], 5) == first
    assert runners[1].run(policies_[0], 5) == first
    if environment_id != "Acrobot-v1":  # there a constant action never ends an episode early
        assert runners[0].run(policies_[0], 6) != first
    for runner in runners:
        runner.close()


def test_greedy_actions_keep_to_the_mask(make_experiment: Any, policy_of: Any) -> None:
    experiment = make_experiment("environment.import_path='environments_for_tests:Masked'")
    specs = environments.describe(experiment.environment)
    policy = policy_of(specs, prefers=2)
    runner = GreedyRunner(experiment, specs, policy, 10)
    returns = runner.run(policy, 0).returns  # a forbidden action would raise
    runner.close()
    assert len(returns) == 10


def test_with_epsilon_some_actions_are_drawn_the_same_ones_for_a_seed(
    make_experiment: Any, counting_specs: Specs, policy_of: Any
) -> None:
    """Of `Counting` the reward tells the action: 0.25 for each of its numbers."""
    policy = policy_of(counting_specs, prefers=2)

    def returns(epsilon: float, seed: int = 0) -> list[float]:
        runner = GreedyRunner(make_experiment(f"evaluation.epsilon={epsilon}"), counting_specs, policy, 400)
        found = runner.run(policy, seed).returns
        runner.close()
        return found

    greedy, half, uniform = (np.sum(returns(epsilon)) for epsilon in (0.0, 0.5, 1.0))
    assert half == pytest.approx((greedy + uniform) / 2, rel=0.02)
    assert uniform < greedy
    assert returns(0.5) == returns(0.5)
    assert returns(0.5) != returns(0.5, seed=1_000)


def test_evaluations_have_arguments_of_their_own(make_experiment: Any, policy_of: Any) -> None:
    """A held-out period is an argument of the environment that training does not have."""
    lines = (
        'environment.id="FrozenLake-v1"',
        'environment.import_path=""',
        "environment.kwargs.is_slippery=false",
        'environment.kwargs.map_name="4x4"',
        "environment.max_episode_steps=3",
    )
    held_out = make_experiment(*lines, "evaluation.kwargs.success_rate=0.5", "evaluation.kwargs.is_slippery=true")
    assert held_out.environment.kwargs == {"is_slippery": False, "map_name": "4x4"}
    assert held_out.evaluation_environment.kwargs == {"is_slippery": True, "map_name": "4x4", "success_rate": 0.5}
    specs = environments.describe(held_out.environment)
    policy = policy_of(specs, prefers=0)
    runner = GreedyRunner(held_out, specs, policy, 2)
    assert runner.environment.vector.envs[0].spec.kwargs["success_rate"] == 0.5
    runner.close()


@pytest.fixture
def evaluate(make_experiment: Any, counting_specs: Specs, publish: Any, tmp_path: Path) -> Callable[..., Any]:
    """Evaluates a publication, by an evaluator of `tmp_path` unless one is given."""

    def run(prefers: int, gradient_steps: int, evaluator: Evaluator | None = None) -> Any:
        evaluator = evaluator or Evaluator(make_experiment("evaluation.episodes=6"), counting_specs, tmp_path)
        return evaluator.evaluate(publish(counting_specs, prefers, gradient_steps, 10 * gradient_steps))

    return run


def test_an_evaluation_describes_its_episodes(
    make_experiment: Any, counting_specs: Specs, policy_of: Any, evaluate: Any
) -> None:
    evaluation = evaluate(prefers=1, gradient_steps=3)
    policy = policy_of(counting_specs, 1)
    runner = GreedyRunner(make_experiment(), counting_specs, policy, 6)
    returns, lengths, _, (worst_value, best_value), *_ = runner.run(policy, make_experiment().evaluation.seed)
    runner.close()
    assert evaluation.mean_return == pytest.approx(np.mean(returns))
    assert evaluation.std_return == pytest.approx(np.std(returns))
    assert (evaluation.min_return, evaluation.max_return) == (min(returns), max(returns))
    assert evaluation.mean_length == pytest.approx(np.mean(lengths))
    assert (evaluation.episodes, evaluation.gradient_steps, evaluation.environment_steps) == (6, 3, 30)
    assert evaluation.best_value == best_value != 0.0
    assert evaluation.worst_value == worst_value <= best_value
    assert evaluation.is_best
    assert evaluation.seconds > 0


def test_the_best_and_the_latest_policies_are_kept(
    make_experiment: Any, counting_specs: Specs, evaluate: Any, tmp_path: Path
) -> None:
    evaluator = Evaluator(make_experiment("evaluation.episodes=6"), counting_specs, tmp_path)
    assert [evaluate(prefers, version, evaluator).is_best for version, prefers in enumerate((1, 0, 2, 2, 1), 1)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    best, latest = stored_policies.load(tmp_path / "best"), stored_policies.load(tmp_path / "latest")
    assert (best.gradient_steps, best.environment_steps) == (3, 30)
    assert latest.gradient_steps == 5
    assert best.mean_return > latest.mean_return
    assert best.weights[-1].numpy().argmax() == 2
    assert latest.weights[-1].numpy().argmax() == 1


def test_a_resumed_run_keeps_its_best_policy(evaluate: Any, tmp_path: Path) -> None:
    assert evaluate(2, 1).is_best
    assert not evaluate(1, 2).is_best  # by a new evaluator of the same folder
    assert stored_policies.load(tmp_path / "best").gradient_steps == 1
    assert stored_policies.load(tmp_path / "latest").gradient_steps == 2


def test_a_damaged_best_policy_is_replaced_with_a_word(
    evaluate: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert evaluate(2, 1).is_best
    assert not caplog.records
    (tmp_path / "best" / "policy.msgpack").write_bytes(b"damaged")
    assert evaluate(1, 2).is_best
    (text,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert text.startswith("policies/best begins anew: ")
    assert "is damaged" in text


def test_evaluations_are_due_at_multiples_of_the_interval(
    make_experiment: Any, counting_specs: Specs, publish: Any, tmp_path: Path
) -> None:
    experiment: Experiment = make_experiment("evaluation.every_steps=100", "evaluation.episodes=2")
    evaluator = Evaluator(experiment, counting_specs, tmp_path)

    def is_due(gradient_steps: int, environment_steps: int) -> bool:
        return evaluator.is_due(publish(counting_specs, 0, gradient_steps, environment_steps))

    assert not is_due(0, 500)  # nothing has been learned
    assert not is_due(1, 99)
    assert is_due(1, 100)
    evaluator.evaluate(publish(counting_specs, 0, 7, 130))
    assert not is_due(7, 250)  # these weights have been evaluated
    assert not is_due(8, 199)
    assert is_due(8, 200)
    evaluator.evaluate(publish(counting_specs, 0, 8, 460))
    assert not is_due(9, 499)
    assert is_due(9, 500)


def test_a_solved_run_ends_with_the_policy_that_solved_it(
    make_experiment: Any, counting_specs: Specs, publish: Any, tmp_path: Path
) -> None:
    for target, is_solved in ((-1e9, True), (1e9, False)):
        experiment = make_experiment(
            f"stop.target_return={target}", "evaluation.episodes=2", "evaluation.every_steps=100"
        )
        evaluator = Evaluator(experiment, counting_specs, tmp_path)
        evaluator.evaluate(publish(counting_specs, 0, 7, 130))
        assert evaluator.is_due(publish(counting_specs, 0, 8, 250)) != is_solved
        assert stored_policies.load(tmp_path / "latest").gradient_steps == 7


def test_a_stopping_run_evaluates_its_last_weights_once_where_asked(
    make_experiment: Any, counting_specs: Specs, publish: Any, tmp_path: Path
) -> None:
    evaluator = Evaluator(make_experiment("evaluation.episodes=2"), counting_specs, tmp_path)
    running = publish(counting_specs, 0, 5, 1)
    last = msgspec.structs.replace(running, stopping=True, evaluate_last=True)
    assert not evaluator.is_due(running)
    assert evaluator.is_due(last)
    assert not evaluator.is_due(msgspec.structs.replace(running, stopping=True, environment_steps=10**6))
    evaluator.evaluate(last)
    assert not evaluator.is_due(last)


def test_policies_are_saved_and_loaded(tmp_path: Path) -> None:
    policy = Policy(b"program", (Array.of(np.ones((2, 3), np.float32)),), 1, 2, -3.5)
    policy_files.save(policy, tmp_path / "best")
    policy_files.save(msgspec.structs.replace(policy, gradient_steps=9), tmp_path / "best")
    assert stored_policies.load(tmp_path / "best") == msgspec.structs.replace(policy, gradient_steps=9)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["policy.msgpack"]


def test_a_missing_policy_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no policy in .*evaluation"):
        stored_policies.load(tmp_path / "best")


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\x81\xa1a\x01", msgspec.msgpack.encode([1, 2])], ids=repr)
def test_a_file_that_is_no_policy_is_a_users_mistake(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "policy.msgpack").write_bytes(content)
    with pytest.raises(UsageError, match=r"policy\.msgpack is damaged, or no policy"):
        stored_policies.load(tmp_path)


def test_a_cut_off_policy_is_a_users_mistake(tmp_path: Path) -> None:
    policy_files.save(Policy(b"program" * 100, (), 1, 2, 3.0), tmp_path)
    path = tmp_path / "policy.msgpack"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match="is damaged, or no policy"):
        stored_policies.load(tmp_path)


# Faults


def unreliable(make_experiment: Any, chance: float, share: float, calm: int = 0) -> Experiment:
    """An experiment on `Unreliable`."""
    experiment: Experiment = make_experiment(
        "environment.import_path='environments_that_fail:Unreliable'",
        f"environment.kwargs={{kinds=['raises', 'nan', 'nan_reward', 'shape'], chance={chance}, calm={calm}}}",
        f"collect.faulty_episodes={share}",
        "evaluation.episodes=9",
    )
    return experiment


def test_an_evaluation_plays_another_episode_for_each_dropped(make_experiment: Any, policy_of: Any) -> None:
    experiment = unreliable(make_experiment, 0.1, 1.0)
    specs = environments.describe(experiment.environment)
    policy = policy_of(specs)
    runner = GreedyRunner(experiment, specs, policy, 9)
    Unreliable.forget()
    first = runner.run(policy, 3)
    assert Unreliable.faults > 3
    assert len(first.returns) == len(first.lengths) == 9
    assert sum(first.lengths) <= len(Unreliable.taken)
    assert min(first.lengths) >= 1
    assert runner.run(policy, 3).lengths == first.lengths, "faults and what follows them are seeded, too"
    runner.close()


def test_an_evaluation_of_too_many_faults_has_no_result_and_the_next_one_is_made(
    make_experiment: Any, publish: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = unreliable(make_experiment, 1.0, 0.002, calm=3)
    specs = environments.describe(experiment.environment)
    evaluator = Evaluator(experiment, specs, tmp_path)
    publications = [publish(specs, 0, version, 10_000 * version) for version in (1, 2)]
    assert evaluator.is_due(publications[0])
    with caplog.at_level(logging.ERROR):
        assert evaluator.evaluate(publications[0]) is None
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert error.startswith("no evaluation of gradient step 1: environment 'Unreliable', lane ")
    assert "faulty episodes: 3 of the last" in error
    assert not evaluator.is_due(publications[0]), "these weights would meet the same faults"
    assert evaluator.is_due(publications[1])
    assert evaluator.evaluate(publications[1]) is None
    assert not list(tmp_path.iterdir())


def test_the_command_says_in_one_line_that_faults_left_no_result(
    make_experiment: Any, policy_of: Any, tmp_path: Path
) -> None:
    experiment = unreliable(make_experiment, 1.0, 0.002, calm=3)
    run = RunDirectory(tmp_path / "run")
    run.create(experiment)
    policy_files.save(policy_of(environments.describe(experiment.environment)), run.policies / "best")
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.evaluate", f"--run_dir={run.path}", "--episodes=4"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"},
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "'Unreliable', lane " in line
    assert "faulty episodes" in line
    assert "Traceback" not in result.stderr


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends_at=st.integers(0, 40), limit=st.integers(1, 40), episodes=st.integers(1, 70))
def test_an_episode_that_does_not_end_is_scored_as_it_stands(
    make_experiment: Any, policy_of: Any, ends_at: int, limit: int, episodes: int
) -> None:
    lines = ("environment.import_path='environments_without_end:Endless'", f"environment.kwargs.ends_at={ends_at}")
    experiment = make_experiment(*lines, f"evaluation.max_episode_steps={limit}")
    specs = Specs(ArraySpec((1,), "float32"), 2)
    policy = policy_of(specs, prefers=1)
    runner = GreedyRunner(experiment, specs, policy, episodes)
    played, again = runner.run(policy, 3), runner.run(policy, 3)
    runner.close()
    assert played == again
    assert played.is_whole, "evaluations by the same limit compare"
    assert played.returns == [float(length) for length in played.lengths]
    if 0 < ends_at <= limit:
        assert played.returns == [ends_at] * episodes
        assert not played.unfinished
    else:  # a lane that has met the limit plays no other episode
        assert played.unfinished == len(played.returns) == min(episodes, 64)
        assert set(played.lengths) == {limit}


def test_the_environments_own_limit_is_not_undercut(make_experiment: Any, policy_of: Any) -> None:
    experiment = make_experiment(
        "environment.id='NoEndForTests-v0'",
        "environment.import_path='environments_without_end'",
        "evaluation.max_episode_steps=5",
    )
    specs = environments.describe(experiment.environment)
    policy = policy_of(specs, prefers=1)
    played = GreedyRunner(experiment, specs, policy, 3).run(policy, 0)
    assert (played.returns, played.unfinished) == ([30.0] * 3, 0)


@pytest.mark.parametrize("after", [0, 1, 17])
def test_an_evaluation_that_the_end_of_a_run_cuts_short_is_scored_and_compared_with_none(
    tmp_path: Path, make_experiment: Any, publish: Any, after: int
) -> None:
    lines = ("environment.import_path='environments_without_end:Endless'", "evaluation.episodes=4")
    experiment = make_experiment(*lines, "evaluation.every_steps=1", "stop.target_return=2.0")
    specs = Specs(ArraySpec((1,), "float32"), 2)
    evaluator = Evaluator(experiment, specs, tmp_path)
    asked = iter(range(1000))
    cut = evaluator.evaluate(publish(specs, 1, 1, 1), lambda: next(asked) >= after)
    assert cut is not None
    assert (cut.unfinished, cut.is_whole, cut.mean_return) == (4, False, max(1, after))
    assert cut.is_best, "it is better than nothing"
    assert evaluator.is_due(publish(specs, 1, 2, 2)), "a target is not reached by what was cut short"
    whole = Evaluator(make_experiment(*lines, "evaluation.max_episode_steps=3"), specs, tmp_path / "other")
    assert whole.evaluate(publish(specs, 0, 1, 1)).is_best  # type: ignore[union-attr]
    late = whole.evaluate(publish(specs, 1, 2, 2), lambda: True)
    assert late is not None
    assert (late.mean_return, late.is_best) == (1.0, False)
    assert stored_policies.load(tmp_path / "other" / "best").gradient_steps == 1
    assert stored_policies.load(tmp_path / "other" / "latest").gradient_steps == 2


def test_training_episodes_judge_weights_where_no_evaluation_does(
    tmp_path: Path, make_experiment: Any, publish: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment("evaluation.episodes=0", "evaluation.every_steps=10", "stop.target_return=4.0")
    assert not experiment.evaluates
    judge = TrainingJudge(experiment, tmp_path)
    assert not judge.is_due_at(100, 0), "no gradient step"
    assert judge.is_due_at(10, 1)
    assert judge.judge(publish(counting_specs, 0, 1, 10), [9.0] * 19, [1] * 19) is None, "too few"
    first = judge.judge(publish(counting_specs, 0, 2, 10), [1.0, 3.0] * 10, [2, 4] * 10)
    assert first is not None
    assert (first.mean_return, first.mean_length, first.episodes, first.is_best) == (2.0, 3.0, 20, True)
    assert not judge.is_due_at(19, 9)
    worse = judge.judge(publish(counting_specs, 0, 3, 20), [1.0] * 50, [1] * 50)
    assert worse is not None
    assert not worse.is_best
    few = judge.judge(publish(counting_specs, 0, 4, 25), [99.0], [1], is_last=True)
    assert few is not None
    assert (few.is_best, few.is_whole) == (False, False)
    judge.judge(publish(counting_specs, 0, 5, 30), [4.0] * 100, [1] * 100)
    assert not judge.is_due_at(1000, 6), "solved"
    assert stored_policies.load(tmp_path / "best").gradient_steps == 5
