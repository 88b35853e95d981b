"""Every shipped config, as it is but for its budgets: what it asks for is there, its run leaves what it should."""

import json
from pathlib import Path

import pytest
from small_runs import SHRUNK, TAGS, inline, summary, tags_of, train

from pipeline.environments import suite_of
from pipeline.experiment.config import load, shipped
from pipeline.launchers import describe

# Episodes that come to an end: few gradient steps for a step, and a limit for the classic problems' 500 steps.
REPLAYED = (
    "replay.samples_per_insert=4",
    "replay.capacity=20_000",
    "stop.gradient_steps=200",
    "environment.max_episode_steps=100",
)
ON_POLICY = ("learner.steps_per_call=1", "stop.gradient_steps=20")
SUITES = {
    "atari": (*REPLAYED, "environment.max_episode_steps=40"),
    "box2d": (*REPLAYED, "environment.max_episode_steps=100"),
    "driving": ("stop.gradient_steps=80", "environment.max_episode_steps=8"),  # a step of a car takes 20 ms
    "minatar": (*REPLAYED, "environment.max_episode_steps=60"),
}
IMAGES = ("stop.gradient_steps=40", "agent.hidden_units=[16]", "collect.collectors=1")
"""Of stacks of them: a gradient step of their network takes 30 ms, and a second collector might come too late."""
SMALL_IMPALA = ("agent.torso_width=1", "learner.batch_size=8", "collect.lanes=4", "stop.gradient_steps=16")
ENSEMBLE = ("stop.gradient_steps=100",)
PRIORITY_TAGS = {
    f"priority/{name}"
    for name in ("mean", "maximum", "of_new_items", "importance_exponent", "skipped_items", "unjudged_share")
}
LEARNING = [name for name in shipped() if not load(name).is_offline]
IN_PROCESSES = ("atari", "cartpole_memory", "cartpole_ppo", "highway", "lunarlander", "minatar_breakout", "trading")
"""One of each suite and of each way in which experience travels; CartPole's own run is in test_runs.py."""


def fitting(config: str) -> tuple[str, ...]:
    """What makes a config's run short."""
    experiment = load(config)
    suite = suite_of(experiment.environment.id)
    if experiment.agent.on_policy:
        return ON_POLICY
    images = IMAGES if experiment.environment.frame_stack > 1 else ()
    if getattr(experiment.agent, "image_torso", "") == "impala":
        images = (*images, *SMALL_IMPALA)
    ensemble = ENSEMBLE if experiment.agent.kind == "boot_dqn" else ()
    return *(SUITES.get(suite.extra, REPLAYED) if suite else REPLAYED), *images, *ensemble


@pytest.mark.parametrize("config", LEARNING)
def test_an_agent_can_learn_from_what_the_environment_of_a_config_shows(config: str) -> None:
    describe(load(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "launcher"), [(name, "local" if name in IN_PROCESSES else "inline") for name in LEARNING]
)
def test_every_shipped_config_runs_and_leaves_what_it_should(config: str, launcher: str, tmp_path: Path) -> None:
    run_dir, experiment, lines = tmp_path / "run", load(config), (*SHRUNK, *fitting(config))
    if launcher == "inline":
        assert inline(run_dir, *lines, config=config) == 0
    else:
        result = train(run_dir, *lines, config=config)
        assert result.returncode == 0, result.stdout + result.stderr
    found = summary(run_dir)
    assert found["stop_reason"] == "gradient_steps"
    assert found["gradient_steps"] >= load(config, lines).stop.gradient_steps
    assert found["account"]["stored"] >= 128
    assert found["episodes"] > 0
    assert found["mean_return"] is not None, "the last weights are evaluated"
    tags = tags_of(run_dir / "tensorboard")
    for role in TAGS if launcher == "local" else ("learner", "evaluator"):
        assert tags >= TAGS[role]
    assert experiment.replay.prioritized == (tags >= PRIORITY_TAGS)
    assert (run_dir / "policies" / "best" / "policy.msgpack").is_file()
    assert list((run_dir / "checkpoints").glob("0*/manifest.json"))


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
@pytest.mark.parametrize("config", [name for name in shipped() if load(name).is_offline])
def test_every_shipped_offline_config_learns_from_the_run_of_another(
    config: str, trained: Path, tmp_path: Path
) -> None:
    run_dir, dataset = tmp_path / "run", f"offline.dataset={json.dumps(str(trained))}"
    result = train(run_dir, *SHRUNK, dataset, "evaluation.every_steps=100", config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "400 gradient steps" in result.stdout
    assert summary(run_dir)["mean_return"] is not None
    tags = tags_of(run_dir / "tensorboard")
    assert tags >= TAGS["learner"]
    assert not tags & {"episode/return", "exploration/epsilon"}
