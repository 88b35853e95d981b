"""Runs looked into, exported and learned from again, by the commands."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from one_after_another import answers, refusals

import pipeline
from pipeline.comparison import replay_picture
from pipeline.datasets import dataset_export, datasets, replay_summary, stored_replay
from pipeline.datasets.stored_frames import episode_parts
from pipeline.experiment.config import UsageError, load, parse
from pipeline.experiment.run_directory import RunDirectory
from pipeline.records import checkpoint
from pipeline.records.counters import account

pytestmark = pytest.mark.xdist_group("replay command")  # two runs for all
SHRUNK = (
    "collect.lanes=4",
    "agent.hidden_units=[8]",
    "learner.batch_size=16",
    "learner.steps_per_call=8",
    'learner.loop="plain"',
    "replay.min_size=64",
    "replay.samples_per_insert=2",
    "evaluation.episodes=1",
    "evaluation.every_steps=100_000",
)
CAMERA = (
    "environment.import_path='environments_with_cameras:Camera'",
    "environment.id=''",
    "environment.kwargs={size=12}",
    "agent.image_torso='minatar'",
)
R2D2 = (
    'agent.kind="r2d2"', "agent.lstm_units=4", "agent.burn_in=1", "agent.sequence=3", "agent.period=2",
    "agent.stored_state=false", "agent.n_step=2",
)  # fmt: skip


def run(folder: Path, *lines: str) -> Path:
    pipeline.train(parse("", (*SHRUNK, "stop.gradient_steps=80", *lines)), folder, launcher="inline")
    return folder


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("cartpole") / "run", "agent.n_step=3", "replay.prioritized=true")


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("camera") / "run", *CAMERA, "environment.frame_stack=2")


class Commands(NamedTuple):
    """What the commands made of the CartPole run, and what they said."""

    dataset: Path
    picture: Path
    said: str


@pytest.fixture(scope="module")
def commands(cartpole: Path, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    folder = tmp_path_factory.mktemp("commands")
    dataset, picture = folder / "cartpole-v0", folder / "replay.png"
    lines = [
        ["inspect", f"--run_dir={cartpole}", f"--out={picture}"],
        ["export", f"--run_dir={cartpole}", "--format=tfrecord", f"--out={dataset}"],
    ]
    said = answers("replay", lines)
    assert [answer.code for answer in said] == [0, 0], said
    return Commands(dataset, picture, "".join(answer.output for answer in said))


def frames_of(run_dir: Path) -> set[bytes]:
    """What each stored step observed, did and got, with what it led to; without the policy's version and state."""
    stored = stored_replay.read(run_dir)
    names = [name for name, _ in stored.layout.fields() if name.startswith(("observation/", "mask"))]

    def told(frame: Any, after: Any) -> bytes:
        values = [frame[name] for name in (*names, "action", "reward", "terminated")]
        return b"".join(value.tobytes() for value in (*values, *(after[name] for name in names)))

    parts = [part for lane in stored.lanes for part in episode_parts(lane)]
    return {told(*pair) for part in parts for pair in itertools.pairwise(part.frames)}


@pytest.mark.parametrize("source", ["cartpole", "camera"])
def test_what_is_read_is_what_the_ledger_says(source: str, request: pytest.FixtureRequest) -> None:
    stored = stored_replay.read(request.getfixturevalue(source))
    counters = stored.counters
    assert stored.windows == counters.windows == account(stored.experiment, counters, stored.tally).stored
    parts = [part for lane in stored.lanes for part in episode_parts(lane)]
    assert sum(len(part.steps) for part in parts) == counters.environment_steps
    assert sum(not part.cut for part in parts) == counters.episodes
    assert stored.windows == counters.environment_steps + stored.ends
    assert stored.ends == counters.episodes


def test_the_commands_say_so_and_draw(cartpole: Path, commands: Commands) -> None:
    stored = checkpoint.newest(RunDirectory(cartpole).checkpoints)
    assert stored is not None
    (line,) = (line for line in commands.said.splitlines() if line.startswith("  windows  "))
    assert line.split()[1] == f"{stored.counters.windows:,}"
    for word in ("episode return", "priority of an item", "age in gradient steps", "duplicates", "faults"):
        assert word in commands.said
    assert re.search(rf"stored, as the run's ledger counts +{stored.counters.windows:,}\n", commands.said)
    assert commands.picture.read_bytes().startswith(b"\x89PNG")


def test_images_are_drawn_as_images(camera: Path, tmp_path: Path) -> None:
    stored = stored_replay.read(camera)
    found = replay_summary.findings(stored.lanes, stored.layout, 0, stored.of_items())
    assert not found.faults
    parts = [part for lane in stored.lanes for part in episode_parts(lane)]
    replay_picture.draw(tmp_path / "replay.png", found, parts, stored.layout)
    assert (tmp_path / "replay.png").stat().st_size > 50_000, "noise does not compress"


@pytest.mark.parametrize(
    ("source", "form", "whole_episodes", "lines"),
    [
        ("cartpole", "minari", True, ("agent.n_step=3",)),
        pytest.param("cartpole", "tfrecord", True, R2D2, marks=pytest.mark.slow),
        ("cartpole", "tfrecord", False, ("agent.n_step=2", "replay.prioritized=true")),
        pytest.param("camera", "tfrecord", True, (*CAMERA, "environment.frame_stack=2"), marks=pytest.mark.slow),
    ],
)
def test_an_export_has_what_was_stored_and_is_learned_from(
    source: str,
    form: str,
    whole_episodes: bool,
    lines: tuple[str, ...],
    request: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir, out = request.getfixturevalue(source), tmp_path / "sets" / "data-v0"
    monkeypatch.chdir(tmp_path)
    dataset_export.export(run_dir, Path("sets/data-v0"), form, whole_episodes)
    stored = stored_replay.read(run_dir)
    selection = datasets.select(stored.lanes, whole_episodes)
    left_out = sum(steps for _, steps in selection.left_out.values())
    assert selection.steps + left_out + stored.ends == stored.counters.windows
    assert bool(left_out) == whole_episodes, "collectors ended within episodes"

    learned = ("stop.gradient_steps=8", f"offline.dataset={json.dumps(str(out))}", *lines)
    summary = pipeline.train(parse("", (*SHRUNK, *learned)), tmp_path / "run", launcher="inline")
    assert (summary.gradient_steps, summary.environment_steps) == (8, 0)
    found = frames_of(tmp_path / "run")
    assert found <= frames_of(run_dir)
    assert len(found) == selection.steps


@pytest.mark.parametrize(
    ("damage", "lines", "words"),
    [
        (None, ('environment.id="Acrobot-v1"',), r"action masks are others than those of environment\.id='Acrobot-v1'"),
        ("data-00000.tfrecord", (), r"data-00000\.tfrecord has \d+ bytes and had \d+ when it was written: export it"),
        ("description.json", (), "is not the description of a dataset"),
    ],
)
def test_a_dataset_that_cannot_be_learned_from_is_refused_and_nothing_written(
    damage: str | None, lines: tuple[str, ...], words: str, commands: Commands, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(commands.dataset, data)
    if damage is not None:
        with (data / damage).open("a") as file:
            file.write("more")
    learned = (f"offline.dataset={json.dumps(str(data))}", "stop.gradient_steps=16", *lines)
    with pytest.raises(UsageError, match=words):
        pipeline.train(parse("", (*SHRUNK, *learned)), tmp_path / "run", launcher="inline")
    assert not (tmp_path / "run").exists()


WRONG = [
    ((), "a subcommand is missing: give inspect"),
    (("look",), "'look' is no subcommand"),
    (("inspect", "more", "--run_dir=x"), "unexpected argument 'more'"),
    (("inspect",), "give either --run_dir or --address"),
    (("inspect", "--run_dir=/nowhere"), "/nowhere holds no run"),
    (("inspect", "--run_dir=x", "--config=cartpole"), "--config and --set are of --address"),
    (("inspect", "--run_dir=x", "--format=minari"), "--format is not of inspect"),
    (("inspect", "--run_dir=x", "--out=x.jpeg"), "must end in .png"),
    (("inspect", "--address=here"), "'here' is not host:port"),
    (("inspect", "--address=a:1", "--out=x.png"), "--out needs transitions"),
    (("export", "--run_dir=x", "--out=y"), "--run_dir, --format and --out are needed"),
    (("export", "--run_dir=x", "--out=y", "--format=json"), "should be one of <minari|tfrecord>"),
    (("export", "--run_dir=x", "--out=y", "--format=minari", "--transitions"), "Minari's datasets hold episodes"),
    (("export", "--address=a:1"), "--address is not of export"),
]


def test_wrong_usage_is_one_line_before_anything_heavy_is_imported() -> None:
    light = "assert not {'tensorflow', 'reverb', 'matplotlib.pyplot'} & set(sys.modules)"
    refusals("replay", WRONG, then=light)


def test_what_has_no_experience_or_a_name_that_is_taken_is_refused(cartpole: Path, tmp_path: Path) -> None:
    on_policy, empty = RunDirectory(tmp_path / "ppo"), RunDirectory(tmp_path / "empty")
    on_policy.create(load("cartpole_ppo"))
    empty.create(parse("", SHRUNK))
    for folder, words in ((on_policy.path, "keeps no experience"), (empty.path, "no whole checkpoint of a replay yet")):
        with pytest.raises(UsageError, match=words):
            stored_replay.read(folder)
    with pytest.raises(UsageError, match="exists and is not empty: choose another"):
        dataset_export.export(cartpole, tmp_path, "tfrecord", True)
