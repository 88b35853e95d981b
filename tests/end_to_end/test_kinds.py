"""Every kind of the registry with every form of replay, launcher and resume; combinations without sense are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from agents import BUILDERS
from pipeline.experiment.config import UsageError, parse

ROOT = Path(__file__).resolve().parents[2]
SHRUNK = (
    'environment.id="FrozenLake-v1"',  # its observations are categories, which every kind takes
    "collect.lanes=4",
    "learner.batch_size=16",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=64",
    "replay.capacity=1000",
    "replay.samples_per_insert=16",
    "evaluation.episodes=2",
    "evaluation.images=false",
    "evaluation.every_steps=100",
    "stop.gradient_steps=80",
)
SMALL = ("agent.hidden_units=[8]",)
ON_POLICY = (
    "agent.rollout=4",
    'exploration.strategy="boltzmann"',
    "learner.batch_size=4",
    "learner.steps_per_call=1",
    "replay.samples_per_insert=1",
)
REPLAYS = {
    "uniform, all lanes": (),
    "uniform, stacks of three frames": ("environment.frame_stack=3",),
    "prioritised, exact": ("replay.prioritized=true",),
    "prioritised, several lanes and steps": (
        "replay.prioritized=true",
        "replay.lanes_per_item=4",
        "replay.steps_per_item=2",
        'replay.initial_priority="td_error"',
    ),
}

COLLECTING = [kind for kind, builder in BUILDERS.items() if not builder.config().offline_only]
"""Kinds that learn from collectors; test_offline.py has the others."""


OPEN = ('agent.v_min="auto"', 'agent.v_max="auto"')


def lines_of(kind: str, *more: str) -> tuple[str, ...]:
    more = (*OPEN, *more) if kind == "c51" else more
    small = () if kind == "q_learning" else SMALL
    on_policy = ON_POLICY if BUILDERS[kind].config().on_policy else ()
    return (*SHRUNK, f'agent.kind="{kind}"', *small, *on_policy, *more)


def replay_of(kind: str, replay: str) -> tuple[str, ...]:
    """The lines of a form of replay; of a kind whose priorities are no returns new items have the largest."""
    lines = REPLAYS[replay]
    if BUILDERS[kind].config().priority_unit == "return":
        return lines
    return tuple(line for line in lines if not line.startswith("replay.initial_priority"))


def fits(kind: str, replay: tuple[str, ...]) -> bool:
    """Whether a kind takes a form of replay; test_what_makes_no_sense_is_refused_with_the_reason has the others."""
    if BUILDERS[kind].config().on_policy:
        return "replay.prioritized=true" not in replay
    return kind != "r2d2" or "replay.steps_per_item=2" not in replay


CELLS = [(kind, replay) for kind in COLLECTING for replay, lines in REPLAYS.items() if fits(kind, lines)]


def once(first: int) -> list[tuple[str, str]]:
    """Each kind with one form of replay, another one for each of two firsts; together they have every form."""
    chosen = []
    for number, kind in enumerate(COLLECTING, first):
        replays = [replay for of, replay in CELLS if of == kind]
        chosen.append((kind, replays[number % len(replays)]))
    assert {replay for _, replay in chosen} == set(REPLAYS)
    return chosen


ONCE, RESUMED = once(0), once(1)
BY_COMMAND = ("ppo", "r2d2", "q_learning", "boot_dqn", "rainbow")
"""One of each way in which experience travels, and of each form of what collectors are sent."""


@pytest.mark.parametrize(("kind", "replay"), ONCE)
def test_every_kind_learns(kind: str, replay: str, tmp_path: Path) -> None:
    check(kind, replay, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "replay"), [cell for cell in CELLS if cell not in (*ONCE, *RESUMED)])
def test_every_kind_learns_from_every_replay(kind: str, replay: str, tmp_path: Path) -> None:
    check(kind, replay, tmp_path)


def check(kind: str, replay: str, folder: Path) -> None:
    """Learns from a form of replay."""
    summary = pipeline.train(parse("", lines_of(kind, *replay_of(kind, replay))), folder / "run", launcher="inline")
    assert (summary.gradient_steps, summary.stop_reason) == (80, "gradient_steps")
    assert summary.mean_return is not None
    assert summary.lost_transitions == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "replay"), RESUMED)
def test_every_kind_resumes(kind: str, replay: str, tmp_path: Path) -> None:
    run, lines = tmp_path / "run", lines_of(kind, *replay_of(kind, replay))
    first = pipeline.train(parse("", lines), run, launcher="inline")
    assert (first.gradient_steps, first.stop_reason) == (80, "gradient_steps")
    again = pipeline.train(parse("", (*lines, "stop.gradient_steps=120")), run, launcher="inline", resume=True)
    assert (again.gradient_steps, again.stop_reason) == (120, "gradient_steps")
    assert again.environment_steps > first.environment_steps
    assert again.mean_return is not None


@pytest.mark.parametrize(
    "kind", [kind if kind == "ppo" else pytest.param(kind, marks=pytest.mark.slow) for kind in BY_COMMAND]
)
def test_a_kind_runs_in_processes_of_its_own(kind: str, tmp_path: Path) -> None:
    replay = "learner.batch_size=8" if BUILDERS[kind].config().on_policy else "replay.prioritized=true"
    flags = [f"--set={line}" for line in lines_of(kind, replay, "collect.collectors=2")]
    base = tmp_path / "base.toml"
    base.write_text("")
    arguments = [sys.executable, "-m", "pipeline.train", f"--config={base}", f"--run_dir={tmp_path / 'run'}", *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["gradient_steps"] >= 80
    assert summary["lost_transitions"] == 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("agent.munchausen=true",), "set double=false"),
        (('agent.kind="c51"', "agent.v_min=3.0", "agent.v_max=3.0"), "v_min=3 must be below v_max=3"),
        (('agent.kind="c51"', "agent.v_min=3.0", "agent.v_max='automatic'"), "agent.v_max"),
        (('agent.kind="c51"', "agent.v_max='auto'", "agent.discount=1.0"), "needs a discount below 1"),
        (('agent.kind="q_learning"', "agent.hidden_units=[8]"), "agent.hidden_units"),
        (('agent.kind="dqm"',), "q_learning"),
        (('exploration.strategy="greedy"',), "agent.noisy"),
        (("replay.initial_priority='td_error'",), "replay.prioritized"),
        (('agent.kind="r2d2"', "agent.noisy=true"), "noisy=false"),
        (('agent.kind="r2d2"', "replay.prioritized=true", "replay.steps_per_item=2"), r"replay\.steps_per_item=1"),
        (('agent.kind="reinforce"', *ON_POLICY, "replay.prioritized=true"), "replay.prioritized=false"),
        (('agent.kind="r2d2"', "replay.prioritized=true", "replay.initial_priority='td_error'"), "'largest'"),
        (('agent.kind="c51"', "replay.prioritized=true", "replay.initial_priority='td_error'"), "'largest'"),
        (("agent.learning_rate=5e-5", "agent.learning_rate_decay_steps=100"), "learning_rate_final to at most 5e-05"),
        (
            ('agent.kind="q_learning"', "agent.learning_rate=0.001", "agent.learning_rate_decay_steps=100"),
            "learning_rate_final to at most 0.001",
        ),
        (("exploration.count_bonus=1.0", "exploration.prediction_bonus=1.0"), "set one of them to 0"),
        (("collect.collectors=1", "exploration.ladder_alpha=7.0"), "exploration.ladder_by='episode'"),
        (("collect.lanes=1", "exploration.ladder_by='lane'", "exploration.ladder_alpha=7.0"), "several lanes"),
        (("exploration.ladder_by='episode'",), "exploration.ladder_alpha"),
        (('agent.kind="ppo"', *ON_POLICY, "replay.prioritized=true"), "replay.prioritized=false"),
        (('agent.kind="ppo"', *ON_POLICY, "exploration.strategy='epsilon_greedy'"), "strategy='boltzmann'"),
        (('agent.kind="ppo"', *ON_POLICY, "exploration.temperature=0.5"), "temperature=1.0"),
        (('agent.kind="ppo"', *ON_POLICY, "learner.steps_per_call=16"), "learner.steps_per_call=1"),
        (('agent.kind="ppo"', *ON_POLICY), "learner.batch_size=16"),
        (('agent.kind="ppo"', *ON_POLICY, "collect.lanes=2", "replay.samples_per_insert=2"), "learner.batch_size=2"),
        (('agent.kind="ppo"', *ON_POLICY, "collect.lanes=4", "replay.samples_per_insert=2"), "samples_per_insert=1"),
        (('agent.kind="ppo"', *ON_POLICY, "collect.lanes=4", "agent.minibatches=3"), "agent.minibatches=3"),
        (('agent.kind="ppo"', *ON_POLICY, "collect.lanes=4", "replay.steps_per_item=2"), "replay.steps_per_item"),
        (('agent.kind="pqn"', *ON_POLICY, "collect.lanes=4", "agent.minibatches=24"), "agent.minibatches=24"),
        (('agent.kind="pqn"', *ON_POLICY, "replay.prioritized=true"), "replay.prioritized=false"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse("", lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("agent.kind='q_learning'", "environment.id='CartPole-v1'"), "Discrete"),
        (("agent.kind='ppo'",), "set exploration.strategy='boltzmann'"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused_before_anything_is_written(
    lines: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    flags = [f"--set={line}" for line in lines]
    base = tmp_path / "base.toml"
    base.write_text("")
    arguments = [sys.executable, "-m", "pipeline.train", f"--config={base}", f"--run_dir={tmp_path / 'run'}", *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
