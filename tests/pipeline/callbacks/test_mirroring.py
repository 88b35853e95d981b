"""A run's checkpoints and policies in a second place: what comes there, what is fetched again, and what goes wrong."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from pipeline.acting import policy_files
from pipeline.acting.policy_files import Policy
from pipeline.callbacks import mirroring
from pipeline.callbacks.mirror_fetching import prepare
from pipeline.callbacks.mirroring import Mirror, beside
from pipeline.experiment.config import UsageError, dump, load
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array, Counts
from pipeline.monitoring.seldom import mirrored_now
from pipeline.records import checkpoint, checkpoint_writer
from pipeline.records.checkpoint import BadCheckpoint
from pipeline.records.counters import BestEvaluation, Counters
from pipeline.records.object_store import Mirrored, Store, stays_within
from pipeline.records.results import Summary

STATE = {"000 kernel": Array.of(np.arange(6, dtype=np.float32))}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(mirroring, "_LONGEST_WAIT", 0.01)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return load("cartpole", [f"checkpoint.mirror='{tmp_path / 'mirror'}'"])


@pytest.fixture
def run(tmp_path: Path, experiment: Experiment) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create(experiment)
    return run


def write(run: RunDirectory, gradient_steps: int, best: int | None = None, keep: int = 2, **counts: Any) -> str:
    """Writes a checkpoint with a stand-in for Reverb; its name."""
    record = None if best is None else BestEvaluation(float(best), best, best)

    def replay() -> Path:
        folder = checkpoint_writer.reverb_folder(run.checkpoints) / "2026"
        folder.mkdir(parents=True)
        (folder / "items.tfrecord").write_text(f"of {gradient_steps}")
        return folder

    counters = Counters(gradient_steps=gradient_steps, best=record, **counts)
    return checkpoint_writer.write(run.checkpoints, b"config", counters, STATE, replay, keep).path.name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def noted(run: RunDirectory) -> Mirrored:
    path = run.path / "mirror.json"
    return msgspec.json.decode(path.read_bytes(), type=Mirrored) if path.exists() else Mirrored()


@pytest.fixture
def mirrored(run: RunDirectory, experiment: Experiment) -> Iterator[Callable[[], Mirrored]]:
    """Mirrors the run; waits until there is nothing new, and says how far it is."""
    mirror = Mirror(experiment, run)

    def settled() -> Mirrored:
        def is_there() -> bool:
            newest = checkpoint_writer.paths(run.checkpoints)[0].name
            return noted(run).gradient_steps == int(newest.rpartition("-")[2]) and not mirror._obstacle()

        wait_until(is_there, "the newest checkpoint is in the mirror")
        return noted(run)

    yield settled
    mirror.close()


def test_checkpoints_come_and_go_as_on_disk(run: RunDirectory, mirrored: Any, tmp_path: Path) -> None:
    there = tmp_path / "mirror" / "checkpoints"
    for steps, best in ((10, 10), (20, 10), (30, 10), (40, 10), (50, 50), (60, 50)):
        name = write(run, steps, best)
        assert mirrored().gradient_steps == steps
        for path in (run.checkpoints / name).rglob("*"):
            if path.is_file():
                assert (there / path.relative_to(run.checkpoints)).read_bytes() == path.read_bytes()
        wait_until(lambda: (there / "best").exists(), "the best is noted")
        wait_until(
            lambda: names(there) == names(run.checkpoints)[:-1],
            f"what has left the disk has left the mirror: {names(there)}",
        )
        assert (there / "best").read_text() == (run.checkpoints / "best").readlink().name
    assert noted(run).failed == noted(run).left_out == 0
    assert (tmp_path / "mirror" / "config.toml").read_text() == run.config.read_text()
    assert not (run.path / ".mirror" / "run").exists()


def test_a_resume_on_an_empty_disk_has_all(
    run: RunDirectory, experiment: Experiment, mirrored: Any, tmp_path: Path
) -> None:
    policy_files.save(Policy(b"", (), 7, 8, 9.0), run.policies / "best")
    run.evaluations.write_text("{}\n")
    best = write(run, 10, 10, processes={"collector-0.4": Counts(windows=5)}, left=["collector-1.2"])
    for steps in (20, 30):
        newest = write(run, steps, 10, processes={"collector-0.4": Counts(windows=5)}, left=["collector-1.2"])
    mirrored()
    new = RunDirectory(tmp_path / "elsewhere" / "run")
    assert prepare(experiment, new, resume=True) == experiment
    assert names(new.checkpoints) == [best, newest]
    found = checkpoint.newest(new.checkpoints)
    assert found is not None
    assert found.counters.gradient_steps == 30
    for name in ("config.toml", "policies/best/policy.msgpack", "evaluations.jsonl"):
        wait_until((tmp_path / "mirror" / name).exists, f"{name} is in the mirror")
        assert (new.path / name).exists(), name
    assert (new.incarnations("collector-0"), new.incarnations("collector-1")) == (5, 3), "names are not given twice"
    before = {path: path.stat().st_mtime_ns for path in new.path.rglob("*")}
    prepare(experiment, new, resume=True)
    assert {path: path.stat().st_mtime_ns for path in new.path.rglob("*")} == before, "there is nothing newer"


def test_the_best_is_there_though_newer_ones_were_written_before_it_was_seen(
    run: RunDirectory, experiment: Experiment, tmp_path: Path
) -> None:
    best, _, newest = (write(run, steps, 10) for steps in (10, 20, 30))
    with beside(experiment, run):
        pass
    assert names(tmp_path / "mirror" / "checkpoints") == sorted([best, newest, "best"])
    assert (noted(run).gradient_steps, noted(run).left_out) == (30, 0)
    new = RunDirectory(tmp_path / "elsewhere" / "run")
    prepare(experiment, new, resume=True)
    assert names(new.checkpoints) == [best, newest]


def test_what_is_cut_off_or_damaged_is_not_taken(
    run: RunDirectory, experiment: Experiment, mirrored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, there = write(run, 10, keep=5), tmp_path / "mirror" / "checkpoints"
    mirrored()
    damaged, store = write(run, 20, keep=5), Store(experiment.checkpoint.mirror)
    mirrored()
    (there / damaged / "learner.msgpack").write_bytes(b"x" * (there / damaged / "learner.msgpack").stat().st_size)
    cut = damaged.replace("000002-", "000003-")
    shutil.copytree(there / damaged, there / cut)
    (there / cut / "manifest.json").unlink()
    assert store.checkpoints() == [damaged, kept]
    new = RunDirectory(tmp_path / "new")
    with pytest.raises(BadCheckpoint, match=r"manifest\.json"):
        store.fetch(cut, "", tmp_path / "fetched")
    assert names(tmp_path / "fetched") == []
    prepare(experiment, new, resume=True)
    assert names(new.checkpoints) == [kept]
    assert f"checkpoint {damaged} of {store.url} is skipped: learner.msgpack is damaged" in capsys.readouterr().err
    store.prune("", {damaged}, 2)
    assert names(there) == sorted([kept, damaged]), "what was cut off is removed"


def test_no_object_is_written_outside_of_its_checkpoint(tmp_path: Path) -> None:
    store = Store("memory://bucket/run")
    place = "run/checkpoints/000001-000000000010"
    for name in ("../../../evil", "reverb/../../../evil", f"{tmp_path}/evil", "reverb//evil", "manifest.json"):
        store._files.store[f"/bucket/{place}/{name}"] = MemoryFile(None, name, b"content")
    assert any("evil" in path for path in store._files.find("/bucket/run")), "the store has such names"
    with pytest.raises(BadCheckpoint):
        store.fetch("000001-000000000010", "", tmp_path / "run" / "checkpoints")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@given(st.text(alphabet="ab./\0", max_size=8))
def test_a_name_that_stays_within_a_folder_is_a_file_of_it(name: str) -> None:
    folder = Path("/folder")
    if stays_within(name):
        assert os.path.normpath(folder / name) == f"/folder/{name}" != "/folder/"


def test_one_that_was_stopped_goes_on_where_it_was(run: RunDirectory, experiment: Experiment, tmp_path: Path) -> None:
    name, store, done = write(run, 10), Store(experiment.checkpoint.mirror), set[str]()
    part = tmp_path / "part"
    shutil.copytree(run.checkpoints / name, part)
    (part / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError):
        store.upload(part, "", name, done)
    assert done == {"learner.msgpack", "replay/items.tfrecord"}
    assert store.checkpoints() == []
    store.upload(run.checkpoints / name, "", name, done)
    assert store.checkpoints() == [name]


def test_what_fails_is_tried_again_and_said(
    run: RunDirectory, experiment: Experiment, mirrored: Any, tmp_path: Path
) -> None:
    there = tmp_path / "mirror" / "checkpoints"
    write(run, 10)
    mirrored()
    shutil.rmtree(there)
    there.write_text("in the way")
    for steps in (20, 30, 40):
        write(run, steps)
        wait_until(lambda: noted(run).warning, "the failure is noted")
    wait_until(lambda: noted(run).failed > 2 and "000004-" in noted(run).warning, "it is tried again")
    counters, warnings = Counters(), list[str]()
    scalars = mirrored_now(run, counters, warnings)
    assert scalars["system/mirrored_gradient_steps"] == counters.mirrored_gradient_steps == 10
    assert scalars["system/mirror_failures"] > 2
    (warning,) = warnings
    assert warning.startswith("checkpoint.mirror: checkpoint 000004-")
    assert "could not be brought to" in warning
    there.unlink()
    found = mirrored()
    assert (found.gradient_steps, found.left_out) == (40, 2)
    assert found.warning.startswith("checkpoint.mirror falls behind: 2 checkpoints were left out so far")
    assert "checkpoint.every_seconds, which is 300" in found.warning


def summary_of(run: RunDirectory) -> Summary:
    return msgspec.json.decode(run.summary.read_bytes(), type=Summary)


def ended(run: RunDirectory) -> None:
    zeros: dict[str, Any] = {
        name: 0 for name in Summary.__struct_fields__ if Summary.__annotations__[name] in (int, float)
    }
    write_json(run.summary, Summary(solved=False, stop_reason="seconds", mean_return=None, **zeros))


def test_the_end_waits_for_the_last_checkpoint(run: RunDirectory, experiment: Experiment, tmp_path: Path) -> None:
    beats = threading.Event()
    with beside(experiment, run, beat=beats.set):
        write(run, 10)
        ended(run)
    assert beats.is_set()
    assert (summary_of(run).mirrored_gradient_steps, summary_of(run).message) == (10, "")
    assert (tmp_path / "mirror" / "summary.json").read_bytes() == run.summary.read_bytes()


def test_an_end_that_cannot_bring_it_there_says_so(
    run: RunDirectory,
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mirroring, "_STANDSTILL_SECONDS", 0.3)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "checkpoints").write_text("in the way")
    with beside(experiment, run):
        write(run, 10)
        ended(run)
    message = summary_of(run).message
    assert message.startswith("checkpoint.mirror: ")
    assert f"the last checkpoint is in {run.path} alone" in message
    assert message in capsys.readouterr().err
    (tmp_path / "mirror" / "checkpoints").unlink()


def test_servers_of_the_replay_have_places_of_their_own(tmp_path: Path) -> None:
    experiment = load("cartpole", [f"checkpoint.mirror='{tmp_path / 'mirror'}'", "replay.shards=2"])
    run = RunDirectory(tmp_path / "run")
    run.create(experiment)
    with beside(experiment, run, shards=2):
        write(run, 10)
        for index in range(2):
            write(RunDirectory(run.shard(index)), 0)
    assert names(tmp_path / "mirror") == ["checkpoints", "config.toml", "replay-0", "replay-1"]
    shutil.copy(tmp_path / "mirror" / "config.toml", tmp_path / "mirror" / "replay-1")  # as one by itself has it there
    new = RunDirectory(tmp_path / "new")
    prepare(experiment, new, True, 2)
    assert len(checkpoint_writer.paths(new.shard(1) / "checkpoints")) == 1
    alone = RunDirectory(tmp_path / "of shard 1")  # started by hand
    _, context = mirroring.of_role(experiment, "replay", 1, str(alone.path), True, lambda: None)
    assert len(checkpoint_writer.paths(alone.checkpoints)) == 1
    alone.create(experiment)
    with context:
        newest = write(alone, 0)
    assert newest in names(tmp_path / "mirror" / "replay-1" / "checkpoints")
    assert mirroring.of_role(experiment, "collector", 0, str(alone.path), True, lambda: None)[0] == experiment


def test_what_cannot_be_a_mirror_is_refused(run: RunDirectory, experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for mirror, said in (
        ("s3://me:secret@bucket/x", "holds a user or a password"),
        ("nothing://x", "Protocol not known: nothing"),
        ("s3:/bucket/x", "a URL has two slashes behind its colon"),
        (str(tmp_path / "new" / "mirror"), "within each other"),
        (str(tmp_path), "within each other"),
        (str(tmp_path / "file"), "cannot be written"),
    ):
        other = load("cartpole", [f"checkpoint.mirror='{mirror}'"])
        with pytest.raises(UsageError, match=said) as refused:
            prepare(other, RunDirectory(tmp_path / "new"), resume=False)
        assert "secret" not in str(refused.value)
    with beside(experiment, run):
        write(run, 10)
    with pytest.raises(UsageError, match="holds checkpoints of a run already: continue it with --resume"):
        prepare(experiment, RunDirectory(tmp_path / "new"), resume=False)
    other = load("cartpole", [f"checkpoint.mirror='{experiment.checkpoint.mirror}'", "agent.hidden_units=[3]"])
    with pytest.raises(UsageError, match=r"mirror cannot be resumed so: .*agent\.hidden_units"):
        prepare(other, RunDirectory(tmp_path / "new"), resume=True)
    assert not (tmp_path / "new").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine").touch()
    prepare(experiment, RunDirectory(foreign), resume=True)
    assert names(foreign) == ["mine"], "the check to come refuses it"


def test_a_folder_is_kept_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    placed = prepare(load("cartpole", ["checkpoint.mirror='kept'"]), RunDirectory(tmp_path / "run"), resume=False)
    assert placed.checkpoint.mirror == str(tmp_path / "kept")
    assert "kept" in dump(placed)
