"""A collector whose actions a server computes writes what one that acts by itself would have written."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from acting import asking, serving
from environments_for_tests import episode_length

from pipeline import environments
from pipeline.acting import central_actor
from pipeline.collector.central_collector import CentralCollector
from pipeline.collector.collector import Collector
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter

SMALL = ("replay.min_size=1", "learner.batch_size=8", "collect.inference='central'")
RUNS = {
    "episodes end": ("agent.n_step=3",),
    "masks": ("environment.import_path='environments_for_tests:Masked'",),
    "a ladder of lanes": ("exploration.ladder_alpha=7.0", "exploration.ladder_by='lane'"),
    "judged": (
        "replay.prioritized=true",
        "replay.initial_priority='td_error'",
        "environment.frame_stack=2",
        "agent.discount=0.5",
    ),
}
STEPS = 60

assert episode_length(0, 0) < STEPS


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is appended and padded, in order, with its priorities."""
    found: list[bytes] = []

    def listen(method: str) -> None:
        write = getattr(FrameWriter, method)

        def heard(writer: FrameWriter, frames: Any, priorities: Any = None) -> None:
            found.append(method.encode() + frames.tobytes() + (b"" if priorities is None else priorities.tobytes()))
            write(writer, frames, priorities)

        monkeypatch.setattr(FrameWriter, method, heard)

    listen("append")
    listen("pad")
    return found


@pytest.mark.parametrize("name", RUNS)
def test_the_same_frames_are_written(
    serve: Any, make_experiment: Callable[..., Any], publish: Any, written: list[bytes], name: str
) -> None:
    experiment = make_experiment(*SMALL, *RUNS[name])
    specs = environments.describe(experiment.environment)
    seen = FrameLayout.of(experiment, specs).agent_specs
    variables = publish(seen, prefers=1, environment_steps=9_000, gradient_steps=3)
    announced = msgspec.structs.replace(variables, program=b"", weights=())
    newer = publish(seen, prefers=2, environment_steps=9_000, gradient_steps=8)
    server, reports, frames = serve(experiment, specs), [], []
    with serving(experiment, seen, variables) as acting:
        for make, first, then in (
            (Collector, variables, newer),
            (lambda *of: CentralCollector(acting.address, lambda: True, *of), announced, announced),
        ):
            collector = make(experiment, specs, 0, "p", server.address, first)
            for step in range(STEPS):
                if step == STEPS // 2:
                    collector.use(then)
                    acting.server.network.variables = newer
                collector.step()
                assert collector.confirm(lambda: True)
                acting.server.network.variables = variables if step < STEPS // 2 - 1 else newer
            collector.complete()
            assert collector.confirm(lambda: True, everything=True)
            reports.append(collector.report(newer, last=True))
            collector.close()
            frames.append(list(written))
            written.clear()
            acting.server.network.variables = variables
    assert frames[0] == frames[1]
    alone, central = (
        msgspec.structs.replace(of, weights_seconds=0.0, blocked_seconds=0.0, resident_bytes=0) for of in reports
    )
    assert alone == central
    assert alone.weights_age == 0


def test_the_age_of_what_acts_is_that_of_the_servers_weights(
    serve: Any, make_experiment: Callable[..., Any], publish: Any
) -> None:
    experiment = make_experiment(*SMALL)
    specs = environments.describe(experiment.environment)
    old, new = publish(specs, gradient_steps=3), publish(specs, gradient_steps=8)
    with serving(experiment, specs, old) as acting:
        server = serve(experiment, specs)
        collector = CentralCollector(acting.address, lambda: True, experiment, specs, 0, "p", server.address, new)
        collector.step()
        assert collector.report(new).weights_age == 5, "its own publication is newer than what has acted"
        assert (collector._fields["gradient_steps"] == 3).all()
        acting.server.network.variables = new
        collector.step()
        assert collector.report(new).weights_age == 0
        assert (collector._fields["gradient_steps"] == 8).all()
        collector.close()


def test_a_step_that_the_server_does_not_answer_is_none_and_what_there_is_is_stored(
    serve: Any, make_experiment: Callable[..., Any], publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(central_actor, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(central_actor, "_LAST_SECONDS", 0.05)
    experiment = make_experiment(*SMALL, *RUNS["judged"])
    specs = environments.describe(experiment.environment)
    seen = FrameLayout.of(experiment, specs).agent_specs
    variables, goes_on = publish(seen), [True]
    server = serve(experiment, specs)
    with serving(experiment, seen, variables) as acting:
        collector = CentralCollector(
            acting.address, lambda: goes_on[0], experiment, specs, 0, "p", server.address, variables
        )
        for _ in range(5):
            collector.step()
        steps = collector.environment_steps
        acting.stop()
        goes_on[0] = False
        collector.step()
        assert collector.environment_steps == steps
        collector.complete()
        assert collector.confirm(lambda: True, everything=True)
        counts = collector.counts
        assert (counts.unconfirmed, counts.windows) == (0, 5 * experiment.collect.lanes)
        collector.close()


def test_the_server_knows_nothing_of_exploration(make_experiment: Callable[..., Any], publish: Any) -> None:
    """Two collectors with other epsilons get the same scores of the same observations."""
    experiment = make_experiment(*SMALL, "collect.collectors=2", "exploration.ladder_alpha=7.0")
    specs = environments.describe(experiment.environment)
    with (
        serving(experiment, specs, publish(specs, prefers=2)) as acting,
        asking(acting.address, experiment, specs, "a") as one,
        asking(acting.address, experiment, specs, "b") as other,
    ):
        observation = {"": np.ones((experiment.collect.lanes, 4), np.float32)}
        np.testing.assert_array_equal(one.q_values(observation), other.q_values(observation))
