"""That runs learn: they fail if learning breaks."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from waiting import SECONDS

import pipeline
from agents import BUILDERS
from agents.configs.value import DeepConfig
from pipeline.experiment.config import parse

LOCK = (
    'environment.id=""',
    'environment.import_path="environments_to_solve:CombinationLock"',
    "agent.learning_rate=1e-3",
    "collect.lanes=8",
    "replay.min_size=256",
    "replay.samples_per_insert=64",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "exploration.epsilon_decay_steps=4000",
    "evaluation.episodes=1",
    "evaluation.every_steps=500",
    "stop.target_return=6.0",
    "stop.environment_steps=30000",
)


CATCH = (
    'environment.import_path="environments_to_solve:Catch"',
    "collect.lanes=8",
    "evaluation.episodes=40",
    "evaluation.every_steps=1000",
    "stop.target_return=1.0",
    "stop.environment_steps=60_000",
)
BY_REPLAY = (
    "replay.min_size=256",
    "replay.samples_per_insert=64",
    "learner.batch_size=32",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "exploration.epsilon_decay_steps=4000",
)
BY_QUEUE = (
    'exploration.strategy="boltzmann"',
    "replay.samples_per_insert=1",
    "learner.batch_size=8",
    "learner.steps_per_call=1",
    'learner.loop="plain"',
    "agent.rollout=24",
    "agent.learning_rate=5e-3",
)
BY_EPSILON = ('exploration.strategy="epsilon_greedy"', "exploration.epsilon_decay_steps=4000")
DEEP = ("agent.hidden_units=[32]", "agent.learning_rate=2e-3", "agent.n_step=3", "agent.target_update_period=50")
SPANNED = ("agent.v_min=-1.0", "agent.v_max=1.0")
OWN = {
    "c51": ('agent.v_min="auto"', 'agent.v_max="auto"'),
    "rainbow": (*SPANNED, "agent.num_atoms=11", 'exploration.strategy="greedy"', "replay.prioritized=true"),
    "qr_dqn": ("agent.num_quantiles=8",),
    "iqn": ("agent.quantile_samples=8", "agent.target_quantile_samples=8"),
    "boot_dqn": ("agent.heads=5", "agent.prior_scale=1.0", 'exploration.strategy="greedy"'),
    "r2d2": ("agent.lstm_units=16", "agent.burn_in=2", "agent.sequence=6", "agent.period=3"),
    "q_learning": ("agent.learning_rate=0.3",),
    "ppo": ("agent.minibatches=2",),
    "pqn": (*BY_EPSILON, "agent.minibatches=2"),
}
"""What a kind is given beside what all of its sort have, if anything."""


def settings_of(kind: str) -> tuple[str, ...]:
    """With which a kind learns to catch."""
    config = BUILDERS[kind].config()
    by_sort = BY_QUEUE if config.on_policy else (*BY_REPLAY, *(DEEP if isinstance(config, DeepConfig) else ()))
    return (*by_sort, *OWN.get(kind, ()))


KINDS = {kind: settings_of(kind) for kind, builder in BUILDERS.items() if not builder.config().offline_only}


def catch(kind: str, *lines: str) -> pipeline.Experiment:
    return parse('environment.id=""', (f'agent.kind="{kind}"', *CATCH, *lines))


DIVES = {
    "by heads": ("agent.heads=10", "stop.environment_steps=6000"),
    "by chance": (
        "agent.heads=1",
        "agent.prior_scale=0",
        'exploration.strategy="epsilon_greedy"',
        "exploration.epsilon_initial=0.1",
        "exploration.epsilon_final=0.1",
        "stop.environment_steps=2000",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", DIVES)
def test_an_ensemble_dives_where_chance_does_not(how: str, tmp_path: Path) -> None:
    small = ("agent.hidden_units=[32]", "learner.batch_size=32", "replay.samples_per_insert=32", 'learner.loop="plain"')
    sets = ("environment.kwargs.size=10", *small, *DIVES[how])
    found = pipeline.train(pipeline.load("deep_sea", sets), tmp_path / "run", launcher="inline")
    assert found.solved == (how == "by heads")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_learns_to_catch_within_60_000_steps(tmp_path: Path, kind: str) -> None:
    summary = pipeline.train(catch(kind, *KINDS[kind]), tmp_path / "run", launcher="inline")
    assert summary.solved, summary


@pytest.mark.slow
def test_imitation_catches_as_well_as_what_it_imitates(tmp_path: Path) -> None:
    # The replay holds the last 2,000 of the steps of a run that had solved the problem by then.
    lines = (*KINDS["dqn"], "replay.capacity=2000", "exploration.epsilon_final=0.1", "stop.environment_steps=10_000")
    demonstrator = catch("dqn", *lines, "stop.target_return=2.0")
    assert pipeline.train(demonstrator, tmp_path / "source", launcher="inline").mean_return > 0.9
    cloning = catch(
        "behaviour_cloning", f"offline.dataset={json.dumps(str(tmp_path / 'source'))}", "stop.gradient_steps=20_000"
    )
    assert pipeline.train(cloning, tmp_path / "run", launcher="inline").solved


@pytest.mark.parametrize(
    "variant",
    [(), pytest.param(("agent.n_step=3", "agent.dueling=true", "agent.double=false"), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_optimal_return_is_reached(tmp_path: Path, variant: tuple[str, ...]) -> None:
    summary = pipeline.train(pipeline.load("cartpole", (*LOCK, *variant)), tmp_path / "run", launcher="inline")
    assert summary.solved
    assert summary.mean_return == 6.0
    assert summary.stop_reason == "target_return"


@pytest.mark.slow
def test_cartpole_is_solved_in_parallel(tmp_path: Path) -> None:
    # One run in ten takes over 80,000 environment steps: twice the usual budget leaves nothing to luck.
    experiment = pipeline.load("cartpole", ("stop.environment_steps=240_000",))
    summary = pipeline.train(experiment, tmp_path / "run")
    assert summary.solved
    assert summary.mean_return is not None
    assert summary.mean_return >= 475.0
    # The learner may lag by what waits between the two: unconfirmed and queued items, the limiter's slack, what is
    # collected while the run ends. Together these were 4,900 to 9,800 environment steps, however long the run was.
    used = summary.samples_per_insert / experiment.replay.samples_per_insert * summary.environment_steps
    assert used == pytest.approx(summary.environment_steps, abs=20_000)
    assert summary.lost_transitions == 0


def test_a_run_within_a_program_leaves_no_thread_behind(tmp_path: Path) -> None:
    threads = []
    for name in ("first", "second"):
        pipeline.train(pipeline.load("cartpole", (*LOCK, "stop.gradient_steps=80")), tmp_path / name, launcher="inline")
        assert [thread.name for thread in threading.enumerate() if thread.name in ("samples", "reports")] == []
        deadline = time.monotonic() + SECONDS
        count = len(os.listdir("/proc/self/task"))
        while threads and count > threads[0] + 5 and time.monotonic() < deadline:
            time.sleep(0.1)
            count = len(os.listdir("/proc/self/task"))
        threads.append(count)
    assert threads[1] <= threads[0] + 5, "a server and a dataset have about 50 threads"
