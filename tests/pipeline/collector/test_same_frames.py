"""The frames that a collector writes are those it has always written, byte for byte, for the same seed."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from environments_that_fail import Unreliable

from pipeline import environments
from pipeline.acting.frame_stacks import stacked
from pipeline.collector.collector import Collector
from pipeline.environments import EnvironmentFault
from pipeline.replay.writer import FrameWriter

SMALL = ("replay.min_size=1", "learner.batch_size=8")
UNRELIABLE = "environment.import_path='environments_that_fail:Unreliable'"
KINDS = "['raises', 'nan', 'nan_reward', 'shape']"

RUNS = {
    "episodes end": ("agent.n_step=3",),
    "one lane": ("collect.lanes=1", "replay.steps_per_item=4"),
    "groups of lanes": ("replay.lanes_per_item=2", "replay.steps_per_item=2"),
    "masks": ("environment.import_path='environments_for_tests:Masked'",),
    "faults": (UNRELIABLE, f"environment.kwargs={{kinds={KINDS}, chance=0.2}}", "collect.faulty_episodes=1.0"),
    "a fault too many": (UNRELIABLE, "environment.kwargs={kinds=['nan'], chance=0.05}"),
    "judged": (
        "replay.prioritized=true",
        "replay.initial_priority='td_error'",
        "environment.frame_stack=2",
        "agent.discount=0.5",
    ),
}
"""Overrides by name. Their Q-values and rewards are exact numbers, so that every processor computes the same bytes."""

DIGESTS = {
    "episodes end": "f60d11a67bd1ade8",
    "one lane": "40ef4be6ce82be39",
    "groups of lanes": "a0b8bb815dd423d1",
    "masks": "9dd8f096077bdd5b",
    "faults": "bd1b9c125d047177",
    "a fault too many": "2f8aca2fa25462ff",
    "judged": "3ad4d66e5be3c217",
}
"""Of all that is written, and of what is counted meanwhile."""


@pytest.mark.parametrize("name", RUNS)
def test_a_seed_gives_the_same_frames_as_ever(
    serve: Any, make_experiment: Callable[..., Any], publish: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where this fails and the change of frames is meant, take the new digests from its message."""
    written = hashlib.sha256()

    def listen(method: str) -> None:
        write = getattr(FrameWriter, method)

        def heard(writer: FrameWriter, frames: Any, priorities: Any = None) -> None:
            written.update(method.encode() + frames.tobytes())
            if priorities is not None:
                written.update(priorities.tobytes())
            write(writer, frames, priorities)

        monkeypatch.setattr(FrameWriter, method, heard)

    listen("append")
    listen("pad")
    experiment = make_experiment(*SMALL, *RUNS[name])
    specs = environments.describe(experiment.environment)
    variables = publish(stacked(specs, experiment.environment.frame_stack), prefers=1, environment_steps=9_000)
    Unreliable.forget()
    server = serve(experiment, specs)
    collector = Collector(experiment, specs, 0, "p", server.address, variables)
    try:
        for _ in range(80):
            collector.step()
            assert collector.confirm(lambda: True)
    except EnvironmentFault:
        assert name == "a fault too many"
    collector.complete()
    assert collector.confirm(lambda: True, everything=True)
    report = collector.report(variables, last=True)
    collector.close()
    told = report.environment_steps, report.episodes, report.returns, report.lengths, report.dropped_episodes
    written.update(repr((told, report.windows, report.items, report.unconfirmed)).encode())
    written.update(np.float32(report.largest_reward).tobytes())
    assert written.hexdigest()[:16] == DIGESTS[name]
