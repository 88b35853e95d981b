"""Two replicas train as one does: same weights, same figures, for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kinds import FEW
from tiers import tiered

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests" / "support"


FIRST = ("dqn noisy", "dqn normalized", "q_learning", "ppo")
"""What replicas have to agree on: draws, the moments of observations, gradients that are summed, several updates."""
BRANCHING = tuple(f"{name}, branching" for name in ("dqn", "r2d2", "ppo"))
"""With actions of several dimensions."""
GROUPS = {"first": FIRST, "others": tuple(name for name in FEW if name not in FIRST), "branching": BRANCHING}


def results(variants: tuple[str, ...]) -> dict[str, Any]:
    """What `two_replicas.py` found, by variant."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, SUPPORT))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "two_replicas.py"), *variants],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1_100)
@pytest.mark.parametrize("group", tiered(GROUPS, ["first"]))
def test_replicas_train_as_one_device_does(group: str) -> None:
    # One process a group: starting one takes as long as two of its variants do.
    found = results(GROUPS[group])
    assert set(found) == set(GROUPS[group])
    for variant, result in found.items():
        assert result["start"] == 0.0, variant
        assert result["end"] <= 1e-4, variant
        assert result["priorities"] <= 1e-3, variant
        for two, one in zip(result["outcomes_of_two"], result["outcomes"], strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=1e-4), variant
        assert result["skipped"] == [[[4], [4]], [[4], [4]]], variant
        assert result["learnt"] > 0.01, f"the weights of {variant} did not move"
        assert result["smallest_norm"] > 2 * result["clip_norm"], f"nothing of {variant} was clipped"
