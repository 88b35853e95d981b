"""Checkpoints: whole or not there; the newest is found; learner, counters and replay come back together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from waiting import SECONDS

from agents import Specs
from pipeline.messages.channel import Sender
from pipeline.messages.contents import REPORTS_TABLE, VARIABLES_TABLE, Array, Counts, Evaluation
from pipeline.records import checkpoint, checkpoint_writer
from pipeline.records.checkpoint import Checkpoint
from pipeline.records.counters import BestEvaluation, Counters, ServerRecord
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter
from pipeline.runtime import native

Write = Callable[..., Checkpoint]
STATE = {"000 kernel": Array.of(np.arange(6, dtype=np.float32).reshape(2, 3)), "001 count": Array.of(np.array(-2))}
FILES = ("manifest.json", "learner.msgpack", "replay/tables.tfrecord", "replay/items.tfrecord", "replay/DONE")


def write_to(folder: Path, counters: Counters, content: str = "items", keep: int = 2) -> Checkpoint:
    """Writes a checkpoint with a stand-in for Reverb."""

    def write_replay() -> Path:
        reverb = checkpoint_writer.reverb_folder(folder) / "2026-01-01"
        reverb.mkdir(parents=True)
        for name in ("tables.tfrecord", "items.tfrecord", "DONE"):
            (reverb / name).write_text("" if name == "DONE" else content)
        return reverb

    return Checkpoint(checkpoint_writer.write(folder, b"config", counters, STATE, write_replay, keep).path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes a checkpoint at some gradient steps, after a best evaluation at some."""

    def write_one(gradient_steps: int, best: int | None = None, **more: Any) -> Checkpoint:
        record = None if best is None else BestEvaluation(float(best), best, best)
        return write_to(folder, Counters(gradient_steps=gradient_steps, best=record), **more)

    return write_one


def steps_in(folder: Path) -> list[int]:
    """Gradient steps of the checkpoints in a folder, in the order of their writing."""
    return [int(path.name.partition("-")[2]) for path in sorted(folder.glob("[0-9]*"))]


def newest(folder: Path) -> int | None:
    found = checkpoint.newest(folder)
    return None if found is None else found.counters.gradient_steps


def test_no_folder_holds_no_checkpoint(folder: Path) -> None:
    assert newest(folder) is None
    assert not checkpoint.exists(folder)
    folder.mkdir()
    assert newest(folder) is None
    assert not checkpoint.exists(folder)


def test_the_last_one_written_is_the_newest(write: Write, folder: Path) -> None:
    for steps in (0, 90, 999_999_999, 1000):  # a run that goes on from an older one takes gradient steps back
        write(steps, keep=10)
        assert newest(folder) == steps
        assert checkpoint.exists(folder)
    assert steps_in(folder) == [0, 90, 999_999_999, 1000]


def test_as_many_as_asked_are_kept(write: Write, folder: Path) -> None:
    for steps in range(10, 60, 10):
        write(steps, keep=2)
    assert steps_in(folder) == [40, 50]
    write(60, keep=1)
    assert steps_in(folder) == [60]


def test_the_first_one_after_the_best_evaluation_is_kept_and_linked(write: Write, folder: Path) -> None:
    write(10)
    assert not (folder / "best").exists()
    for steps, best, kept in (
        (20, 15, [10, 20]),
        (30, 15, [20, 30]),
        (40, 15, [20, 30, 40]),
        (50, 15, [20, 40, 50]),
        (60, 55, [50, 60]),
        (70, 55, [60, 70]),
        (80, 55, [60, 70, 80]),
    ):
        write(steps, best=best, keep=2)
        assert steps_in(folder) == kept
        assert Checkpoint(folder / "best").counters.gradient_steps == (20 if best == 15 else 60)
    assert newest(folder) == 80


def test_a_checkpoint_outlives_the_replays_own_folder(write: Write, folder: Path) -> None:
    written = write(1, content="frames")
    shutil.rmtree(checkpoint_writer.reverb_folder(folder), ignore_errors=True)
    assert (written.replay / "items.tfrecord").read_text() == "frames"
    written.verify()


def test_what_was_written_comes_back(write: Write, folder: Path) -> None:
    evaluation = Evaluation(5, 6, 7.5, 1.0, 6.0, 9.0, 20.0, 3, 0.5, 1, is_best=True)
    numbers = {field.name: 7 + at for at, field in enumerate(msgspec.structs.fields(Counters)) if field.type is int}
    counters = Counters(
        **numbers | {"environment_steps": 2**40},
        lost={"collector killed": 5},
        processes={"collector-0.1": Counts(environment_steps=8)},
        left=["collector-0.0"],
        taken_before=(3, 4),
        evaluation=evaluation,
        largest_priority=3.5,
        support=(-1.5, 2.5),
        dataset_returns={"mean": 1.5},
        started_anew=["kernel"],
        largest_reward=2.5,
        train_seconds=7.25,
        best=BestEvaluation(7.5, 5, 6),
        servers=[ServerRecord("a", 5, 6, 7)],
        judged_by="other settings",
        mirrored_gradient_steps=8,
    )
    missing = [name for name, value in msgspec.structs.asdict(counters).items() if not value]
    assert not missing, f"give {missing} a value in this test"
    write_to(folder, counters)
    found = checkpoint.newest(folder)
    assert found is not None
    assert found.counters == counters
    assert found.manifest.mean_return == 7.5
    assert found.manifest.versions["tensorflow"].startswith("2.")
    assert found.size == sum((found.path / name).stat().st_size for name in FILES[1:])
    state = found.learner_state()
    assert state["000 kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["001 count"] == -2
    assert state["000 kernel"].dtype == np.float32


def test_counters_taken_from_a_checkpoint_are_a_copy(write: Write, folder: Path) -> None:
    found = write(3)
    found.counters.lost["killed"] = 4
    assert found.counters.lost == {}


# Damage


def flip(path: Path, where: float) -> None:
    """Flips one bit."""
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1 << 4
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: cut(path, 0.5),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "zeros at its end": lambda path: path.write_bytes(path.read_bytes()[:-3] + bytes(3)),
    **{f"a bit at {where:.0%}": (lambda path, where=where: flip(path, where)) for where in (0.0, 0.31, 0.77, 1.0)},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_the_reason(
    write: Write, folder: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(1)
    path = write(2).path / name
    if not path.stat().st_size and damage not in ("missing", "longer"):
        pytest.skip("the file is empty")
    DAMAGE[damage](path)
    assert newest(folder) == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(folder / "000002-000000000002") in record.getMessage()
    assert path.name in record.getMessage()


def test_every_bit_of_the_manifest_counts(write: Write, folder: Path) -> None:
    path = write(2).path / "manifest.json"
    whole = path.read_bytes()
    contents = Checkpoint(path.parent).manifest
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        try:
            found = Checkpoint(path.parent)
            found.verify()
        except checkpoint.BadCheckpoint:
            continue
        assert found.manifest == contents, f"byte {index}"  # such as a space that became another white space


def test_all_damaged_is_none(write: Write, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for written in (write(1), write(2)):
        (written.path / "learner.msgpack").unlink()
    assert newest(folder) is None
    assert checkpoint.exists(folder)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("number", "words"), [(1, "an older version"), (3, "a newer version")])
def test_other_formats_are_refused_in_words(
    write: Write, folder: Path, number: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(1)
    manifest = write(2).path / "manifest.json"
    contents = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**contents, "format": number}))
    assert newest(folder) == 1
    assert f"format {number} of {words}" in caplog.text
    assert "reads format 2" in caplog.text


def test_a_checkpoint_of_format_1_is_refused_in_words(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = folder / "000000000090"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text('{"format":1,"counters":{"gradient_steps":90}}')
    assert newest(folder) is None
    assert "format 1 of an older version" in caplog.text


@pytest.mark.parametrize("name", ["000009-000000000009.part", "reverb", "notes", "9.old", "best"])
def test_other_folders_are_no_checkpoints(write: Write, folder: Path, name: str) -> None:
    written = write(3)
    shutil.copytree(written.path, folder / name, dirs_exist_ok=True)
    assert newest(folder) == 3


def test_a_damaged_one_leaves_when_a_whole_one_follows(write: Write, folder: Path) -> None:
    write(100, keep=5)
    broken = write(200, keep=5)
    (broken.replay / "DONE").unlink()
    assert newest(folder) == 100  # from which the run is resumed
    write(120, keep=2)
    assert steps_in(folder) == [100, 120]
    write(140, keep=1)
    assert steps_in(folder) == [140]


# Failure


@pytest.mark.parametrize("what", ["disk full", "nothing there"])
def test_a_write_that_fails_leaves_the_checkpoint_before_it(write: Write, folder: Path, what: str) -> None:
    write(1)

    def replay() -> Path:
        if what == "disk full":
            raise OSError(what)
        return folder / what

    with pytest.raises(OSError, match=what):
        checkpoint_writer.write(folder, b"", Counters(gradient_steps=2), STATE, replay, 2)
    assert newest(folder) == 1
    assert [path.name for path in folder.glob("*.part")] == []
    assert write(2).path.is_dir()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(OSError, match="checkpoints"):
        write_to(tmp_path / "checkpoints", Counters())


WRITER = """
import sys
from pathlib import Path
from test_checkpoint import write_to
from pipeline.records.counters import BestEvaluation, Counters

folder, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    step += 1
    write_to(folder, Counters(gradient_steps=step, best=BestEvaluation(1.0, step // 3, 1)), content=str(step) * 100_000)
    print(step, flush=True)
"""


def writing_for_ever(folder: Path, after: int = 0) -> subprocess.Popen[str]:
    tests = Path(__file__).resolve().parent
    path = os.pathsep.join(map(str, (tests.parents[2], tests.parents[1] / "support", tests)))
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(after)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(folder: Path) -> None:
    random, last = np.random.default_rng(), 0
    for _ in range(6):
        process = writing_for_ever(folder, last)
        assert process.stdout is not None
        told = int(process.stdout.readline())
        time.sleep(random.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        found = checkpoint.newest(folder)
        assert found is not None
        last = found.counters.gradient_steps
        assert last >= told, "what was complete once is still there"
        assert (found.replay / "items.tfrecord").read_text() == str(last) * 100_000
    write_to(folder, Counters(gradient_steps=last + 1))
    assert list(folder.glob("*.part")) == []
    assert len(steps_in(folder)) <= 3


def test_a_reader_always_finds_a_whole_one_while_others_come_and_go(folder: Path) -> None:
    process = writing_for_ever(folder)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        reading = threading.Thread(target=process.stdout.read, daemon=True)  # a full pipe would stop the writer
        reading.start()
        seen, deadline = [newest(folder)], time.monotonic() + SECONDS
        while len(set(seen)) < 6 and time.monotonic() < deadline:
            seen.append(newest(folder))
    finally:
        process.kill()
        process.wait()
    reading.join(20)
    process.stdout.close()
    assert None not in seen
    assert seen == sorted(seen, key=lambda steps: steps or 0)
    assert len(set(seen)) >= 6


def test_the_replays_own_folder_starts_empty(tmp_path: Path) -> None:
    old = tmp_path / "reverb" / "2026-01-01"
    old.mkdir(parents=True)
    (old / "DONE").touch()
    assert checkpoint_writer.reverb_folder(tmp_path) == tmp_path / "reverb"
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


def contents(drawn: dict[str, Any]) -> dict[tuple[int, int], bytes]:
    """Every transition drawn, by its number and lane."""
    return {
        (int(number), int(action[0])): observation.tobytes() + reward.tobytes()
        for number, action, observation, reward in zip(
            drawn["gradient_steps"], drawn["action"], drawn["observation"], drawn["reward"], strict=True
        )
    }


def test_a_restored_replay_holds_the_same_windows(
    serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    experiment = make_experiment("replay.capacity=80", "learner.batch_size=32")
    layout, server = FrameLayout(counting_specs), serve(experiment, counting_specs)
    fill(server, layout, 0, 31)
    before = contents(draw(server, 20))
    assert {number for number, _ in before} == set(range(10, 30))
    counters = Counters(environment_steps=124, windows=120, gradient_steps=640)

    written = checkpoint_writer.write(tmp_path / "c", b"", counters, STATE, server.save, keep=1)

    found = checkpoint.newest(tmp_path / "c") or Checkpoint(written.path)
    restored = serve(experiment, counting_specs, found.replay)
    assert found.counters == counters
    assert restored.info().current_size == server.info().current_size == 20
    assert restored.tally().inserted == server.tally().inserted == 30
    assert contents(draw(restored, 20)) == before
    fill(restored, layout, 100, 6)
    assert restored.info().current_size == 20
    assert restored.tally().inserted == 35
    assert {number for number, _ in contents(draw(restored, 20))} == {*range(15, 30), *range(100, 105)}


def test_checkpoints_of_one_replay_follow_each_other(
    serve: Any, draw: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    layout, server = FrameLayout(counting_specs), serve(make_experiment(), counting_specs)
    written = []
    for round_ in range(3):
        fill(server, layout, 10 * round_, 11)
        counters = Counters(gradient_steps=round_)
        written.append(checkpoint_writer.write(tmp_path / "c", b"", counters, STATE, server.save, keep=2))
    assert not written[0].path.exists()
    for one, items in zip(written[1:], (20, 30), strict=True):
        assert serve(make_experiment(), counting_specs, Checkpoint(one.path).replay).info().current_size == items


def test_messages_of_an_earlier_life_are_gone(
    serve: Any, make_experiment: Any, counting_specs: Specs, tmp_path: Path
) -> None:
    server = serve(make_experiment(), counting_specs)
    for table in (VARIABLES_TABLE, REPORTS_TABLE):
        assert Sender(server.address, table).send("old", 20.0)
    restored = serve(make_experiment(), counting_specs, server.save())
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
    server.save()
    assert contents(draw(server, 20)) == before
    assert native.reverb_client(server.address).ServerInfo(5)
