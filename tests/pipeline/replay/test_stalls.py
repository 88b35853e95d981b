"""Where nothing flows, what is said of who waits for whom."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.experiment.config import parse
from pipeline.replay.shards import stalls as shard_stalls
from pipeline.replay.shards.stalls import ShardState, absences
from pipeline.replay.stalls import explain, waits_for_collectors


def info(inserts: int, samples: int, size: int, low: float = -100.0) -> Any:
    """What Reverb says of a table with two samples an insert."""
    limiter = SimpleNamespace(
        insert_stats=SimpleNamespace(completed=inserts),
        sample_stats=SimpleNamespace(completed=samples),
        samples_per_insert=2.0,
        min_size_to_sample=10,
        min_diff=low,
    )
    return SimpleNamespace(rate_limiter_info=limiter, current_size=size, max_size=1000)


@pytest.mark.parametrize(
    ("inserts", "samples", "size", "waits", "words"),
    [
        (5, 0, 5, True, "the table has 5 of the 10 items"),
        (
            100,
            299,
            100,
            False,
            "the collectors wait for the learner",
        ),  # 100 * 2 - 299 - 1 = -100: one more may be drawn
        (100, 300, 100, True, "which do not insert"),
        (100, 0, 100, False, "the collectors wait for the learner"),
    ],
)
def test_the_limiters_state_says_who_waits(inserts: int, samples: int, size: int, waits: bool, words: str) -> None:
    experiment, seen = parse("", ()), info(inserts, samples, size)
    assert waits_for_collectors(experiment, seen) == waits
    text = explain(experiment, seen, items_per_call=4)
    assert words in text
    assert any(field in text for field in ("replay.samples_per_insert", "collect.lanes", "replay.min_size"))


FULL, EMPTY, AWAY = ShardState("host:1", True, 500), ShardState("host:2", True, 0), ShardState("host:3", False, 500)


@pytest.mark.parametrize(
    ("permits", "shards", "waits", "words"),
    [
        (None, (FULL, FULL), True, "the learner waits for shard 0, which holds the ratio"),
        ((100, 0, 100), (AWAY, FULL), True, "the learner waits for shard 0, which holds the ratio"),
        ((5, 0, 5), (FULL, EMPTY), True, "have not stored the 1000 windows that replay.min_size asks for"),
        ((100, 299, 100), (FULL, FULL), False, "the collectors wait for the learner"),
        ((100, 300, 100), (FULL, FULL), True, "which do not insert"),
        ((100, 0, 100), (EMPTY, AWAY), True, "which do not insert"),
        ((100, 0, 100), (EMPTY, FULL), False, "the collectors wait for the learner"),
    ],
)
def test_the_permits_and_the_shards_say_who_waits(permits: Any, shards: Any, waits: bool, words: str) -> None:
    experiment, seen = parse("", ("replay.min_size=1000",)), info(*permits) if permits else None
    assert shard_stalls.waits(seen, shards) == waits
    text = shard_stalls.explain(experiment, seen, shards)
    assert words in text
    for number, shard in enumerate(shards):
        assert (f"shard {number} at host:2 has nothing" in text) == (shard is EMPTY)
        assert (f"shard {number} at host:3 does not answer" in text) == (shard is AWAY)


def test_a_shard_that_is_away_is_named_with_what_it_means() -> None:
    assert absences([("a:1", 0.0), ("b:2", 0.0)], 180.0) == ""
    first = absences([("a:1", 12.3), ("b:2", 0.0)], 180.0)
    assert first.startswith("shard 0 at a:1 has not answered for 12 s: it holds the ratio")
    assert "learner.stall_seconds=180" in first
    both = absences([("a:1", 5.0), ("b:2", 7.0)], 180.0)
    assert "shard 1 at b:2 has not answered for 7 s: its collectors wait for it" in both
    assert "shard 0" in both
    assert "\n" not in both
