"""The check before a release: what counts as a loss, and a whole short run of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.regression.ratios import RATIOS
from benchmarks.regression.verdict import LARGEST_LOSS, judge

SHORT = ("--seconds=0.1", "--repeats=1", "--environment_steps=10000")


def check(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.regression", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("value", "larger_is_better", "loss", "failed"),
    [
        (8.0, True, 0.2, True),
        (9.0, True, 0.1, False),
        (12.0, True, -0.2, False),
        (12.0, False, 0.2, True),
        (11.0, False, 0.1, False),
        (5.0, False, -0.5, False),
    ],
)
def test_a_fall_of_what_is_to_be_large_is_a_loss_and_a_rise_of_what_is_to_be_small(
    value: float, larger_is_better: bool, loss: float, failed: bool
) -> None:
    verdict = judge(value, [9.0, 10.0, 40.0], larger_is_better)
    assert verdict.median == 10.0
    assert verdict.loss == pytest.approx(loss)
    assert verdict.failed is failed


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.booleans())
def test_what_was_won_never_fails(value: float, recorded: float, larger_is_better: bool) -> None:
    won = value >= recorded if larger_is_better else value <= recorded
    verdict = judge(value, [recorded], larger_is_better)
    assert verdict.failed is (verdict.loss > LARGEST_LOSS)
    assert not (won and verdict.failed)


def test_each_ratio_was_recorded_five_times_at_least() -> None:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "regression" / "baselines.jsonl"
    recorded = [json.loads(line)["ratios"] for line in file.read_text().splitlines()]
    assert all(sum(name in run for run in recorded) >= 5 for name in RATIOS)


def test_what_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    for flags, words in (
        (["--ratios=speed"], "there is no speed; there are compiled_to_tf_agents"),
        ([f"--baselines={tmp_path / 'none.jsonl'}"], "record some with --record=10"),
    ):
        done = check(*flags)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert words in done.stderr


@pytest.mark.slow
def test_it_records_passes_what_is_better_and_fails_what_was_ten_times_as_good(tmp_path: Path) -> None:
    file = tmp_path / "baselines.jsonl"
    recorded = check(*SHORT, f"--baselines={file}", "--record=1")
    assert recorded.returncode == 0, recorded.stderr
    ratios = json.loads(file.read_text())["ratios"]
    assert list(ratios) == list(RATIOS)
    assert all(value > 0 for value in ratios.values())
    file.write_text(json.dumps({"ratios": {"collector_to_bare": ratios["collector_to_bare"] * 10}}))
    failed = check(*SHORT, f"--baselines={file}", "--ratios=collector_to_bare")
    assert failed.returncode == 1
    assert "lost more than 15%: collector_to_bare" in failed.stderr
    file.write_text(json.dumps({"ratios": {"collector_to_bare": ratios["collector_to_bare"] / 10}}))
    assert check(*SHORT, f"--baselines={file}", "--ratios=collector_to_bare").returncode == 0
