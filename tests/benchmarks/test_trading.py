"""benchmarks.learning.trading: a short form of it, end to end, and a user's run beside its baselines."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import pipeline
from benchmarks.learning.trading.walks import Decisions, Walk, constant, replayed, walk
from pipeline.experiment.config import UsageError, load

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "stop.environment_steps=2_000",
    "evaluation.every_steps=500",
    "learner.steps_per_call=16",
    'learner.loop="plain"',
)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.learning.trading", "--coins=3", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow  # test_reach.py has the same of its command
@pytest.mark.timeout(1_300)
def test_what_is_missing_is_trained_and_kept_and_the_page_written_from_all(tmp_path: Path) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "trading.md"
    kept = Decisions("trading", 2, "01" * 1_000, "0" * 701)
    results.write_bytes(msgspec.json.encode(kept) + b"\n")
    before = results.read_bytes()
    page.write_text("What it is.\n<!-- trading: begin -->\nof before\n<!-- trading: end -->\nWhat it is not.\n")
    flags = ("--configs=trading", "--seeds=2:4", f"--results={results}", f"--docs={tmp_path}")
    done = run(*flags, *[f"--set={line}" for line in SHORT])
    assert done.returncode == 0, done.stderr
    first, second = results.read_bytes().splitlines(keepends=True)
    assert first == before, "what the file has is not trained again"
    trained = msgspec.json.decode(second, type=Decisions)
    assert (trained.config, trained.seed, len(trained.held_out)) == ("trading", 3, 701)
    text = page.read_text()
    assert text.startswith("What it is.\n")
    assert text.endswith("\nWhat it is not.\n")
    assert "of before" not in text
    assert "at a cost of 0.1 % of what is traded. Held out are rows 1,634 to 2,334 (701 steps)" in text
    assert "| agent, seed 2 | +0.0 % | 0 | 0.0 % |" in text
    assert "| agent, seed 3 |" in text
    assert "| buy and hold | +68.4 % | 1 | 15.4 % |" in text
    assert "| always sold | +0.0 % | 0 | 0.0 % |" in text
    assert (tmp_path / "images" / "trading.png").stat().st_size > 10_000


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
