"""Replay servers, publications and experiments on the counting environment."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import ArraySpec, DqnConfig, Specs
from pipeline.experiment.config import parse
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array, CollectorReport, Report, Variables
from pipeline.messages.ports import free_port

COUNTING = (
    "environment.import_path='environments_for_tests:Counting'",
    "environment.id=''",
    "collect.lanes=4",
    "learner.batch_size=8",
    "learner.steps_per_call=4",
    "replay.min_size=8",
    "replay.steps_per_item=1",
)


@pytest.fixture(scope="session")
def make_experiment() -> Callable[..., Experiment]:
    """A small experiment on `Counting`, with overrides."""
    return lambda *overrides: parse("", (*COUNTING, *overrides))


@pytest.fixture(scope="session")
def counting_specs() -> Specs:
    return Specs(ArraySpec((4,), "float32"), 3)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts replay servers on free ports. By default without a ratio to hold, so that no insert can block a test."""
    from pipeline.replay.embedded import EmbeddedReplay

    servers: list[EmbeddedReplay] = []

    def start(experiment: Experiment, specs: Specs, restore_from: Path | None = None, blocking: bool = False) -> Any:
        folder = tmp_path / f"reverb-{len(servers)}"
        servers.append(EmbeddedReplay(experiment, specs, free_port(), folder, restore_from, blocking))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def publish() -> Callable[..., Variables]:
    """Publications of a linear Q-network that prefers one action, whatever it observes."""
    from agents.networks import value_model
    from pipeline.acting import network_program

    programs: dict[str, bytes] = {}

    def make(specs: Specs, prefers: int = 0, gradient_steps: int = 0, environment_steps: int = 0) -> Variables:
        if repr(specs) not in programs:
            programs[repr(specs)] = network_program.convert(
                value_model(specs, DqnConfig(hidden_units=()), None, seed=0), specs
            )
        (leaf,) = specs.leaves().values()
        kernel = np.zeros((int(np.prod(leaf.shape)), specs.num_actions), np.float32)
        bias = np.eye(specs.num_actions, dtype=np.float32)[prefers]
        weights = (Array.of(kernel), Array.of(bias))
        return Variables(gradient_steps, environment_steps, program=programs[repr(specs)], weights=weights)

    return make


@pytest.fixture
def receive() -> Callable[..., list[CollectorReport]]:
    """Reports that reach a replay, as they come, up to a collector's last one.

    They are taken one by one: a stream of them would try again for ever to reach a server that has been stopped.
    """
    from pipeline.messages.channel import take
    from pipeline.messages.contents import REPORTS_TABLE
    from pipeline.runtime import native

    def start(address: str, handle: Callable[[CollectorReport], None] = lambda _: None) -> list[CollectorReport]:
        reports: list[CollectorReport] = []

        def accept(report: CollectorReport) -> None:
            reports.append(report)
            handle(report)

        def run() -> None:
            client = native.reverb_client(address)
            while not (reports and reports[-1].last):
                take(client, REPORTS_TABLE, Report, 1, accept)

        threading.Thread(target=run, name="reports", daemon=True).start()
        return reports

    return start


@pytest.fixture
def draw() -> Callable[..., dict[str, Any]]:
    """Transitions that the learner would get in some calls, by field: NumPy arrays [transitions, T, ...]."""
    from samples import trajectory_of

    def from_server(server: Any, calls: int) -> dict[str, Any]:
        info = server.info()
        assert info.current_size >= info.rate_limiter_info.min_size_to_sample, "drawing would wait for ever"
        samples = list(server.dataset().take(calls).as_numpy_iterator())
        names = ("step_type", "next_step_type", "reward", "discount", "action", "observation")
        trajectories = [trajectory_of(server, sample) for sample in samples]
        fields = {name: [getattr(trajectory, name) for trajectory in trajectories] for name in names}
        fields["gradient_steps"] = [sample.gradient_steps for sample in samples]
        return {name: _flat(parts) for name, parts in fields.items()}

    return from_server


def _flat(parts: list[Any]) -> Any:
    """Joins [K, B, ...] arrays, or nests of them, to [transitions, ...]."""
    import tensorflow as tf

    return tf.nest.map_structure(
        lambda *leaves: np.concatenate([leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves]), *parts
    )
