"""What `--resume` may change: each row of the table with a real checkpoint, a server and a learner that goes on."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from replay_writing import write_frames

from agents import BUILDERS, Specs
from pipeline.experiment import resume as resuming
from pipeline.experiment.config import UsageError, parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.learner.learner import Learner
from pipeline.records import checkpoint_writer
from pipeline.records.checkpoint import Checkpoint
from pipeline.records.counters import Counters
from pipeline.replay.frames import FrameLayout

BASE = (
    "environment.import_path='environments_for_tests:Counting'",
    "environment.id=''",
    "agent.hidden_units=[8]",
    "agent.n_step=2",
    "collect.lanes=4",
    "learner.batch_size=16",
    "learner.steps_per_call=4",
    "learner.loop='plain'",
    "replay.min_size=64",
    "replay.capacity=400",
    "replay.steps_per_item=0",
)


def write(server: Any, experiment: Experiment, layout: FrameLayout, count: int, first: int = 0) -> None:
    lanes, random = experiment.collect.lanes, np.random.default_rng(first)
    frames = np.stack([layout.empty(lanes) for _ in range(count)])
    frames["gradient_steps"] = np.arange(first, first + count)[:, None]
    frames["observation/"] = random.normal(size=(count, lanes, 4))
    write_frames(server, experiment, layout, frames)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, counting_specs: Specs) -> Any:
    """A run that has learned a little, by the settings that it was run with."""
    from pipeline.messages.ports import free_port
    from pipeline.replay.embedded import EmbeddedReplay

    runs: dict[tuple[str, ...], tuple[RunDirectory, Checkpoint, dict[str, Any]]] = {}

    def make(*overrides: str) -> tuple[RunDirectory, Checkpoint, dict[str, Any]]:
        if overrides not in runs:
            experiment = parse("", (*BASE, *overrides))
            run = RunDirectory(tmp_path_factory.mktemp("run") / "run")
            run.create(experiment)
            folder = checkpoint_writer.reverb_folder(run.checkpoints)
            server = EmbeddedReplay(experiment, counting_specs, free_port(), folder, blocking=False)
            write(server, experiment, FrameLayout.of(experiment, counting_specs), 60)
            learner = Learner(experiment, counting_specs)
            for sample in server.dataset().take(2):
                learner.learn(sample)
            counters = Counters(gradient_steps=learner.gradient_steps)
            written = checkpoint_writer.write(run.checkpoints, b"", counters, learner.state(), server.save, 1)
            runs[overrides] = run, Checkpoint(written.path), learner.state()
            server.stop()
        return runs[overrides]

    return make


GOES_ON = [
    "learner.batch_size=32",
    "learner.batch_size=64",
    "learner.steps_per_call=12",
    "agent.learning_rate=0.5",
    "agent.learning_rate_final=0.5",
    "agent.learning_rate_decay_steps=10",
    "agent.adam_epsilon=0.01",
    "agent.gradient_clip_norm=0.0",
    "agent.discount=0.5",
    "agent.double=false",
    "agent.target_update_period=3",
    "agent.target_update_tau=0.5",
    "agent.reward_clip=1.0",
    "agent.cql_alpha=0.5",
    "agent.loss='mse'",
    "collect.collectors=3",
    "collect.lanes=8",
    "replay.capacity=96",
    "replay.capacity=4000",
    "replay.min_size=128",
    "replay.samples_per_insert=2.0",
    "exploration.strategy='boltzmann'",
    "environment.vectorization='sync'",
    "seed=7",
]


@pytest.mark.parametrize(
    "changes",
    [
        *(GOES_ON[first::3] for first in range(3)),  # together, and
        *(pytest.param([change], marks=pytest.mark.slow) for change in GOES_ON),  # each for itself
    ],
    ids=lambda changes: changes[0] if len(changes) == 1 else f"{len(changes)} from {changes[0]}",
)
def test_a_run_goes_on_with_what_may_change(
    stored: Any, serve: Any, counting_specs: Specs, changes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run, written, state = stored()
    experiment = run.check(parse("", (*BASE, *changes)), resume=True)
    for change in changes:
        assert f"{change.partition('=')[0]}=" in caplog.text, "what changes is said"

    server = serve(experiment, counting_specs, written.replay, blocking=True)
    capacity = experiment.replay.capacity // experiment.windows_per_item
    assert server.info().current_size == min(capacity, server.restored.present)
    assert server.info().max_size == capacity
    learner = Learner(experiment, counting_specs)
    learner.restore(written.learner_state())
    assert learner.state() == state
    sample = next(iter(server.dataset().take(1)))
    assert not learner.learn(sample).skipped
    assert learner.gradient_steps == 8 + experiment.learner.steps_per_call
    write(server, experiment, FrameLayout.of(experiment, counting_specs), 12, 100)  # collectors are not held back


STAYS = {
    "agent.kind='c51'": "network of another shape or meaning: agent.kind was 'dqn'",
    "agent.hidden_units=[9]": "network of another shape or meaning: agent.hidden_units was [8]",
    "agent.activation='tanh'": "agent.activation was 'relu'",
    "agent.dueling=true": "agent.dueling was False",
    "agent.noisy=true": "agent.noisy was False",
    "agent.normalize_observations=true": "agent.normalize_observations was False",
    "agent.n_step=3": "windows of 3 frames, and this agent learns from 4: keep agent.n_step",
    "environment.max_episode_steps=9": "frames are of another environment: environment.max_episode_steps was 0",
    "environment.kwargs.a=9": "environment.kwargs.a was None",
    "replay.lanes_per_item=2": "set replay.lanes_per_item=4 and replay.steps_per_item=16",
    "replay.steps_per_item=8": "set replay.lanes_per_item=4 and replay.steps_per_item=16",
    "replay.prioritized=true": "have 4 lanes and 16 steps each, and this experiment's have 1 and 1",
    "learner.batch_size=3": "are not whole items of 4 lanes and 16 steps: change learner.steps_per_call",
    "offline.dataset='x'": "checkpoints hold what it learns from",
}


@pytest.mark.parametrize("change", STAYS)
def test_what_has_to_stay_is_refused_with_the_reason(stored: Any, change: str) -> None:
    run, _, _ = stored()
    before = run.config.read_text()
    extra = ("stop.seconds=1.0",) if "offline" in change else ()
    with pytest.raises(UsageError) as caught:
        run.check(parse("", (*BASE, change, *extra)), resume=True)
    assert STAYS[change] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run.config.read_text() == before


def test_the_lanes_of_an_on_policy_run_stay(tmp_path: Path) -> None:
    on_policy = ("agent.kind='ppo'", "exploration.strategy='boltzmann'", "learner.steps_per_call=1")
    fitting = ("replay.samples_per_insert=1.0", "collect.lanes=4", "learner.batch_size=4")
    run = RunDirectory(tmp_path / "run")
    run.create(parse("", (*on_policy, *fitting)))
    other = parse("", (*on_policy, *fitting, "collect.lanes=8", "learner.batch_size=8"))
    with pytest.raises(UsageError, match=r"sequences of 4 lanes together: set collect.lanes so"):
        run.check(other, resume=True)
    two = parse("", (*on_policy, *fitting, "collect.collectors=2", "learner.batch_size=8"))
    assert run.check(two, resume=True) == two


def test_every_field_that_stays_is_one() -> None:
    for name in resuming.REFUSED:
        section, _, field = name.partition(".")
        assert field in (*getattr(Experiment(), section).__struct_fields__, "kind"), name
    for builder in BUILDERS.values():
        assert resuming.shaping_fields(builder.config) <= set(builder.config.__struct_fields__)


@pytest.mark.parametrize("kind", BUILDERS)
def test_no_field_that_may_change_changes_the_variables(kind: str) -> None:
    # Each is given another value; of those that change nothing in the table's eyes, none may change a shape.
    from kinds import config_of, specs_of

    from agents import build

    def shapes(config: Any) -> list[Any]:
        agent = build(kind, specs_of(kind), config, epsilon=0.1, seed=0)
        return [(variable.shape, variable.dtype) for variable in agent.variables]

    config = config_of(kind)
    stays = resuming.shaping_fields(type(config))
    free = [name for name in type(config).__struct_fields__ if name not in stays]
    window = ("n_step", "burn_in", "sequence", "rollout")
    numbers = {name: getattr(config, name) for name in free if name not in window}
    changed = {
        name: not value if isinstance(value, bool) else value / 2 if isinstance(value, float) else value + 1
        for name, value in numbers.items()
        if isinstance(value, bool | int | float)
    }
    for name in ("rmsprop_decay", "rmsprop_epsilon", "weight_decay"):  # the optimizer reads none of them
        changed.pop(name, None)
    if config.kind in ("rainbow", "boot_dqn"):  # noisy layers and those of ensembles are not renewed
        changed |= {"redo_period": 0, "reset_period": 0}
    if config.kind == "boot_dqn":
        changed["noisy"] = False
    if changed.get("munchausen"):
        changed["double"] = False
    assert shapes(msgspec.structs.replace(config, **changed)) == shapes(config), (
        f"one of {sorted(changed)} gives the variables another shape: name it in `shapes_network` of the class that "
        "adds it, so that a resumed run keeps it"
    )


@pytest.mark.parametrize("before", [False, True])
def test_a_run_goes_on_under_the_other_launcher(
    stored: Any, serve: Any, counting_specs: Specs, make_experiment: Any, before: bool
) -> None:
    # The inline launcher has a limiter without a ratio: restored as it is, it would let the collectors run ahead.
    experiment = parse("", BASE)
    layout = FrameLayout.of(experiment, counting_specs)
    first = serve(experiment, counting_specs, blocking=before)
    write(first, experiment, layout, 40)
    other = serve(experiment, counting_specs, first.save(), blocking=not before)
    write(other, experiment, layout, 12)
    assert len(list(other.dataset().take(3))) == 3
    assert (other.info().rate_limiter_info.max_diff < 1e300) is not before


@pytest.mark.parametrize(("asked", "said"), [("auto", []), ("loopback", ["replay.private='loopback' (was 'off')"])])
def test_what_a_launcher_has_made_of_privacy_is_no_change(asked: str, said: list[str]) -> None:
    stored = parse("", ('replay.private="off"',))  # as Ray's launcher writes it
    assert resuming.changes(stored, parse("", (f'replay.private="{asked}"',))) == said
