"""Checkpoints: complete or not there; the newest is found; learner, counters and replay come back together."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agents import Specs
from pipeline import checkpoint, native
from pipeline.checkpoint import Checkpoint, Counters
from pipeline.frames import FrameLayout
from pipeline.variables import REPORTS_TABLE, VARIABLES_TABLE, Sender
from pipeline.writer import FrameWriter

Write = Callable[..., Checkpoint]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes checkpoints of a stand-in for learner and replay."""

    def write_one(
        gradient_steps: int, keep: int = 2, content: str = "", counters: Counters | None = None
    ) -> Checkpoint:
        reverb = checkpoint.reverb_folder(tmp_path / "checkpoints") / "2026-01-01"

        def write_replay() -> Path:
            reverb.mkdir(parents=True)
            for name in ("tables.tfrecord", "DONE"):
                (reverb / name).write_text(content)
            return reverb

        def write_learner(prefix: str) -> None:
            for suffix in (".index", ".data-00000-of-00001"):
                Path(prefix + suffix).write_text(content)

        counters = counters or Counters(gradient_steps=gradient_steps)
        return checkpoint.write(tmp_path / "checkpoints", counters, write_learner, write_replay, keep)

    return write_one


def names(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*"))


def newest(tmp_path: Path) -> int | None:
    found = checkpoint.newest(tmp_path / "checkpoints")
    return None if found is None else found.counters.gradient_steps


def test_no_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    assert newest(tmp_path) is None


def test_the_newest_has_the_most_gradient_steps(write: Write, tmp_path: Path) -> None:
    for steps in (0, 90, 1000, 999_999_999):
        assert write(steps, keep=10).is_complete()
        assert newest(tmp_path) == steps
    assert names(tmp_path / "checkpoints") == [0, 90, 1000, 999_999_999]


def test_as_many_as_asked_are_kept(write: Write, tmp_path: Path) -> None:
    for steps in range(10, 60, 10):
        write(steps, keep=2)
    assert names(tmp_path / "checkpoints") == [40, 50]
    write(60, keep=1)
    assert names(tmp_path / "checkpoints") == [60]


def test_a_checkpoint_outlives_the_replays_own_folder(write: Write, tmp_path: Path) -> None:
    written = write(1, content="items")
    shutil.rmtree(checkpoint.reverb_folder(tmp_path / "checkpoints"), ignore_errors=True)
    assert (written.replay / "tables.tfrecord").read_text() == "items"
    assert Path(written.learner_prefix + ".index").read_text() == "items"


def test_a_checkpoint_of_the_same_step_replaces_the_first(write: Write, tmp_path: Path) -> None:
    write(5, content="old")
    written = write(5, content="new")
    assert (written.replay / "tables.tfrecord").read_text() == "new"
    assert names(tmp_path / "checkpoints") == [5]


@pytest.mark.parametrize("missing", ["manifest.json", "replay/DONE", "replay", "learner.index"])
def test_an_incomplete_checkpoint_is_passed_over(write: Write, tmp_path: Path, missing: str) -> None:
    write(1)
    path = write(2).path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert newest(tmp_path) == 1


def test_a_checkpoint_with_a_cut_off_manifest_is_passed_over(write: Write, tmp_path: Path) -> None:
    write(1)
    manifest = write(2).path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    assert newest(tmp_path) == 1


@pytest.mark.parametrize("name", ["000000000009.part", "reverb", "notes", "9.old"])
def test_other_folders_are_no_checkpoints(write: Write, tmp_path: Path, name: str) -> None:
    written = write(3)
    shutil.copytree(written.path, tmp_path / "checkpoints" / name, dirs_exist_ok=True)
    assert newest(tmp_path) == 3


@pytest.mark.parametrize("half", ["learner", "replay"])
def test_a_write_that_fails_leaves_the_checkpoint_before_it(write: Write, tmp_path: Path, half: str) -> None:
    write(1)

    def fail(*_: Any) -> Path:
        raise OSError("disk full")

    def replay() -> Path:
        folder = tmp_path / "replay"
        folder.mkdir()
        return folder

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(
            tmp_path / "checkpoints",
            Counters(gradient_steps=2),
            fail if half == "learner" else lambda _: None,
            fail if half == "replay" else replay,
            2,
        )
    assert newest(tmp_path) == 1
    assert write(2).is_complete()


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_written_is_kept_beside_a_broken_checkpoint_of_more_steps(
    write: Write, tmp_path: Path, keep: int
) -> None:
    write(100, keep=5)
    broken = write(200, keep=5)
    (broken.replay / "DONE").unlink()
    assert newest(tmp_path) == 100  # from which the run is resumed
    for steps in (120, 140):
        write(steps, keep=keep)
        assert newest(tmp_path) == steps
    complete = [steps for steps in (100, 120, 140) if (tmp_path / "checkpoints" / f"{steps:012d}").exists()]
    assert complete == [120, 140][-keep:]


def test_counters_survive(write: Write, tmp_path: Path) -> None:
    counters = Counters(
        environment_steps=2**40,
        episodes=3,
        transitions=4,
        lost_transitions=5,
        dropped_episodes=2,
        shielded_steps=8,
        gradient_steps=6,
        train_seconds=7.25,
    )
    assert all(value for value in msgspec.structs.astuple(counters))
    write(6, counters=counters)
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    assert found.counters == counters


def test_the_replays_own_folder_starts_empty(tmp_path: Path) -> None:
    old = tmp_path / "reverb" / "2026-01-01"
    old.mkdir(parents=True)
    (old / "DONE").touch()
    assert checkpoint.reverb_folder(tmp_path) == tmp_path / "reverb"
    assert not old.exists()


# With a real replay


def fill(server: Any, layout: FrameLayout, first: int, count: int) -> None:
    """Writes frames whose `gradient_steps` number them."""
    writer = FrameWriter(server.address, layout, 4, 4, 2)
    random = np.random.default_rng(first)
    for number in range(first, first + count):
        frames = layout.empty(4)
        frames["gradient_steps"] = number
        frames["action"] = np.arange(4)
        frames["reward"] = random.normal(size=4)
        frames["observation/"] = random.normal(size=(4, 4))
        writer.append(frames)
    assert writer.confirm(lambda: True, everything=True)


def touch_learner(prefix: str) -> None:
    Path(prefix + ".index").touch()


def contents(drawn: dict[str, Any]) -> dict[tuple[int, int], bytes]:
    """Every transition drawn, by its number and lane."""
    return {
        (int(number), int(action[0])): observation.tobytes() + reward.tobytes()
        for number, action, observation, reward in zip(
            drawn["gradient_steps"], drawn["action"], drawn["observation"], drawn["reward"], strict=True
        )
    }


def test_a_restored_replay_holds_the_same_transitions(
    serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    experiment = make_experiment("replay.capacity=80", "learner.batch_size=32")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    fill(server, layout, 0, 31)
    before = contents(draw(server, 20))
    assert {number for number, _ in before} == set(range(10, 30))
    counters = Counters(environment_steps=124, transitions=120, gradient_steps=640)

    written = checkpoint.write(tmp_path / "c", counters, touch_learner, server.checkpoint, keep=1)

    found = checkpoint.newest(tmp_path / "c") or written
    restored = serve(experiment, counting_specs, found.replay)
    assert found.counters == counters
    assert restored.info().current_size == server.info().current_size == 20
    assert restored.inserted_items() == server.inserted_items() == 30
    assert contents(draw(restored, 20)) == before
    fill(restored, layout, 100, 6)
    assert restored.info().current_size == 20
    assert restored.inserted_items() == 35
    assert {number for number, _ in contents(draw(restored, 20))} == {*range(15, 30), *range(100, 105)}


def test_checkpoints_of_one_replay_follow_each_other(
    serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    layout, server = FrameLayout(counting_specs), serve(make_experiment(), counting_specs)
    written = []
    for round_ in range(3):
        fill(server, layout, 10 * round_, 11)
        counters = Counters(gradient_steps=round_)
        written.append(checkpoint.write(tmp_path / "c", counters, touch_learner, server.checkpoint, keep=2))
    assert not written[0].path.exists()
    for one, items in zip(written[1:], (20, 30), strict=True):
        assert serve(make_experiment(), counting_specs, one.replay).info().current_size == items


def test_messages_of_an_earlier_life_are_gone(
    serve: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    server = serve(make_experiment(), counting_specs)
    for table in (VARIABLES_TABLE, REPORTS_TABLE):
        assert Sender(server.address, table).send("old", 20.0)
    restored = serve(make_experiment(), counting_specs, server.checkpoint())
    sizes = {table.name: table.current_size for table in tables_of(restored)}
    assert sizes[VARIABLES_TABLE] == sizes[REPORTS_TABLE] == 0


def tables_of(server: Any) -> list[Any]:
    return list(server.client.server_info(timeout=10).values())


def test_a_checkpoint_changes_nothing_in_the_replay(
    serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    layout, server = FrameLayout(counting_specs), serve(make_experiment(), counting_specs)
    fill(server, layout, 0, 11)
    before = contents(draw(server, 20))
    server.checkpoint()
    assert contents(draw(server, 20)) == before
    assert native.reverb_client(server.address).ServerInfo(5)
