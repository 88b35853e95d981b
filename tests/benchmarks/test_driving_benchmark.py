"""The benchmark of drivers: who drives what, and what is counted."""

from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("highway_env", reason="the extra driving is not installed")
from benchmarks.learning import driving
from pipeline import environments
from pipeline.experiment.sections import EnvironmentConfig

TASK = EnvironmentConfig(
    id="highway-fast-v0",
    kwargs={"observation": "surroundings", "config": {"vehicles_count": 4, "vehicles_density": 4, "duration": 8}},
)
SHIELD = "pipeline.environments.driving_shield:safe_manoeuvres"


def alone(**settings: Any) -> EnvironmentConfig:
    kwargs = {"config": {"vehicles_count": 0, **settings}}
    return EnvironmentConfig(id="highway-fast-v0", kwargs=kwargs)


def test_idle_alone_on_the_road_keeps_its_speed_and_does_not_crash() -> None:
    config = alone(duration=5)
    for drive in driving.drives(config, driving.idle(environments.describe(config)), episodes=2, seed=0):
        assert not drive.crashed
        assert drive.speeds == pytest.approx([25.0] * 5, abs=0.1)
        assert drive.overruled == 0


def test_all_drive_the_same_episodes() -> None:
    specs, first = environments.describe(TASK), []

    def watched(observation: Any, begins: bool) -> Any:
        if begins:
            first.append(observation[""].copy())
        return driving.idle(specs)(observation, begins)

    once = list(driving.drives(TASK, watched, 3, 7))
    shielded = list(driving.drives(msgspec.structs.replace(TASK, shield=SHIELD), watched, 3, 7))
    assert np.array_equal(first[:3], first[3:])
    assert not np.array_equal(first[0], first[1])
    assert once == list(driving.drives(TASK, watched, 3, 7))
    assert sum(drive.overruled for drive in once) == 0
    assert sum(drive.overruled for drive in shielded) > 0


def test_a_row_says_what_was_driven() -> None:
    driven = [driving.Drive(2.0, True, [20.0, 30.0], 1), driving.Drive(4.0, False, [25.0, 25.0], 0)]
    wanted = "| idle | `safe_manoeuvres` | 3.00 ± 1.00 | 2.0 | 50% | 25.0 | 25.0% |"
    assert driving.row("idle", SHIELD, driven) == wanted
    assert driving.row("idle", "", driven).endswith("| 25.0 | - |")
    assert "| idle | - |" in driving.row("idle", "", driven)
