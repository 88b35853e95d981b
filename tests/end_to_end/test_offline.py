"""Runs that learn from the replay of another run: no collectors, and what cannot be learned from is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_runs import TINY

import pipeline
from agents import BUILDERS
from pipeline import environments
from pipeline.datasets import offline, stored_replay
from pipeline.datasets.stored_frames import episode_parts
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.messages.ports import free_port
from pipeline.records import checkpoint, checkpoint_writer
from pipeline.replay.embedded import EmbeddedReplay

pytestmark = pytest.mark.xdist_group("offline")  # one dataset for all
ROOT = Path(__file__).resolve().parents[2]
COMMON = (
    'environment.id="FrozenLake-v1"',
    *TINY,
    "evaluation.every_steps=40",
    "stop.gradient_steps=80",
)
SOURCE = (*COMMON, "agent.hidden_units=[8]", "agent.n_step=3", "replay.min_size=64", "replay.samples_per_insert=4")
RECURRENT = (
    'agent.kind="r2d2"',
    "agent.lstm_units=4",
    "agent.burn_in=1",
    "agent.sequence=3",
    "agent.period=2",
    "agent.stored_state=false",
)


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
    # Frames with a recurrent state hold more than those of the dataset.
    **{k: () for k, of in BUILDERS.items() if not of.config().on_policy and not of.config().state_units},
    "dqn by priority": ("replay.prioritized=true",),
    "qr_dqn conservative": ("agent.cql_alpha=1.0",),
}


FIRST = ("dqn by priority", "behaviour_cloning")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in OFFLINE]
)
def test_every_kind_learns_from_a_dataset_and_resumes(name: str, dataset: Path, tmp_path: Path) -> None:
    run, lines = tmp_path / "run", lines_of(dataset, *kind_lines(name.split()[0]), *OFFLINE[name])
    first = pipeline.train(parse("", lines), run, launcher="inline")
    assert (first.gradient_steps, first.stop_reason, first.environment_steps) == (80, "gradient_steps", 0)
    stored = checkpoint.newest(RunDirectory(dataset).checkpoints)
    assert stored is not None
    # Samples for each transition that the dataset holds.
    assert first.samples_per_insert == pytest.approx(80 * 16 / stored.counters.windows, rel=0.05)
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


def test_a_run_resumes_when_its_dataset_has_gone(tmp_path: Path) -> None:
    stored, run = source(tmp_path / "source"), tmp_path / "run"
    lines = lines_of(stored, "agent.hidden_units=[8]")
    pipeline.train(parse("", lines), run, launcher="inline")
    shutil.rmtree(stored)
    assert not list((run / "checkpoints").glob("dataset-*")), "the copy is needed at the start only"
    again = pipeline.train(parse("", (*lines, "stop.gradient_steps=120")), run, launcher="inline", resume=True)
    assert again.gradient_steps == 120


def test_processes_of_their_own_learn_without_a_collector(dataset: Path, tmp_path: Path) -> None:
    flags = [f"--set={line}" for line in lines_of(dataset, "agent.cql_alpha=1.0", "agent.hidden_units=[8]")]
    base, run = tmp_path / "base.toml", tmp_path / "run"
    base.write_text("")
    arguments = [sys.executable, "-m", "pipeline.train", f"--config={base}", f"--run_dir={run}", *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 gradient steps" in done.stdout
    assert not list((run / "logs").glob("collector*"))
    assert json.loads((run / "summary.json").read_text())["mean_return"] is not None


@pytest.mark.slow
def test_a_policy_that_is_worse_than_its_data_is_said_to_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ('environment.id="CartPole-v1"', "evaluation.episodes=20", "agent.learning_rate=1e-9")
    stored = source(tmp_path / "source", *lines, "exploration.epsilon_final=1.0")
    capfd.readouterr()
    summary = pipeline.train(
        parse("", lines_of(stored, *lines, "agent.hidden_units=[8]", "seed=3")), tmp_path / "run", launcher="inline"
    )
    told = summary.dataset_returns
    found = stored_replay.read(stored)
    whole = [part for lane in found.lanes for part in episode_parts(lane) if not part.cut]
    returns = sorted(float(len(part.steps)) for part in whole)  # CartPole pays 1 a step
    tenth = returns[-(len(returns) // 10) :]
    assert len(returns) > 10
    assert told == pytest.approx(
        {"mean": np.mean(returns), "best_tenth": np.mean(tenth), "episodes": len(returns)}, rel=1e-9
    )
    assert summary.mean_return is not None
    assert summary.mean_return < 12 < told["mean"], "weights as they were drawn lean one way"
    words = "the policy is worse than its data"
    assert words in summary.message
    assert words in json.loads((tmp_path / "run" / "summary.json").read_text())["message"]
    assert capfd.readouterr().out.count(words) == 1


def test_shorter_windows_are_the_beginnings_of_the_stored_ones(dataset: Path, tmp_path: Path) -> None:
    def drawn(n_step: int) -> set[tuple[int, ...]]:
        """State, action and reward of each of the first two frames, of many windows."""
        experiment = parse("", lines_of(dataset, "agent.hidden_units=[8]", f"agent.n_step={n_step}"))
        specs = environments.describe(experiment.environment)
        experiment = offline.adopt(experiment, specs)
        stored = offline.dataset(experiment)
        assert stored is not None
        server = EmbeddedReplay(experiment, specs, free_port(), tmp_path / str(n_step), dataset=stored.replay)
        found: set[tuple[int, ...]] = set()
        for sample in server.dataset().take(60):
            frames = [sample.trajectory.observation, sample.trajectory.action, sample.trajectory.step_type]
            assert frames[0].shape[2] == n_step + 1
            columns = [leaf.numpy()[:, :, :2].reshape(-1, 2) for leaf in frames]
            found |= {tuple(int(value) for value in row) for row in np.concatenate(columns, axis=1)}
        server.stop()
        return found

    short, long = drawn(1), drawn(3)
    assert len(long) > 20
    assert len(short ^ long) <= 0.1 * len(long)  # rare ones may not have been drawn


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("agent.n_step=4",), r"windows of 4 frames, and the agent learns from 5: lower agent\.n_step"),
        (('environment.id="CartPole-v1"',), r"observations or actions are others .*'CartPole-v1'"),
        (RECURRENT, "0 numbers of recurrent state"),
        ((*RECURRENT, "agent.stored_state=true"), r"set\s+agent\.stored_state=false"),
        (("learner.batch_size=3",), r"multiple of the \d+ windows of its items"),
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
    with pytest.raises(UsageError, match="no whole checkpoint"):
        pipeline.train(parse("", lines_of(tmp_path / "source")), tmp_path / "run", launcher="inline")


def test_a_run_whose_rewards_hold_a_bonus_is_no_dataset(tmp_path: Path) -> None:
    stored = source(tmp_path / "source", "exploration.count_bonus=1.0")
    with pytest.raises(UsageError, match=r"hold the bonus of exploration\.count_bonus"):
        pipeline.train(parse("", lines_of(stored)), tmp_path / "run", launcher="inline")


def test_a_run_that_was_interrupted_before_it_stored_anything_is_no_dataset(tmp_path: Path) -> None:
    run, replay = RunDirectory(source(tmp_path / "source")), tmp_path / "replay"
    stored = checkpoint.newest(run.checkpoints)
    assert stored is not None
    shutil.copytree(stored.replay, replay)
    counters = msgspec.structs.replace(stored.counters, windows=0)
    checkpoint_writer.write(run.checkpoints, b"", counters, {}, lambda: replay, keep=1)
    with pytest.raises(UsageError, match="no whole checkpoint with experience"):
        pipeline.train(parse("", lines_of(run.path)), tmp_path / "run", launcher="inline")


def test_the_dataset_of_a_dataset_is_named(dataset: Path, tmp_path: Path) -> None:
    pipeline.train(parse("", lines_of(dataset, "agent.hidden_units=[8]")), tmp_path / "first", launcher="inline")
    with pytest.raises(UsageError, match=rf"learned from '{dataset}': name that"):
        pipeline.train(parse("", lines_of(tmp_path / "first")), tmp_path / "run", launcher="inline")


def test_a_path_is_relative_to_where_the_command_runs(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dataset.parent)
    lines = lines_of(Path(dataset.name), "agent.hidden_units=[8]")
    pipeline.train(parse("", lines), tmp_path / "run", launcher="inline")
    assert RunDirectory(tmp_path / "run").experiment().offline.dataset == str(dataset)


def test_an_imitator_needs_something_to_imitate() -> None:
    with pytest.raises(UsageError, match=r"set offline\.dataset"):
        parse("", ('agent.kind="behaviour_cloning"',))
