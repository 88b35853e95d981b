"""Two replicas train as one does: same weights, same figures, for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kinds import VARIANTS

pytestmark = pytest.mark.xdist_group("replicas")  # one training of all variants serves every test

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    path = os.pathsep.join(str(folder) for folder in (HERE.parents[1], HERE.parent))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(HERE / "two_replicas.py")], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_replicas_train_as_one_device_does(results: dict[str, Any], variant: str) -> None:
    result = results[variant]
    assert result["start"] == 0.0
    assert result["end"] <= 1e-4
    assert result["priorities"] <= 1e-3
    for two, one in zip(result["outcomes_of_two"], result["outcomes"], strict=True):
        assert two[:-1] == pytest.approx(one[:-1], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_moved_and_clipping_was_active(results: dict[str, Any], variant: str) -> None:
    assert results[variant]["learnt"] > 0.01
    assert results[variant]["smallest_norm"] > 2 * results[variant]["clip_norm"]
