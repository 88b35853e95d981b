"""Shields: what they forbid is never sent to an environment, whoever acts, and is counted where it mattered."""

from collections.abc import Callable
from typing import Any

import environments_guarded
import numpy as np
import pytest
from environments_guarded import ACTIONS, GuardedLanes, allowed

from agents import Specs
from pipeline import environments
from pipeline.acting.policy_files import Policy
from pipeline.collector.collector import Collector
from pipeline.environments import EnvironmentFault, ShieldFault
from pipeline.environments.lanes.contract import ForbiddenAction
from pipeline.evaluator.evaluator import GreedyRunner
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig, Experiment

MakeExperiment = Callable[..., Experiment]


def config_of(shield: str = "allowed", masked: bool = False) -> EnvironmentConfig:
    name = "GuardedAndMaskedForTests-v0" if masked else "GuardedForTests-v0"
    return EnvironmentConfig(
        id=name, import_path="environments_guarded", shield=f"environments_guarded:{shield}" if shield else ""
    )


@pytest.fixture
def guarded(make_experiment: MakeExperiment) -> Callable[..., Experiment]:
    def make(*overrides: str, masked: bool = False) -> Experiment:
        config = config_of(masked=masked)
        return make_experiment(
            "environment.import_path='environments_guarded'",
            f"environment.id='{config.id}'",
            "environment.shield='environments_guarded:allowed'",
            "collect.lanes=64",
            "learner.batch_size=64",
            "replay.steps_per_item=8",
            "replay.min_size=512",
            "learner.steps_per_call=8",
            *overrides,
        )

    return make


@pytest.mark.parametrize("steps", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("strategy", "masked"),
    [("epsilon_greedy", False), ("epsilon_greedy", True), ("boltzmann", False), ("boltzmann", True)],
)
def test_no_collector_takes_a_forbidden_action_in_many_steps(
    guarded: Any, serve: Any, publish: Any, strategy: str, masked: bool, steps: int
) -> None:
    """The environment itself counts them, so that neither the gate nor our own mask is taken at its word."""
    experiment = guarded(f"exploration.strategy='{strategy}'", "exploration.epsilon_final=0.3", masked=masked)
    specs = environments.describe(experiment.environment)
    server = serve(experiment, specs)
    collector = Collector(experiment, specs, 0, "p", server.address, publish(specs, prefers=2))
    GuardedLanes.violations = GuardedLanes.taken = 0
    while collector.environment_steps < steps // 4:
        collector.step()
        collector.confirm(lambda: True)
    report = collector.report(publish(specs), last=True)
    collector.close()
    assert GuardedLanes.taken == report.environment_steps
    assert GuardedLanes.violations == 0
    # Action 2 is always the best, and forbidden where its digit is odd and not the largest.
    assert 0.2 < report.shielded_steps / report.environment_steps < 0.5


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_no_evaluation_takes_a_forbidden_action(guarded: Any, publish: Any, epsilon: float) -> None:
    experiment = guarded(f"evaluation.epsilon={epsilon}")
    specs = environments.describe(experiment.environment)
    variables = publish(specs, prefers=2)
    policy = Policy(variables.program, variables.weights, 0, 0, 0.0)
    GuardedLanes.violations = GuardedLanes.taken = 0
    played = GreedyRunner(experiment, specs, policy, 64).run(policy, 0)
    assert GuardedLanes.taken > 0
    assert GuardedLanes.violations == 0
    assert 0.2 < played.shielded_share < 0.5


def test_a_shield_that_allows_all_never_steps_in(guarded: Any, publish: Any) -> None:
    experiment = guarded("environment.shield='environments_guarded:everything'")
    specs = environments.describe(experiment.environment)
    variables = publish(specs, prefers=2)
    policy = Policy(variables.program, variables.weights, 0, 0, 0.0)
    assert GreedyRunner(experiment, specs, policy, 8).run(policy, 0).shielded_share == 0.0


def test_frames_hold_what_the_shield_allows() -> None:
    environment = environments.make(config_of(), 3)
    assert environments.describe(config_of()).masked
    seen = environment.reset(0)
    np.testing.assert_array_equal(seen.mask, allowed(seen.observation[""]))


def test_shield_and_mask_hold_together() -> None:
    environment = environments.make(config_of(masked=True), 32)
    seen = environment.reset(0)
    only = allowed(seen.observation[""])
    assert seen.mask is not None
    assert not (seen.mask & ~only).any()
    assert not seen.mask[only.sum(axis=1) > 1, 1].any()


def test_it_steps_in_where_the_best_action_is_its_to_forbid() -> None:
    """What the environment's own mask forbids is none of the shield's doing."""
    environment = environments.make(config_of(masked=True), 64)
    seen = environment.reset(0)
    own = np.ones((64, ACTIONS), np.bool_)
    shielded = allowed(seen.observation[""])
    own[:, 1] = shielded.sum(axis=1) == 1
    scores = np.random.default_rng(0).random((64, ACTIONS), np.float32)
    best = np.where(own, scores, -1.0).argmax(axis=1)
    assert environment.overruled(scores) == (~shielded[np.arange(64), best]).sum()


def test_a_forbidden_action_is_refused_before_the_environment_sees_it() -> None:
    environment = environments.make(config_of(), 4)
    seen = environment.reset(0)
    assert seen.mask is not None
    actions = seen.mask.argmax(axis=1)
    lane = int(np.flatnonzero(~seen.mask.all(axis=1))[0])
    actions[lane] = int(np.flatnonzero(~seen.mask[lane])[0])
    GuardedLanes.taken = 0
    with pytest.raises(ForbiddenAction, match=f"lane {lane}, step 1: action {actions[lane]} is forbidden"):
        environment.step(actions)
    assert GuardedLanes.taken == 0


@pytest.mark.parametrize(
    ("shield", "message"),
    [("nothing_on_heights", "the shield leaves no action"), ("one_lane_short", r"bool \(64, 5\) is wanted")],
)
def test_a_wrong_shield_is_a_fault_of_a_step(shield: str, message: str) -> None:
    environment = environments.make(config_of(shield), 64)
    with pytest.raises(EnvironmentFault, match=message):
        environment.reset(0)


@pytest.mark.parametrize(
    ("shield", "message"),
    [
        ("environments_guarded", "names no function"),
        ("environments_guarded:missing", "cannot be imported"),
        ("no_such_module:allowed", "cannot be imported"),
        ("environments_guarded:ACTIONS", "is no function but int"),
    ],
)
def test_a_shield_that_is_none_is_a_users_mistake(shield: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        environments.make(EnvironmentConfig(id="CartPole-v1", shield=shield), 1)


def test_a_shield_sees_the_parts_of_an_observation_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watch(observation: Any) -> Any:
        seen.append(observation)
        return np.ones((2, 38), np.bool_)

    monkeypatch.setattr(environments_guarded, "watch", watch, raising=False)
    config = EnvironmentConfig(id="Blackjack-v1", shield="environments_guarded:watch")
    environment = environments.make(config, 2)
    with pytest.raises(EnvironmentFault, match=r"bool \(2, 2\) is wanted"):
        environment.reset(0)
    assert set(seen[0]) == {"0", "1", "2"}


def test_without_a_shield_nothing_is_masked() -> None:
    assert environments.describe(config_of("")) == Specs(environments.describe(config_of()).observation, ACTIONS)


def test_what_a_shield_raises_is_a_fault_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments_guarded, "broken", lambda _: 1 / 0, raising=False)
    with pytest.raises(EnvironmentFault, match=r"the shield raised ZeroDivisionError"):
        environments.make(config_of("broken"), 2).reset(0)


def test_a_shield_that_fails_is_never_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10))

    def fails_late(observation: Any) -> Any:
        if next(calls) == 3:
            raise RuntimeError("lost sight")
        return np.ones((len(observation), ACTIONS), np.bool_)

    monkeypatch.setattr(environments_guarded, "fails_late", fails_late, raising=False)
    environment = environments.make(config_of("fails_late"), 2, faulty_episodes=1.0)
    seen = environment.reset(0)
    for _ in range(2):
        assert seen.mask is not None
        seen = environment.step(seen.mask.argmax(axis=1))
    with pytest.raises(ShieldFault, match=r"step 3: the shield raised RuntimeError\('lost sight'\)"):
        environment.step(np.zeros(2, np.int64))
    assert environment.faults.dropped_episodes == 0
