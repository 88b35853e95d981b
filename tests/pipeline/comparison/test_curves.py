"""Curves from TensorBoard files: of several roles and lives, resumed, torn off, without TensorFlow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from event_files import write
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import curves
from pipeline.comparison.curves import Point
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory

TAG = curves.MEAN_RETURN


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def clock(seconds: float) -> dict[str, float]:
    return {"speed/train_seconds": seconds}


def test_a_resumed_run_shows_nothing_twice(run: RunDirectory) -> None:
    # Begun at 0 s; killed at 45 s; resumed from the checkpoint of step 250 at 100 s, after 6 s of training.
    write(run, "learner", (0.0, 0, clock(0.0)), (10.0, 0, clock(0.0)), (40.0, 400, clock(30.0)))
    write(run, "evaluator", (20.0, 100, {TAG: 1.0}), (30.0, 200, {TAG: 2.0}), (40.0, 300, {TAG: 3.0}))
    write(run, "learner", (100.0, 250, clock(6.0)), (110.0, 250, clock(6.0)), (120.0, 400, clock(16.0)))
    write(run, "evaluator", (121.0, 350, {TAG: 4.0}))
    found = curves.read(run, TAG)
    assert found is not None
    assert found.x.tolist() == [100, 200, 350]
    assert found.y.tolist() == [1.0, 2.0, 4.0]
    seconds = curves.read(run, TAG, over_seconds=True)
    assert seconds is not None
    assert seconds.x.tolist() == [10.0, 20.0, 20.0]  # the last was 17: time that a resume took back does not run back
    assert seconds.y.tolist() == found.y.tolist()


@pytest.mark.parametrize("damage", ["cut off", "zeros", "noise"])
def test_a_record_that_is_not_whole_ends_its_file_alone(run: RunDirectory, damage: str) -> None:
    path = write(run, "evaluator", (1.0, 1, {TAG: 1.0}), (2.0, 2, {TAG: 2.0}))
    whole = path.read_bytes()
    longer = write(run, "learner", (1.0, 1, {TAG: 1.0}), (2.0, 2, {TAG: 2.0}), (3.0, 3, {TAG: 3.0})).read_bytes()
    assert longer.startswith(whole)
    tail = {"cut off": longer[len(whole) : -5], "zeros": bytes(100), "noise": bytes(range(100))}[damage]
    path.write_bytes(whole + tail)
    write(run, "evaluator", (5.0, 5, {TAG: 5.0}))
    found = curves.read(run, TAG)
    assert found is not None
    assert found.y.tolist() == [1.0, 2.0, 5.0]


def test_the_first_role_that_has_a_tag_is_read(run: RunDirectory) -> None:
    assert curves.read(run, TAG) is None
    write(run, "collector-1", (1.0, 1, {"episode/return": 5.0, "health/resident_mib": 1.0}))
    write(run, "collector-0", (1.0, 1, {"episode/return": 4.0, "health/resident_mib": 2.0}))
    write(run, "learner", (1.0, 1, {"learner/loss": 3.0, "health/resident_mib": 3.0}))
    values = {}
    for tag in ("episode/return", "health/resident_mib", "learner/loss"):
        found = curves.read(run, tag)
        assert found is not None
        values[tag] = found.y.tolist()
    assert values == {"episode/return": [4.0], "health/resident_mib": [3.0], "learner/loss": [3.0]}
    assert curves.tags(run) == set(values)
    with pytest.raises(UsageError, match="--x=environment_steps"):
        curves.read(run, "learner/loss", over_seconds=True)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))),
)
def test_what_came_later_wins(written: list[tuple[int, int]], resumed: list[tuple[int, int]]) -> None:
    points = [Point(at, step, index) for index, (at, step) in enumerate(sorted(written, key=lambda pair: pair[0]))]
    kept = [
        point
        for index, point in enumerate(points)
        if not any(later.step <= point.step for later in points[index + 1 :])
        and not any(point.time < at and step < point.step for at, step in resumed)
    ]
    assert curves.last_written(points, resumed) == kept


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=9), st.lists(st.floats(0.0, 100.0), min_size=1, max_size=9))
def test_seconds_go_by_the_nearest_entry(times: list[float], marks: list[float]) -> None:
    times, marks = sorted(times), sorted(set(marks))
    clock = [Point(mark, 0, mark - 10.0) for mark in marks]  # training began at 10
    found = curves.train_seconds(np.array(times), clock)
    assert found == pytest.approx([max(0.0, at - 10.0) for at in times])


def test_no_tensorflow_is_imported(run: RunDirectory, run_python: Callable[..., str]) -> None:
    write(run, "evaluator", (1.0, 1, {TAG: 1.0}))
    code = """
    import sys
    from pathlib import Path
    from pipeline.comparison import comparison
    from pipeline.comparison import curves
    from pipeline.comparison import figures
    from pipeline.experiment.run_directory import RunDirectory

    run = RunDirectory(Path(sys.argv[1]))
    run.config.write_text("")
    figures.draw(comparison.compare([run]), run.path / "figure.png")
    print([name for name in ("tensorflow", "reverb", "tf_agents") if name in sys.modules])
    """
    assert run_python(code, str(run.path)).strip() == "[]"
    assert (run.path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_either_layout_and_of_both_are_read_by_new_and_former_names(tmp_path: Path) -> None:
    former, present, both = (RunDirectory(tmp_path / name) for name in ("former", "present", "both"))
    for run in (former, both):
        write(run, "learner", (0.0, 0, clock(0.0)), (10.0, 100, clock(10.0)))
        write(run, "evaluator", (5.0, 50, {TAG: 1.0, "evaluation/seconds": 3.0}))
        write(run, "collector-0", (6.0, 60, {"collector/epsilon": 0.5}))
    for run in (present, both):  # the second went on with a later version
        values = {TAG: 2.0, "exploration/epsilon": 0.25, "speed/evaluation_seconds": 4.0, **clock(20.0)}
        write(run, "", (20.0, 100, clock(10.0)), (30.0, 150, values))
    for tag, old, new in (
        (TAG, [1.0], [2.0]),
        ("exploration/epsilon", [0.5], [0.25]),
        ("collector/epsilon", [0.5], [0.25]),
        ("evaluation/seconds", [3.0], [4.0]),
    ):
        for run, wanted in ((former, old), (present, new), (both, old + new)):
            found = curves.read(run, tag)
            assert found is not None
            assert found.y.tolist() == wanted, (run.path.name, tag)
    assert "exploration/epsilon" in curves.tags(former)
    assert not curves.tags(former) & set(curves.FORMER_TAGS.values())
    assert curves.read_all(both)["exploration/epsilon"].x.tolist() == [60, 150]
    seconds = curves.read(both, TAG, over_seconds=True)
    assert seconds is not None
    assert seconds.x.tolist() == [5.0, 20.0]


def test_values_are_read_once_each_as_they_are_written(run: RunDirectory) -> None:
    newest = curves.Newest(run, TAG)
    assert newest.read() == []
    path = write(run, "", (1.0, 10, {TAG: 1.0, "learner/loss": 9.0}), (2.0, 20, {TAG: 2.0}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # the last one is still being written
    assert [(point.step, point.value) for point in newest.read()] == [(10, 1.0)]
    assert newest.read() == []
    path.write_bytes(whole)
    assert [point.value for point in newest.read()] == [2.0]
    write(run, "", (3.0, 30, {TAG: 3.0}))  # of a process that went on
    assert [point.value for point in newest.read()] == [3.0]
