"""Which weights a collector waits for: those of its last batch, or of the one before it."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.collector.turns import Turns


def test_one_that_takes_turns_waits_for_newer_weights_than_it_has() -> None:
    turns = Turns(0)
    assert turns.hand_over((0, 0, 7)) == (0, 0, 7)
    assert turns.hand_over((1, 0, 3)) == (1, 0, 3)


def test_one_that_is_ahead_goes_on_after_its_first_batch_and_waits_for_the_one_before_later() -> None:
    turns = Turns(1)
    assert turns.hand_over((0, 0, 7)) == (0, 0, 6)  # what it has is newer
    assert turns.hand_over((0, 0, 7)) == (0, 0, 7)  # a gradient step on its first batch
    assert turns.hand_over((0, 0, 8)) == (0, 0, 8)
    assert turns.hand_over((0, 0, 10)) == (0, 0, 9)  # newer ones were there already


def test_a_learner_that_begins_anew_has_the_count_begin_anew() -> None:
    turns = Turns(1)
    for version in (7, 7, 8):
        turns.hand_over((0, 0, version))
    assert turns.hand_over((1, 0, 5)) == (1, 0, 4)
    assert turns.hand_over((1, 0, 5)) == (1, 0, 5)
    assert turns.hand_over((1, 1, 5)) == (1, 1, 4)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 3))
def test_nobody_waits_for_ever_and_no_weights_are_older_than_promised(order: list[int], collectors: int) -> None:
    """Collectors and learner in any order: each hands over when it may, the learner takes as many as they are."""
    turns = [Turns(1) for _ in range(collectors)]
    awaited, begun, queue, version = [-1] * collectors, [0] * collectors, [], 0
    for choice in order * 5:
        index = choice % collectors
        if version > awaited[index]:
            queue.append(begun[index])
            awaited[index] = turns[index].hand_over((0, 0, version))[-1]
            begun[index] = max(version, awaited[index] + 1)
        elif all(version <= each for each in awaited):
            assert len(queue) >= collectors, "the learner waits, too"
        assert len(queue) <= 2 * collectors, "the queue has room for two batches"
        if len(queue) >= collectors and choice:
            for acted in queue[:collectors]:
                assert 0 <= version - acted <= 2 * collectors - 1
            del queue[:collectors]
            version += 1
