"""A copy of a Reverb checkpoint with other settings and equal priorities: the data stays what it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf

from pipeline.messages.ports import free_port
from pipeline.replay import reverb_checkpoint

SIGNATURE = tf.TensorSpec((), tf.float32)
LARGEST = 1.7976931348623157e308


def serve(table: Any, folder: Path, restore_from: Path | None = None) -> tuple[reverb.Server, reverb.Client]:
    folder.mkdir(exist_ok=True)
    fallback = str(restore_from) if restore_from else None
    checkpointer = reverb.checkpointers.DefaultCheckpointer(str(folder), fallback_checkpoint_path=fallback)
    server = reverb.Server([table], free_port(), checkpointer)
    return server, reverb.Client(f"localhost:{server.port}")


def table(sampler: Any, limiter: Any, name: str = "experience", size: int = 10) -> reverb.Table:
    return reverb.Table(name, sampler, reverb.selectors.Fifo(), size, limiter, signature=SIGNATURE)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Six items, the last of which has a hundred times the priority, behind a limiter that lets one be sampled."""
    limiter = reverb.rate_limiters.RateLimiter(1.0, 1, min_diff=5.0, max_diff=100.0)
    server, client = serve(table(reverb.selectors.Uniform(), limiter), tmp_path / "first")
    for value in range(6):
        client.insert(np.float32(value), {"experience": 100.0 if value == 5 else 1.0})
    path = Path(client.checkpoint())
    server.stop()
    return path


def test_the_copy_has_the_settings_asked_for_and_the_items(stored: Path, tmp_path: Path) -> None:
    wanted = table(reverb.selectors.Prioritized(1.0), reverb.rate_limiters.MinSize(2), size=8)
    copy = tmp_path / "copy"
    copy.mkdir()
    assert reverb_checkpoint.differs(stored, wanted.info)
    reverb_checkpoint.restate(stored, wanted.info, copy, equal_priorities=True)
    assert not reverb_checkpoint.differs(copy, wanted.info)
    server, client = serve(wanted, tmp_path / "second", copy)
    info = client.server_info()["experience"]
    assert (info.max_size, info.current_size) == (8, 6)
    limiter = info.rate_limiter_info
    assert (limiter.min_size_to_sample, limiter.min_diff, limiter.max_diff) == (2, -LARGEST, LARGEST)
    assert info.sampler_options.prioritized.priority_exponent == 1.0
    drawn = [float(sample[0].data[0]) for sample in client.sample("experience", 200)]
    assert set(drawn) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert drawn.count(5.0) < 100, "its priority was a hundred times the others'"
    server.stop()


def test_the_original_is_left_as_it_was(stored: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    copy = tmp_path / "copy"
    copy.mkdir()
    reverb_checkpoint.restate(stored, table(reverb.selectors.Uniform(), reverb.rate_limiters.MinSize(1)).info, copy)
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before
    assert {path.name for path in copy.iterdir()} == set(before)


def test_a_checkpoint_without_the_table_is_refused(stored: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    other = table(reverb.selectors.Uniform(), reverb.rate_limiters.MinSize(1), "other")
    with pytest.raises(ValueError, match="holds no table other"):
        reverb_checkpoint.restate(stored, other.info, copy)


def test_priorities_stay_unless_they_are_to_be_equal(stored: Path, tmp_path: Path) -> None:
    wanted = table(reverb.selectors.Prioritized(1.0), reverb.rate_limiters.MinSize(1))
    copy = tmp_path / "copy"
    copy.mkdir()
    reverb_checkpoint.restate(stored, wanted.info, copy)
    server, client = serve(wanted, tmp_path / "second", copy)
    drawn = [float(sample[0].data[0]) for sample in client.sample("experience", 200)]
    assert drawn.count(5.0) > 150, "its priority is a hundred times the others'"
    server.stop()


def test_the_oldest_items_leave_a_smaller_table(stored: Path, tmp_path: Path) -> None:
    wanted = table(reverb.selectors.Uniform(), reverb.rate_limiters.MinSize(1), size=4)
    copy = tmp_path / "copy"
    copy.mkdir()
    reverb_checkpoint.restate(stored, wanted.info, copy)
    assert reverb_checkpoint.tally(copy, "experience") == (6, 0, 4)
    server, client = serve(wanted, tmp_path / "second", copy)
    assert client.server_info()["experience"].current_size == 4
    assert {float(sample[0].data[0]) for sample in client.sample("experience", 200)} == {2.0, 3.0, 4.0, 5.0}
    client.insert(np.float32(6), {"experience": 1.0})
    assert {float(sample[0].data[0]) for sample in client.sample("experience", 200)} == {3.0, 4.0, 5.0, 6.0}
    server.stop()


@pytest.mark.parametrize(
    ("ratio", "minimum", "slack", "bounds"),
    [
        # Six inserted, none sampled: the counts are at 6 * ratio.
        (2.0, 3, 5.0, (7.0, 17.0)),
        (0.5, 6, 4.0, (-1.0, 7.0)),
        # Two more are free before the table has its minimum: the counts will be at (6 + 2) * ratio.
        (2.0, 8, 5.0, (11.0, 21.0)),
    ],
)
def test_a_limiters_bounds_are_set_around_its_counts(
    stored: Path, tmp_path: Path, ratio: float, minimum: int, slack: float, bounds: tuple[float, float]
) -> None:
    wanted = table(reverb.selectors.Uniform(), reverb.rate_limiters.SampleToInsertRatio(ratio, minimum, slack))
    copy = tmp_path / "copy"
    copy.mkdir()
    reverb_checkpoint.restate(stored, wanted.info, copy)
    assert not reverb_checkpoint.differs(copy, wanted.info)
    server, client = serve(wanted, tmp_path / "second", copy)
    limiter = client.server_info()["experience"].rate_limiter_info
    assert (limiter.min_diff, limiter.max_diff) == bounds
    assert (limiter.samples_per_insert, limiter.min_size_to_sample) == (ratio, minimum)
    assert limiter.insert_stats.completed == 6
    server.stop()


def test_the_same_settings_do_not_differ(stored: Path) -> None:
    limiter = reverb.rate_limiters.RateLimiter(1.0, 1, min_diff=5.0, max_diff=100.0)
    assert not reverb_checkpoint.differs(stored, table(reverb.selectors.Uniform(), limiter).info)
    for sampler, size in ((reverb.selectors.Prioritized(1.0), 10), (reverb.selectors.Uniform(), 11)):
        assert reverb_checkpoint.differs(stored, table(sampler, limiter, size=size).info)
