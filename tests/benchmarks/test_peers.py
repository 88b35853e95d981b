"""The comparison with peers: the judge and the clock, the runner, the environments, and the page."""

import ast
import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from benchmarks.peers import __main__ as runner
from benchmarks.peers import plan, report, results, works
from benchmarks.peers.cost import Cost
from benchmarks.peers.results import Run
from benchmarks.peers.virtual_environments import REQUIREMENTS, Unavailable, python_of

MACHINE = "2 cores"


def lean(observations: np.ndarray) -> np.ndarray:
    return (observations @ np.float32([0.0, 0.0, 1.0, 0.3]) > 0).astype(np.int64)


def request(**changes: object) -> works.Request:
    return works.Request(
        **{
            "work": "solve",
            "seed": 0,
            "steps": 1,
            "seconds": 10.0,
            "batch_sizes": (64,),
            "lanes": (1,),
            "started": time.time(),
        }
        | changes
    )


@pytest.mark.parametrize("policy", [lean, lambda observations: np.zeros(len(observations), np.int64)])
def test_greedy_mean_is_that_of_one_environment_after_the_other(policy) -> None:
    returns = []
    for lane in range(works.EVALUATION_EPISODES):
        environment = gymnasium.make(works.ENVIRONMENT)
        observation, _ = environment.reset(seed=7 + lane)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(int(policy(observation[None])[0]))
            total, over = total + reward, terminated or truncated
        returns.append(total)
    assert works.greedy_mean(policy, seed=7) == np.mean(returns)


def test_evaluation_is_off_the_clock_and_compiling_counts_as_start_up() -> None:
    solving = works.Solving(request(started=time.time() - 2.0))
    solving.start()
    time.sleep(0.05)

    def slow(observations: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return np.zeros(len(observations), np.int64)

    assert not solving.check(2_500, slow)
    result = solving.result()
    assert 0.05 <= result["train_seconds"] < 0.4
    assert result["startup_seconds"] >= 2.0
    assert (result["solved"], result["environment_steps"]) == (False, 2_500)
    solving.off_the_clock(0.04)
    after = solving.result()
    assert after["train_seconds"] == pytest.approx(result["train_seconds"] - 0.04, abs=2e-3)
    assert after["startup_seconds"] == pytest.approx(result["startup_seconds"] + 0.04, abs=2e-3)


def test_solving_ends_when_the_time_is_up() -> None:
    solving = works.Solving(request(seconds=0.0))
    solving.start()
    assert solving.check(2_500, lambda observations: np.zeros(len(observations), np.int64))
    assert not solving.solved


def test_ours_runs_the_fixed_work() -> None:
    work = plan.Work("fixed", {"steps": 300, "seconds": 60}, 120)
    printed = runner.run(plan.OURS, sys.executable, work, seed=0)
    assert printed["steps"] >= 300, printed
    assert printed["steps_per_second"] > 0
    assert printed["versions"]["dm-reverb"] == "0.14.0"
    assert printed["cost"]["cpu_seconds"] > 1.0
    assert printed["cost"]["mib"] > 200


def test_what_all_processes_of_a_program_take_is_counted() -> None:
    use = "import time; memory = bytearray(40_000_000)\nwhile time.process_time() < 0.8: pass\ntime.sleep(0.3)"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]]); {use}"
    with subprocess.Popen([sys.executable, "-c", both, use]) as process:
        cost = Cost(process.pid)
        process.wait()
        taken = cost.read()
    assert 1.2 < taken["cpu_seconds"] < 3.0
    assert 40 < taken["mib"] < 200


def test_a_program_without_a_result_is_missing_with_its_reason() -> None:
    late = plan.Work("fixed", {}, timeout=0.2)
    assert runner.run(plan.OURS, sys.executable, late, seed=0) == {"missing": "no result within 0 s"}
    unknown = plan.Work("fixed", {"colour": "red"}, 60)
    missing = runner.run(plan.OURS, sys.executable, unknown, seed=0)["missing"]
    assert missing.startswith("exit code 2: ")
    assert "--colour=red" in missing


def test_an_environment_that_is_complete_is_taken_and_other_pins_ask_for_another(tmp_path: Path) -> None:
    def made(text: str) -> Path:
        (tmp_path / "some_peer.txt").write_text(text)
        return tmp_path / "environments" / f"some_peer-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    other, complete = made("# other pins\n"), made("# pins\n")
    complete.mkdir(parents=True)
    (complete / "complete").touch()
    assert python_of("some_peer", tmp_path / "environments", tmp_path) == complete / "bin" / "python"
    made("# other pins\n")
    other.write_text("in the way")  # no command can make an environment here
    with pytest.raises(Unavailable, match=other.name):
        python_of("some_peer", tmp_path / "environments", tmp_path)


@pytest.mark.slow
def test_an_environment_is_made_once_and_anew_when_its_pins_change(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    pins.mkdir()
    (pins / "some_peer.txt").write_text("# none\n")
    first = python_of("some_peer", tmp_path / "environments", pins)
    assert first.exists()
    made = first.stat().st_ctime_ns, sorted((tmp_path / "environments").iterdir())
    assert python_of("some_peer", tmp_path / "environments", pins) == first
    assert made == (first.stat().st_ctime_ns, sorted((tmp_path / "environments").iterdir()))
    (pins / "some_peer.txt").write_text("./no-such-package\n")
    with pytest.raises(Unavailable, match="no-such-package"):
        python_of("some_peer", tmp_path / "environments", pins)


@pytest.mark.parametrize("peer", [*plan.PEERS, plan.CEILINGS, plan.JITTED])
def test_a_peer_is_pinned_says_its_settings_and_brings_no_accelerator(peer: str) -> None:
    pins = [line for line in (REQUIREMENTS / f"{peer}.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.!]+", pin) for pin in pins)
    assert not [pin for pin in pins if re.match("nvidia|cuda|triton", pin)]
    program = ast.parse((report.PROGRAMS / f"{peer}.py").read_text())
    assert len(ast.get_docstring(program) or "") > 200
    ours = [
        node.module
        for node in ast.walk(program)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("agents", "pipeline")
    ]
    assert not ours


RUNS = [
    Run("fixed", plan.OURS, 0, {"steps_per_second": 100.0}, "2026-01-01", MACHINE),
    Run("fixed", "sbx", 0, {"steps_per_second": 50.0}, "2026-01-01", MACHINE),
    Run("fixed", plan.OURS, 1, {"steps_per_second": 300.0}, "2026-01-01", MACHINE),
    Run("fixed", "sbx", 1, {"steps_per_second": 50.0}, "2026-01-01", MACHINE),
    Run("fixed", plan.OURS, 2, {"steps_per_second": 200.0}, "2026-01-02", MACHINE),
    Run("fixed", "rllib", 0, {"missing": "no result within 300 s"}, "2026-01-02", MACHINE),
    Run("environment", "tianshou", 0, {"missing": "cannot be installed: no wheel"}, "2026-01-02", MACHINE),
]


def solved(peer: str, repeat: int, train: float, startup: float) -> Run:
    result = {"solved": train < 50, "train_seconds": train, "startup_seconds": startup, "environment_steps": 1000}
    return Run("solve", peer, repeat, result, "2026-01-02", MACHINE)


def test_the_ratio_is_the_median_of_the_ratios_of_the_same_repeat() -> None:
    figure = report.FIGURES[0]
    found = report.by_peer(RUNS, figure)
    assert list(found) == [plan.OURS, "sbx"]
    assert report.ratio(found[plan.OURS], found["sbx"], figure) == 4.0  # of 2 and 6


def test_seconds_are_compared_the_other_way_round_and_with_start_up() -> None:
    runs = report.with_totals([solved(plan.OURS, 0, 4.0, 6.0), solved("sbx", 0, 60.0, 2.0)])
    seconds = {figure.keys[0]: report.by_peer(runs, figure) for figure in report.FIGURES if figure.work == "solve"}
    assert seconds["total_seconds"] == {plan.OURS: {0: 10.0}, "sbx": {0: 62.0}}
    figure = next(figure for figure in report.FIGURES if figure.work == "solve")
    assert report.ratio({0: 4.0}, {0: 60.0}, figure) == 15.0
    text = "\n".join(report.table(runs, figure))
    assert "| sbx | 60.0 | 60.0 to 60.0 | 1 | 0 of 1 | 1,000 | 15.00x |" in text


def test_targets_are_measured_by_the_best_peer_that_always_solved() -> None:
    runs = [
        solved(plan.OURS, 0, 4.0, 6.0),
        solved("sbx", 0, 20.0, 2.0),
        solved("tianshou", 0, 10.0, 2.0),
        solved("tianshou", 1, 60.0, 2.0),  # once out of time
        Run("learner", plan.OURS, 0, {"64": 79.0}, "2026-01-02", MACHINE),
        Run("learner", "sbx", 0, {"64": 100.0}, "2026-01-02", MACHINE),
        Run("learner", plan.CEILINGS, 0, {"64": 500.0}, "2026-01-02", MACHINE),
    ]
    lines = report.reached(report.with_totals(runs))
    assert "| Time to solve: seconds of training | sbx | 3x | 5.00x | reached |" in lines
    assert "| Time to solve: seconds with start-up | sbx | 1x | 2.20x | reached |" in lines
    assert "| Learner, batch 64: gradient steps/s | sbx | 0.8x | 0.79x | **missed** |" in lines


def test_the_page_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text("# Benchmarks\n\nBy hand.\n")
    report.write(RUNS, tmp_path)
    report.write([*RUNS, solved(plan.OURS, 0, 4.0, 6.0)], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.startswith("# Benchmarks\n\nBy hand.\n")
    assert text.count("## Peers") == 1
    assert "| reverb-dqn | 200 | 100 to 300 | 3 |  |" in text
    assert "- rllib, fixed: no result within 300 s" in text
    assert "- tianshou, environment: cannot be installed: no wheel" in text
    later = Run("fixed", "rllib", 0, {"steps_per_second": 9.0}, "2026-01-03", MACHINE)
    assert "no result within" not in report.page([*RUNS, later])
    assert (tmp_path / "images" / "peers.png").stat().st_size > 1_000


def test_results_are_read_as_they_were_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    assert results.read(path) == []
    for run in RUNS:
        results.append(path, run)
    assert results.read(path) == RUNS
    # What has no result is tried again.
    assert results.done(RUNS) == {("fixed", plan.OURS, n) for n in range(3)} | {("fixed", "sbx", n) for n in range(2)}
