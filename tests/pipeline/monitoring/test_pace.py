"""What is said while windows are not learned from as often as the config asks."""

import pytest

from pipeline.monitoring.pace import RatioMonitor


def watch_of(seconds: int, learned_per_stored: float, least: int = 100) -> str:
    """What is said in the end, of 1,000 windows stored in each second."""
    watch, said = RatioMonitor(wanted=8.0, least=least), ""
    for second in range(seconds + 1):
        said = watch.warning(1000 * second, int(learned_per_stored * 1000 * second), now=float(second))
    return said


@pytest.mark.parametrize("ratio", [6.5, 8.0, 9.5])
def test_a_ratio_near_the_one_asked_for_is_none_to_warn_of(ratio: float) -> None:
    assert watch_of(200, ratio) == ""


def test_a_ratio_that_is_off_for_a_minute_is_said_with_who_is_behind() -> None:
    assert watch_of(59, 4.0) == ""
    assert watch_of(60, 4.0) == (
        "4 samples per insert over the last minute, and replay.samples_per_insert=8: the learner is behind"
    )
    assert "the collectors are behind" in watch_of(90, 16.0)


def test_a_warning_ends_a_minute_after_its_cause() -> None:
    watch, learned, said = RatioMonitor(wanted=8.0, least=100), 0, {}
    for second in range(241):
        learned += 2000 if second <= 100 else 8000
        said[second] = watch.warning(1000 * (second + 1), learned, now=float(second))
    assert said[100]
    assert said[120], "most of the minute was off"
    assert not said[165]
    assert not said[240]


def test_few_windows_say_nothing_as_batches_come_in_lumps() -> None:
    assert watch_of(200, 4.0, least=70_000) == ""
