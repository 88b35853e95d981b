"""A run on several hosts that are all on this machine, with TLS between them, a cut link and a host that goes down."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hosts import needs_hosts

from benchmarks.several_hosts import Report
from pipeline.haproxy import installed

ROOT = Path(__file__).resolve().parent.parent.parent


@needs_hosts
@pytest.mark.skipif(not installed(), reason="haproxy is not installed")
def test_a_run_over_several_hosts_survives_a_cut_link_and_a_lost_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.several_hosts", f"--folder={tmp_path / 'hosts'}", "--cut_seconds=8"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    report = msgspec.json.decode((tmp_path / "hosts" / "several_hosts.json").read_bytes(), type=Report)
    assert report.summary is not None
    assert report.summary.solved
    assert report.gradient_steps_while_cut > 0
    assert report.transitions_while_cut > 0
