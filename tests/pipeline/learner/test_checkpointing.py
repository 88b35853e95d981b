"""Checkpoints written beside learning, also on a full disk, and gone on from, also where the newest is of no use."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

from agents import Specs
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner import checkpointing
from pipeline.learner.learner import Learner
from pipeline.records import checkpoint
from pipeline.records.checkpoint import BadCheckpoint, Checkpoint, restore
from pipeline.records.counters import Counters
from pipeline.records.ledger import Ledger
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter

SMALL = ("agent.hidden_units=[8]", "learner.loop='plain'")


def fill(server: Any, layout: FrameLayout, count: int) -> None:
    """Writes so many frames of noise, which no compression makes smaller."""
    writer, random = FrameWriter(server.address, layout, 4, 4, 2), np.random.default_rng(0)
    for number in range(count):
        frames = layout.empty(4)
        frames["gradient_steps"] = number
        frames["observation/"] = random.normal(size=(4, 4))
        writer.append(frames)
        assert writer.confirm(lambda: True)
    assert writer.confirm(lambda: True, everything=True)


class Parts:
    """A learner and a replay with what saves them."""

    def __init__(self, experiment: Experiment, specs: Specs, serve: Any, path: Path) -> None:
        self.run = RunDirectory(path)
        self.layout, self.replay = FrameLayout(specs), serve(experiment, specs)
        self.learner, self.ledger = Learner(experiment, specs), Ledger(experiment, Counters())
        self.saver = checkpointing.Saver(experiment, self.run, self.learner, self.replay, self.ledger)


@pytest.fixture
def make_parts(serve: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path) -> Iterator[Any]:
    made: list[Parts] = []

    def make(*overrides: str, path: Path = tmp_path / "run") -> Parts:
        made.append(Parts(make_experiment(*SMALL, *overrides), counting_specs, serve, path))
        return made[-1]

    yield make
    for parts in made:
        parts.saver.close()


def test_checkpoints_are_due_as_often_as_asked(make_parts: Any) -> None:
    parts = make_parts("checkpoint.every_seconds=0.2", "checkpoint.keep=3")
    assert parts.saver.tend() is None
    for number in (1, 2):
        saved = wait_until(parts.saver.tend, "a checkpoint is written")
        assert f"{number:06d}-" in saved.path
        found = checkpoint.newest(parts.run.checkpoints)
        assert found is not None
        assert str(found.path) == saved.path
        assert found.size == saved.size
        assert 0.0 < saved.pause_seconds <= saved.seconds


def test_the_learner_goes_on_while_a_checkpoint_is_written(make_parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts("checkpoint.every_seconds=0.01")
    written, beats, is_waited_for = parts.replay.save, [], threading.Event()
    monkeypatch.setattr(parts.replay, "save", lambda: (is_waited_for.wait(60), written())[1])

    def beat() -> None:
        beats.append(None)
        is_waited_for.set()

    weight = parts.learner.agent.acting_model.trainable_weights[0]
    before = weight.numpy()
    time.sleep(0.02)
    assert parts.saver.tend() is None
    weight.assign(before + 1.0)
    parts.ledger.counters.lost["later"] = 1
    assert parts.saver.tend() is None, "it is still being written"
    saved = parts.saver.save(beat)
    assert saved is not None
    assert beats, "who waits says that it is alive"
    first, second = sorted(parts.run.checkpoints.glob("0*"))
    states = [Checkpoint(path).learner_state() for path in (first, second)]
    (name,) = [name for name, value in states[0].items() if value.shape == before.shape and "kernel" in name][:1]
    np.testing.assert_array_equal(states[0][name], before)
    np.testing.assert_array_equal(states[1][name], before + 1.0)
    assert [Checkpoint(path).counters.lost for path in (first, second)] == [{}, {"later": 1}]


def test_a_learner_goes_on_from_what_was_saved(make_parts: Any, make_experiment: Any, counting_specs: Specs) -> None:
    parts = make_parts()
    fill(parts.replay, parts.layout, 12)
    for sample in parts.replay.dataset().take(3):
        parts.learner.learn(sample)
    parts.saver.save()
    found = checkpoint.newest(parts.run.checkpoints)
    assert found is not None
    other = Learner(make_experiment(*SMALL, "seed=9"), counting_specs)
    other.restore(found.learner_state())
    assert other.gradient_steps == parts.learner.gradient_steps == 12
    assert other.state() == parts.learner.state()
    assert found.counters.gradient_steps == 12


# A disk that takes no more


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def use_up(disk: Path, left: int) -> Path:
    """Fills a file system but for some bytes."""
    path, free = disk / "filler", os.statvfs(disk)
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - left)))
    return path


@pytest.mark.parametrize("left", [0, 40_000])
def test_a_full_disk_keeps_the_last_checkpoint_and_is_tried_again(
    make_parts: Any, small_disk: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    parts = make_parts("checkpoint.every_seconds=0.1", path=small_disk / "run")
    fill(parts.replay, parts.layout, 12)
    assert parts.saver.save() is not None
    good = checkpoint.newest(parts.run.checkpoints)
    fill(parts.replay, parts.layout, 2_000)
    filler = use_up(small_disk, left)

    assert parts.saver.save() is None
    assert "could not be written" in parts.saver.warning
    assert "No space left" in parts.saver.warning
    assert parts.saver.warning in caplog.text
    assert parts.ledger.counters.failed_checkpoints == 1
    found = checkpoint.newest(parts.run.checkpoints)
    assert good is not None
    assert found is not None
    assert found.path == good.path
    assert list(parts.run.checkpoints.glob("*.part")) == []

    wait_until(lambda: parts.saver.tend() or parts.ledger.counters.failed_checkpoints > 1, "it is tried again")
    assert parts.ledger.counters.failed_checkpoints == 2
    filler.unlink()
    wait_until(parts.saver.tend, "it succeeds")
    assert parts.saver.warning == ""
    found = checkpoint.newest(parts.run.checkpoints)
    assert found is not None
    assert found.path != good.path
    assert found.counters.failed_checkpoints >= 2


def test_a_folder_that_cannot_be_made_is_a_warning(make_parts: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file is in the way")
    parts = make_parts()
    assert parts.saver.save() is None
    assert "checkpoints" in parts.saver.warning
    (tmp_path / "run" / "checkpoints").unlink()
    assert parts.saver.save() is not None


# Going on


def test_checkpoints_that_learners_failed_from_are_passed_over(make_parts: Any) -> None:
    parts = make_parts("checkpoint.keep=3")
    for steps in (1, 2, 3):
        parts.ledger.counters.evaluations = steps
        assert parts.saver.save() is not None
    for pass_over, used in ((0, 3), (1, 2), (2, 1), (9, 1)):
        seen: list[Checkpoint] = []
        said: list[str] = []
        found = restore(parts.run.checkpoints, seen.append, said.append, pass_over)
        assert found is not None
        assert [one.counters.evaluations for one in seen] == [found.counters.evaluations] == [used]
        assert len(said) == 3 - used
        assert all("is passed over: a learner that went on from it failed" in sentence for sentence in said)


def test_none_at_all_is_none(tmp_path: Path) -> None:
    assert restore(tmp_path, lambda _: None) is None


def test_a_replay_that_does_not_start_is_passed_over(
    make_parts: Any, serve: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    parts = make_parts("replay.prioritized=true", "replay.lanes_per_item=4", "checkpoint.keep=3")
    fill(parts.replay, parts.layout, 12)
    parts.saver.save()
    key = int(next(iter(parts.replay.dataset())).keys[0])
    # Reverb takes this priority and then has a checkpoint that no server starts from.
    with pytest.raises(Exception, match=r"[Pp]riority"):
        parts.replay.client.mutate_priorities(parts.layout.table, {key: -0.5})
    parts.saver.save()
    newest = checkpoint.newest(parts.run.checkpoints)
    assert newest is not None
    newest.verify()

    experiment = make_experiment("replay.prioritized=true", "replay.lanes_per_item=4")
    tried, said, servers = [], [], []

    def use(found: Checkpoint) -> None:
        tried.append(found.path.name[:6])
        servers.append(serve(experiment, counting_specs, found.replay))

    used = restore(parts.run.checkpoints, use, said.append)
    assert used is not None
    assert tried == ["000002", "000001"]
    assert "000002" in said[0]
    assert "cannot be restored" in said[0]
    assert servers[0].info().current_size == 11


def test_checkpoints_none_of_which_can_be_used_end_the_run_in_words(make_parts: Any) -> None:
    parts = make_parts()
    for _ in range(2):
        parts.saver.save()

    def refuse(found: Checkpoint) -> None:
        raise BadCheckpoint(f"no {found.path.name[:6]}")

    with pytest.raises(UsageError, match=r"no checkpoint in .* can be used.* no 000002"):
        restore(parts.run.checkpoints, refuse)


def test_other_variables_are_refused_by_name_and_shape(
    make_parts: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    parts = make_parts()
    state = {name: array.numpy() for name, array in parts.learner.state().items()}
    other = Learner(make_experiment("agent.hidden_units=[9]"), counting_specs)
    before = other.state()
    with pytest.raises(UsageError, match=r"kernel is float32 \[8, 3\], and this agent's is float32 \[9, 3\]"):
        other.restore(state)
    assert other.state() == before
    deeper = Learner(make_experiment("agent.hidden_units=[8, 8]"), counting_specs)
    with pytest.raises(UsageError, match="which this agent has"):
        deeper.restore(state)
    state["999 dense/kernel"] = np.zeros(3, np.float32)
    with pytest.raises(UsageError, match="999 dense/kernel, which this agent does not have"):
        parts.learner.restore(state)
