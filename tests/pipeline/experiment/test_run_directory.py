"""Run directories: nothing is overwritten, and a resume changes only what may change."""

import json
from pathlib import Path

import pytest

from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.run_directory import RunDirectory, write_atomically, write_json
from pipeline.experiment.sections import Experiment
from pipeline.runtime.output_folder import refuse_taken


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "first")


def refusal(run: RunDirectory, experiment: Experiment, resume: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        run.check(experiment, resume)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_or_empty_directory_is_taken_and_checking_writes_nothing(run: RunDirectory, resume: bool) -> None:
    run.check(Experiment(), resume)
    assert not run.path.parent.exists()
    run.path.mkdir(parents=True)
    run.check(Experiment(), resume)
    assert list(run.path.iterdir()) == []


def test_a_created_run_gives_back_its_experiment(run: RunDirectory) -> None:
    experiment = parse("", ("seed=5", "environment.kwargs={a=[1, 2.5, 'x']}", "stop.target_return=1.5"))
    run.create(experiment)
    assert run.experiment() == experiment
    assert run.logs.is_dir()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.toml", "logs", "recorders"]


def test_another_run_is_refused_with_what_would_do(run: RunDirectory) -> None:
    run.create(Experiment())
    message = refusal(run, Experiment())
    assert str(run.path) in message
    assert "--resume" in message


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_of_other_files_is_refused(run: RunDirectory, resume: bool) -> None:
    run.path.mkdir(parents=True)
    (run.path / "thesis.tex").touch()
    assert "not empty" in refusal(run, Experiment(), resume)
    assert (run.path / "thesis.tex").exists()


def test_a_file_is_refused(run: RunDirectory) -> None:
    run.path.parent.mkdir()
    run.path.touch()
    assert "is a file" in refusal(run, Experiment())


def test_a_directory_below_a_file_is_refused(run: RunDirectory) -> None:
    run.path.parent.touch()
    assert str(run.path) in refusal(run, Experiment())


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs:/bucket", "hdfs://"])
def test_a_url_is_no_directory(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(url), Path(url).resolve()):
        assert "--run_dir is a URL (" in refusal(RunDirectory(path), Experiment())
        with pytest.raises(UsageError, match="--out is a URL"):
            refuse_taken(path)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^--run_dir=/proc/self/run cannot be written: No such file or directory$"):
        RunDirectory(Path("/proc/self/run")).lock()
    with pytest.raises(UsageError, match=r"^--out=/sys/run cannot be written: "):
        RunDirectory(Path("/sys/run")).lock("sweep", "--out")


def test_a_directory_without_a_run_holds_no_experiment(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        run.experiment()


def test_a_broken_config_is_refused_by_name(run: RunDirectory) -> None:
    run.create(Experiment())
    run.config.write_text("[agent\n")
    assert str(run.config) in refusal(run, Experiment(), resume=True)


@pytest.mark.parametrize(
    "change",
    [
        "seed=9",
        "stop.environment_steps=1000",
        "stop.target_return=3.0",
        "stop.seconds=1.0",
        "evaluation.episodes=3",
        "evaluation.every_steps=3",
        "checkpoint.every_seconds=3.0",
        "checkpoint.keep=3",
        "collect.collectors=3",
        "collect.threads=2",
        "collect.variables_seconds=1.0",
        "exploration.strategy='boltzmann'",
        "exploration.epsilon_final=0.5",
        "learner.loop='plain'",
        "learner.publish_seconds=1.0",
        "learner.stall_seconds=1.0",
        "replay.port=5000",
        "replay.private='off'",
        "replay.weights_port=5001",
        "agent.learning_rate=1.0",
        "agent.learning_rate_final=1.0",
        "agent.learning_rate_decay_steps=7",
        "agent.gradient_clip_norm=1.0",
        "agent.loss='mse'",
    ],
)
def test_a_resume_may_change_what_nothing_stored_depends_on(run: RunDirectory, change: str) -> None:
    run.create(Experiment())
    run.check(parse("", (change,)), resume=True)


def test_a_refused_resume_names_every_change(run: RunDirectory) -> None:
    run.create(Experiment())
    message = refusal(run, parse("", ("agent.dueling=true", "environment.frame_skip=2", "seed=3")), resume=True)
    assert "agent.dueling was False" in message
    assert "environment.frame_skip was 0" in message
    assert "seed" not in message


def test_an_unchanged_resume_is_taken(run: RunDirectory) -> None:
    experiment = parse("", ("environment.kwargs={a=1}", "stop.target_return=5.0"))
    run.create(experiment)
    run.check(run.experiment(), resume=True)
    run.check(experiment, resume=True)


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"a": [1, 2]})
    write_json(path, {"b": None})
    assert json.loads(path.read_text()) == {"b": None}
    write_atomically(path, b"other")
    assert path.read_bytes() == b"other"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]
