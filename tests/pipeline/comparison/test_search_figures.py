"""Figures of searches: of trials that ended in every way, and of those that say nothing."""

from pathlib import Path

import pytest

from pipeline import UsageError
from pipeline.comparison.search_figures import Mark, draw_history, draw_importance


@pytest.mark.parametrize("marks", [
    [Mark(0, "complete", 3.0), Mark(1, "pruned", 1.0), Mark(2, "failed", None), Mark(3, "complete", 2.0)],
    [Mark(0, "failed", None)],
    [Mark(0, "pruned", None)],
])  # fmt: skip
def test_every_end_of_a_trial_is_drawn(tmp_path: Path, marks: list[Mark]) -> None:
    for is_return in (True, False):
        draw_history(marks, "mean return of the last evaluation", is_return, tmp_path / "history.png")
        assert (tmp_path / "history.png").stat().st_size > 5_000


def test_bars_of_importance(tmp_path: Path) -> None:
    draw_importance({"agent.n_step": 0.9, "agent.discount": 0.1}, 12, tmp_path / "importance.png")
    assert (tmp_path / "importance.png").stat().st_size > 5_000
    with pytest.raises(UsageError, match="cannot be written"):
        draw_importance({"agent.n_step": 1.0}, 12, tmp_path / "none" / "importance.png")
