"""What a run will take is computed before it starts: right numbers, refusals of what cannot be counted, warnings."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ArraySpec, Specs
from pipeline.experiment.config import UsageError, parse
from pipeline.launchers import sizes
from pipeline.replay.frames import FrameLayout
from pipeline.runtime.process import GIB

PICTURE = Specs(ArraySpec((84, 84, 1), "uint8", (255,)), 6)
STATE = Specs(ArraySpec((4,), "float32"), 2)


def named(experiment: Any, specs: Specs) -> dict[str, float]:
    return {part.name: part.bytes for part in sizes.parts(experiment, specs)}


def with_free(monkeypatch: pytest.MonkeyPatch, memory: float, disk: float) -> None:
    monkeypatch.setattr(sizes, "available_memory", lambda: memory * GIB)
    usage = shutil.disk_usage("/")._replace(free=int(disk * GIB))
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda _: usage)


def test_a_replay_is_as_large_as_its_frames() -> None:
    experiment = parse("", ("replay.capacity=1_000_000", "environment.frame_stack=4"))
    each = FrameLayout.of(experiment, PICTURE).num_bytes
    found = named(experiment, PICTURE)["the replay"]
    assert 1e6 * each * 0.99 < found < 1e6 * each * 1.02, "stacks are stored once"


@settings(max_examples=50, deadline=None)
@given(
    capacity=st.integers(10_000, 10**8),
    lanes=st.sampled_from([1, 4, 16]),
    prioritized=st.booleans(),
    kind=st.sampled_from(["dqn", "r2d2", "c51"]),
)
def test_more_of_anything_is_never_fewer_bytes(capacity: int, lanes: int, prioritized: bool, kind: str) -> None:
    lines = (f"collect.lanes={lanes}", f"replay.prioritized={str(prioritized).lower()}", f"agent.kind='{kind}'")
    one, two = (parse("", (*lines, f"replay.capacity={size}")) for size in (capacity, 2 * capacity))
    assert named(two, STATE)["the replay"] > 1.8 * named(one, STATE)["the replay"]
    assert named(one, PICTURE)["the replay"] > named(one, STATE)["the replay"]
    assert named(one, PICTURE)["batches"] > named(one, STATE)["batches"]


@pytest.mark.parametrize("torso", ["nature", "impala", "minatar"])
@pytest.mark.parametrize("shape", [(84, 84, 4), (20, 30, 3)])
def test_weights_are_counted_as_keras_does(torso: str, shape: tuple[int, ...]) -> None:
    from agents.networks import value_model

    experiment = parse("", (f"agent.image_torso='{torso}'", "agent.hidden_units=[512]"))
    specs = Specs({"a": ArraySpec(shape, "uint8", (255,)), "b": ArraySpec((2,), "int32", (3, 9))}, 3)
    kernels = [weight for weight in value_model(specs, experiment.agent, None, 0).weights if len(weight.shape) == 2]
    counted = sum(int(np.prod(weight.shape)) for weight in kernels)
    frames = experiment.learner.batch_size * experiment.window
    inputs = kernels[0].shape[0]
    assert named(experiment, specs)["the network"] == 4.0 * (sizes._COPIES * counted + inputs * frames)


def test_what_exceeds_the_memory_is_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment = parse("", ("replay.capacity=7_000_000",))
    with_free(monkeypatch, memory=23.0, disk=1_000.0)
    (warned,) = sizes.warnings(experiment, PICTURE, tmp_path / "new" / "run")
    assert "the replay up to 46.2 GiB" in warned.words
    assert "23.0 GiB are free" in warned.words
    assert warned.remedy == "lower replay.capacity"
    with_free(monkeypatch, memory=100.0, disk=100.0)
    (warned,) = sizes.warnings(experiment, PICTURE, tmp_path)
    assert "disk: 4 checkpoints" in warned.words
    assert "checkpoint.keep" in warned.remedy
    with_free(monkeypatch, memory=100.0, disk=1_000.0)
    assert list(sizes.warnings(experiment, PICTURE, tmp_path)) == []


@pytest.mark.parametrize(
    ("lines", "observation", "field"),
    [
        (("learner.batch_size=4096", "learner.steps_per_call=2000"), PICTURE.observation, "learner.steps_per_call"),
        ((), ArraySpec((), "int32", (50_000_000,)), "agent.hidden_units"),
        (("agent.kind='q_learning'",), ArraySpec((3,), "int32", (999, 999, 99)), "states"),
    ],
)
def test_the_warning_names_what_takes_most(
    lines: tuple[str, ...], observation: Any, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_free(monkeypatch, memory=8.0, disk=10_000.0)
    (warned,) = sizes.warnings(parse("", lines), Specs(observation, 4), tmp_path)
    assert field in warned.remedy


@pytest.mark.parametrize(
    ("lines", "specs", "words"),
    [
        ((f"replay.capacity={2**63}",), STATE, "replay.capacity"),
        (
            ("learner.batch_size=65536", "learner.steps_per_call=65536", f"replay.capacity={10**12}"),
            STATE,
            "learner.steps_per_call",
        ),
        (("agent.kind='q_learning'",), Specs(ArraySpec((4,), "int32", (999,) * 4), 4), "more entries than a table"),
        (("agent.kind='q_learning'",), Specs(ArraySpec((30,), "int32", (9,) * 30), 4), "more entries than a table"),
        (("agent.image_torso='minatar'",), Specs(ArraySpec((2, 9, 3), "uint8", (255,)), 4), "image_torso"),
        ((), Specs(ArraySpec((2,), "int32", (2**31 - 2,) * 2), 4), "categories"),
        (("collect.lanes=128",), Specs(ArraySpec((3000, 2000, 3), "uint8", (255,)), 4), "replay.lanes_per_item"),
    ],
)
def test_what_cannot_be_counted_is_refused(lines: tuple[str, ...], specs: Specs, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sizes.refuse(parse("", lines), specs)


@pytest.mark.parametrize("name", ["cartpole", "pong", "frozenlake", "cartpole_ppo", "cartpole_cql"])
def test_shipped_configs_are_not_refused(name: str) -> None:
    from pipeline.experiment.config import load

    experiment = load(name)
    specs = PICTURE if name == "pong" else Specs(ArraySpec((), "int32", (15,)), 4)
    sizes.refuse(experiment, specs)
    assert all(part.bytes > 0.0 for part in sizes.parts(experiment, specs))


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.runtime import process

    monkeypatch.setattr(process, "_CGROUP", tmp_path)
    alone = process.available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert process.available_memory() == pytest.approx(alone, rel=0.5)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert process.available_memory() == 1_500_000.0
