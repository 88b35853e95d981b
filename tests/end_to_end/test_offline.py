"""Runs that learn from the replay of another run: no collectors, and what cannot be learned from is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from agents import BUILDERS
from pipeline import checkpoint
from pipeline.config import UsageError, parse
from pipeline.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    'environment.id="FrozenLake-v1"',
    "collect.lanes=4",
    "learner.batch_size=16",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "evaluation.episodes=2",
    "evaluation.every_steps=40",
    "stop.gradient_steps=80",
)
SOURCE = (*COMMON, "agent.hidden_units=[8]", "agent.n_step=3", "replay.min_size=64", "replay.samples_per_insert=4")
RECURRENT = ('agent.kind="r2d2"', "agent.lstm_units=4", "agent.burn_in=1", "agent.sequence=3", "agent.period=2")


def source(folder: Path, *lines: str) -> Path:
    pipeline.train(parse("", (*SOURCE, *lines)), folder, launcher="inline")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source(tmp_path_factory.mktemp("source") / "run")


def lines_of(dataset: Path, *lines: str) -> tuple[str, ...]:
    return (*COMMON, f"offline.dataset={json.dumps(str(dataset))}", *lines)


def kind_lines(kind: str) -> tuple[str, ...]:
    config = BUILDERS[kind].config()
    return (f'agent.kind="{kind}"', *(("agent.hidden_units=[8]",) if hasattr(config, "hidden_units") else ()))


OFFLINE = {
    **{kind: () for kind, builder in BUILDERS.items() if not builder.config().on_policy and kind != "r2d2"},
    "dqn by priority": ("replay.prioritized=true",),
    "qr_dqn conservative": ("agent.cql_alpha=1.0",),
}


@pytest.mark.parametrize("name", list(OFFLINE))
def test_every_kind_learns_from_a_dataset_and_resumes(name: str, dataset: Path, tmp_path: Path) -> None:
    run, lines = tmp_path / "run", lines_of(dataset, *kind_lines(name.split()[0]), *OFFLINE[name])
    first = pipeline.train(parse("", lines), run, launcher="inline")
    assert (first.gradient_steps, first.stop_reason, first.environment_steps) == (80, "gradient_steps", 0)
    stored = checkpoint.newest(RunDirectory(dataset).checkpoints)
    assert stored is not None
    # Samples for each transition that the dataset holds.
    assert first.samples_per_insert == pytest.approx(80 * 16 / stored.counters.transitions, rel=0.05)
    again = pipeline.train(parse("", (*lines, "stop.gradient_steps=120")), run, launcher="inline", resume=True)
    assert (again.gradient_steps, again.environment_steps) == (120, 0)
    assert again.mean_return is not None


def test_a_recurrent_kind_learns_from_the_dataset_of_one(tmp_path: Path) -> None:
    stored = source(tmp_path / "source", *RECURRENT)
    summary = pipeline.train(
        parse("", lines_of(stored, *RECURRENT, "agent.hidden_units=[8]", "agent.n_step=3")),
        tmp_path / "run",
        launcher="inline",
    )
    assert (summary.gradient_steps, summary.environment_steps) == (80, 0)


def test_processes_of_their_own_learn_without_a_collector(dataset: Path, tmp_path: Path) -> None:
    flags = [f"--set={line}" for line in lines_of(dataset, "agent.cql_alpha=1.0", "agent.hidden_units=[8]")]
    base, run = tmp_path / "base.toml", tmp_path / "run"
    base.write_text("")
    arguments = [sys.executable, "-m", "pipeline.train", f"--config={base}", f"--run_dir={run}", *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 gradient steps" in done.stdout
    assert not list((run / "logs").glob("collector*"))
    assert json.loads((run / "summary.json").read_text())["mean_return"] is not None


def test_it_learns_the_shorter_windows_of_a_dataset_with_longer_ones(dataset: Path, tmp_path: Path) -> None:
    lines = lines_of(dataset, "agent.hidden_units=[8]", "agent.n_step=1")
    assert pipeline.train(parse("", lines), tmp_path / "run", launcher="inline").gradient_steps == 80


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("agent.n_step=4",), r"windows of 4 frames, and the agent learns from 5: lower agent\.n_step"),
        (('environment.id="CartPole-v1"',), r"other observations or actions .*'CartPole-v1'"),
        (RECURRENT, "0 numbers of recurrent state"),
        (("stop.gradient_steps=0",), r"set stop\.gradient_steps or stop\.seconds"),
        (('agent.kind="ppo"', 'exploration.strategy="boltzmann"'), r"set offline\.dataset=''"),
        (('offline.dataset="/nowhere"',), r"/nowhere' holds no run"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_and_nothing_written(
    lines: tuple[str, ...], words: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        pipeline.train(parse("", lines_of(dataset, *lines)), tmp_path / "run", launcher="inline")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_is_no_dataset(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "source").create(parse("", SOURCE))
    with pytest.raises(UsageError, match="no complete checkpoint"):
        pipeline.train(parse("", lines_of(tmp_path / "source")), tmp_path / "run", launcher="inline")


def test_an_imitator_needs_something_to_imitate() -> None:
    with pytest.raises(UsageError, match=r"set offline\.dataset"):
        parse("", ('agent.kind="behaviour_cloning"',))
