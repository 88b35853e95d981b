"""Two replicas train as one does: same weights, same figures, for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(HERE / "two_replicas.py")], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_replicas_end_with_the_weights_of_one_device(result: dict[str, Any]) -> None:
    assert result["start"] == 0.0
    assert result["end"] <= 1e-5


def test_the_weights_moved_and_clipping_was_active(result: dict[str, Any]) -> None:
    assert result["learnt"] > 0.01
    assert result["smallest_norm"] > 2 * result["clip_norm"]


def test_replicas_report_the_figures_of_one_device(result: dict[str, Any]) -> None:
    for two, one in zip(result["outcomes_of_two"], result["outcomes"], strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)
