"""benchmarks.trading: a short form of it, end to end, and a user's run beside its baselines."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from benchmarks.trading.walks import Decisions, Walk, constant, replayed, walk
from pipeline.experiment.config import UsageError, load

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "stop.environment_steps=2_000",
    "evaluation.every_steps=500",
    "learner.steps_per_call=16",
    'learner.loop="plain"',
)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.trading", "--coins=3", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)


def test_decisions_are_kept_and_the_page_written_from_them(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    flags = ("--configs=trading", "--seeds=3:4", f"--results={results}", f"--docs={tmp_path}")
    sets = [f"--set={line}" for line in SHORT]
    done = run(*flags, *sets)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "trading.md").read_text()
    assert "at a cost of 0.1 % of what is traded. Held out are rows 1,634 to 2,334 (701 steps)" in page
    assert "| agent, seed 3 |" in page
    assert "| buy and hold | +68.4 % | 1 | 15.4 % |" in page
    assert "| always sold | +0.0 % | 0 | 0.0 % |" in page
    assert (tmp_path / "images" / "trading.png").stat().st_size > 10_000
    before = results.read_bytes()
    (tmp_path / "trading.md").write_text("What it is.\n" + page + "\nWhat it is not.\n")
    assert run(*flags, *sets).returncode == 0
    assert results.read_bytes() == before, "what the file has is not trained again"
    again = (tmp_path / "trading.md").read_text()
    assert again == "What it is.\n" + page + "\nWhat it is not.\n"


def test_a_run_on_ones_own_prices_is_set_beside_its_baselines(tmp_path: Path) -> None:
    prices = tmp_path / "mine.csv"
    closes = 50.0 * np.exp(np.cumsum(0.01 * np.random.default_rng(0).standard_normal(1_000)))
    prices.write_text("\n".join(["close", *map(str, closes)]))
    lines = (*SHORT, f'environment.kwargs.csv="{prices}"', "environment.kwargs.cost=0.002", "replay.min_size=128")
    pipeline.train(load("trading", lines), tmp_path / "run", launcher="inline")
    done = run(f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "at a cost of 0.2 % of what is traded. Held out are rows 700 to 999 (300 steps)" in done.stdout
    held = 100.0 * (0.998 * closes[999] / closes[699] - 1.0)
    assert f"| buy and hold | {held:+.1f} % | 1 |" in done.stdout


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--seeds=3", "such as 0:5"),
        ("--configs=cartpole", "cartpole is no trading"),
        ("--configs=tradin", "no config 'tradin'"),
        ("--run_dir=nowhere", "nowhere"),
    ],
)
def test_a_users_mistake_is_one_line(flag: str, words: str, tmp_path: Path) -> None:
    done = run(flag, f"--results={tmp_path / 'results.jsonl'}", f"--docs={tmp_path}")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_kept_decisions_are_walked_as_they_were_made() -> None:
    experiment = load("trading")
    kept = Decisions("trading", 0, "", "".join(map(str, np.random.default_rng(0).integers(0, 2, 701))))
    walked = walk(experiment, "held-out", replayed(kept.of("held-out")))
    assert "".join(map(str, walked.actions[:, 0])) == kept.held_out
    assert walked.trades == [np.count_nonzero(np.diff([0, *walked.actions[:, 0]]))]
    with pytest.raises(UsageError, match="other periods"):
        walk(experiment, "held-out", replayed("1" * 700))


def test_a_drawdown_is_the_largest_loss_from_what_was_reached_before() -> None:
    equity = np.array([[1.0, 1.0], [2.0, 0.5], [1.5, 0.75], [3.0, 0.6], [1.8, 0.9]])
    one = Walk(np.zeros((4, 2), np.int64), equity, np.zeros(2, np.int64))
    assert one.drawdowns == pytest.approx([0.4, 0.5])
    assert one.returns == pytest.approx([0.8, -0.1])


def test_constant_positions_are_taken_in_every_lane() -> None:
    assert constant(1)({"": np.zeros((3, 5))}).tolist() == [1, 1, 1]
