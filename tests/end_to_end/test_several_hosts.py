"""Short form of the run on several hosts: a link is cut, a host goes down, and the run is solved all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import needs_haproxy, needs_hosts

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [
    pytest.mark.slow,
    needs_hosts,
    needs_haproxy,
]


def test_a_run_outlives_a_link_that_is_cut_and_a_host_that_goes_down(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    command = [sys.executable, "-m", "benchmarks.reliability.several_hosts", f"--folder={folder}", "--cut_seconds=8"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    report: dict[str, Any] = json.loads((folder / "several_hosts.json").read_text())
    assert report["problems"] == []
    assert report["gradient_steps_while_cut"] > 0
    assert report["windows_while_cut"] > 0
    assert report["summary"]["solved"]
    assert report["played_return"] > 0.0
    account = report["summary"]["account"]
    assert (account["unaccounted"], account["in_flight"]) == (0, 0)
    assert [wire["clear"] for wire in report["wires"].values()] == [[], []]
    roles = {"replay-0", "replay-1", "learner-0", "learner-1", "inference-0", "collector-0", "collector-1"}
    assert set(report["metrics"]) == roles
    assert report["answered"] >= report["windows_of_central"] > 0


def test_a_proxy_that_is_given_notice_and_a_host_that_is_lost_come_back_and_the_ledger_balances(tmp_path: Path) -> None:
    folder = tmp_path / "preemption"
    command = [sys.executable, "-m", "benchmarks.reliability.preemption", f"--folder={folder}"]
    result = subprocess.run(
        [*command, "--ways=hand", "--roles=proxy-collectors"],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    notice, loss = (json.loads(line) for line in (folder / "preemption.jsonl").read_text().splitlines())
    assert (notice["fault"], notice["code"], notice["operator"]) == ("SIGTERM", 0, "")
    assert not any(notice["lost"].values())
    assert (loss["what"], loss["code"]) == ("proxy of collectors + collector", None)
    assert {name for name, count in loss["lost"].items() if count} <= {"collector fell silent"}
    assert f"| by hand | {loss['what']} | host lost |" in result.stdout
