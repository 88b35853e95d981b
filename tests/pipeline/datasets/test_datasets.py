"""Datasets in files: what is written is what other readers find, and what the learner gets back."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from environments_of_dimensions import FORMS
from environments_with_cameras import Camera
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets import datasets, minari_format, tfrecord_format
from pipeline.datasets.datasets import Columns, Selection
from pipeline.datasets.minari_format import Spaces
from pipeline.datasets.stored_frames import STILL_GOING, EpisodePart, Lane
from pipeline.environments.lanes.leaves import from_leaves
from pipeline.environments.lanes.spaces import leaf_readers, specs_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.replay.frames import FIRST, LAST, MID, FrameLayout
from pipeline.runtime.output_folder import refuse_taken, write_whole

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
SPACES: dict[str, spaces.Space[Any]] = {
    "vector": BOX,
    "double": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    "bits": spaces.Box(0, 1, (4, 3), np.bool_),
    "small image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "gray": spaces.Box(0, 255, (33, 32), np.uint8),
    "channel": spaces.Box(0, 255, (32, 32, 1), np.uint8),
    "color": spaces.Box(0, 255, (32, 40, 3), np.uint8),
    "state": spaces.Discrete(7, start=-3),
    "states": spaces.MultiDiscrete([3, 4], start=[1, 0]),
    "nested": spaces.Dict(
        {"camera": spaces.Box(0, 255, (32, 32, 3), np.uint8), "car": spaces.Tuple([BOX, spaces.MultiBinary(2)])}
    ),
}


def episodes(space: spaces.Space[Any], action: spaces.Space[Any], lengths: list[int], masked: bool) -> Any:
    """A layout, and episodes of so many steps with random frames."""
    specs = specs_of(space, action, masked)
    layout, random = FrameLayout(specs), np.random.default_rng(0)
    space.seed(0)
    readers, found = leaf_readers(space), []
    for number, length in enumerate(lengths):
        batch = [space.sample() for _ in range(length + 1)]
        leaves = {name: np.concatenate([read(_batched(one)) for one in batch]) for name, read in readers.items()}
        terminated = np.zeros(length, np.bool_)
        terminated[-1] = number % 2
        columns = Columns(
            leaves,
            random.integers(0, 2, (length + 1, specs.num_actions)) if masked else None,
            random.integers(0, specs.action_sizes or specs.num_actions, (length, *specs.action_shape)),
            random.normal(size=length).astype(np.float32),
            terminated,
            random.integers(0, 100, length),
        )
        found.append(datasets.frames(layout, columns))
    return layout, found


def _batched(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _batched(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(_batched(part) for part in observation)
    return np.asarray(observation)[np.newaxis]


def same(found: Any, expected: Any) -> None:
    """Holds episodes of frames against each other, the last frame's own step apart."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", list(SPACES))
def test_leaves_become_the_observations_that_they_were(name: str) -> None:
    space = SPACES[name]
    layout, (episode,) = episodes(space, spaces.Discrete(2), [3], masked=False)
    leaves = {leaf: episode[layout.leaf_field(leaf)] for leaf in layout.specs.leaves()}
    batch = from_leaves(space, leaves)
    for leaf, read in leaf_readers(space).items():
        assert np.array_equal(read(batch), leaves[leaf])


@pytest.mark.parametrize("records", ["episodes", "transitions"])
@pytest.mark.parametrize("name", list(SPACES))
def test_tfrecords_give_back_what_was_written(name: str, records: str, tmp_path: Path) -> None:
    layout, written = episodes(SPACES[name], spaces.Discrete(3), [2, 5, 1], masked=name == "gray")
    selection = Selection([EpisodePart(frames, "") for frames in written], {STILL_GOING: (1, 2)})
    tfrecord_format.write(tmp_path, layout, selection, records == "episodes", {})
    dataset = datasets.find(tmp_path)
    assert dataset is not None
    dataset.verify(layout)
    assert (dataset.specs, dataset.steps) == (layout.specs, 8)
    same(list(dataset.read(layout)), written)


@pytest.mark.parametrize("name", list(SPACES))
def test_minari_itself_loads_what_was_written_and_no_pixel_has_changed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minari

    space, action = SPACES[name], spaces.Discrete(3, start=4)
    layout, written = episodes(space, action, [2, 5, 1], masked=name == "gray")
    selection = Selection([EpisodePart(frames, "") for frames in written], {})
    folder = tmp_path / "some-v3"
    named = {"dataset_id": minari_format.identity(folder), "algorithm_name": "dqn"}
    config = EnvironmentConfig()
    write_whole(folder, lambda part: minari_format.write(part, layout, selection, Spaces(space, action), config, named))

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    loaded = minari.load_dataset("some-v3")
    assert (loaded.total_episodes, loaded.total_steps) == (3, 8)
    assert loaded.env_spec.id == config.id
    readers = leaf_readers(loaded.observation_space)
    for episode, frames in zip(loaded.iterate_episodes(), written, strict=True):
        for leaf, read in readers.items():
            expected = frames[layout.leaf_field(leaf)]
            assert np.array_equal(read(episode.observations).reshape(expected.shape), expected)
        for index in range(len(episode)):
            assert loaded.action_space.contains(episode.actions[index])
        assert np.array_equal(episode.actions, frames["action"][:-1] + 4)
        assert np.array_equal(episode.rewards, frames["reward"][:-1])
        assert np.array_equal(episode.terminations, frames["terminated"][:-1])
        assert episode.truncations.tolist() == [False] * (len(episode) - 1) + [not frames["terminated"][-2]]
    dataset = datasets.find(folder)
    assert dataset is not None
    assert datasets.same_interface(dataset.specs, layout.specs)
    dataset.verify(layout)
    same(list(dataset.read(layout)), written)


@pytest.mark.parametrize("form", ["from elsewhere", "matrix", "binary", "tuple", "dict"])
def test_actions_of_several_dimensions_come_back_as_vectors(form: str, tmp_path: Path) -> None:
    import minari

    action = FORMS[form]
    layout, written = episodes(BOX, action, [2, 5, 1], masked=True)
    selection = Selection([EpisodePart(frames, "") for frames in written], {})
    for records in ("episodes", "transitions"):
        folder = tmp_path / records
        folder.mkdir()
        tfrecord_format.write(folder, layout, selection, records == "episodes", {})
        dataset = datasets.find(folder)
        assert dataset is not None
        assert dataset.specs == layout.specs
        same(list(dataset.read(layout)), written)
    folder = tmp_path / "dials-v0"
    named, config = {"dataset_id": "dials-v0", "algorithm_name": "dqn"}, EnvironmentConfig()
    write_whole(folder, lambda part: minari_format.write(part, layout, selection, Spaces(BOX, action), config, named))
    for episode in minari.MinariDataset(folder / "data").iterate_episodes():
        for step in range(len(episode)):
            assert action.contains(one_of(action, episode.actions, step))
    dataset = datasets.find(folder)
    assert dataset is not None
    assert dataset.specs == layout.specs
    same(list(dataset.read(layout)), written)


def one_of(space: Any, actions: Any, step: int) -> Any:
    """The action of a step, of arrays of all."""
    if isinstance(space, spaces.Dict):
        return {key: one_of(part, actions[key], step) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(one_of(part, value, step) for part, value in zip(space.spaces, actions, strict=True))
    return actions[step]


def test_actions_beyond_a_dimension_are_refused() -> None:
    layout, (episode,) = episodes(BOX, FORMS["vector"], [2], masked=False)
    columns = Columns(
        {"": episode["observation/"]}, None, np.array([[2, 1], [1, 2]]), np.zeros(2), np.zeros(2, np.bool_)
    )
    with pytest.raises(ValueError, match=r"an action is not within the dimensions \[3, 2\]"):
        datasets.frames(layout, columns)
    with pytest.raises(ValueError, match=r"its action has the shape \(2,\) instead of \(2, 2\)"):
        datasets.frames(layout, columns._replace(action=np.zeros(2)))


def test_a_dataset_that_minari_made_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    action, random = spaces.Discrete(3), np.random.default_rng(0)
    layout, written = episodes(BOX, action, [3, 4], masked=False)
    buffers = [
        EpisodeBuffer(
            observations=frames["observation/"].astype(np.float64),
            actions=frames["action"][:-1].astype(np.int64),
            rewards=frames["reward"][:-1].astype(np.float64),
            terminations=frames["terminated"][:-1],
            truncations=np.zeros(len(frames) - 1, np.bool_),
            infos={"noise": random.normal(size=len(frames))},
        )
        for frames in written
    ]
    with pytest.warns(UserWarning, match="None"):
        minari.create_dataset_from_buffers("by/others-v0", buffers, observation_space=BOX, action_space=action)
    dataset = datasets.find(tmp_path / "by" / "others-v0")
    assert dataset is not None
    assert (dataset.specs, dataset.steps) == (layout.specs, 7)
    for frames in written:
        frames["gradient_steps"] = 0  # which nobody else has
    same(list(dataset.read(layout)), written)


def test_images_of_more_channels_than_png_has_are_refused(tmp_path: Path) -> None:
    space, action = spaces.Box(0, 255, (32, 32, 5), np.uint8), spaces.Discrete(2)
    layout, written = episodes(space, action, [2], masked=False)
    selection = Selection([EpisodePart(written[0], "")], {})
    with pytest.raises(UsageError, match=r"at most 4 channels, .* 5: take\s+--format=tfrecord"):
        minari_format.write(
            tmp_path, layout, selection, Spaces(space, action), EnvironmentConfig(), {"dataset_id": "a-v0"}
        )


def test_tf_data_reads_records_by_the_description_alone(tmp_path: Path) -> None:
    space = Camera().observation_space
    layout, (episode,) = episodes(space, spaces.Discrete(3), [4], masked=True)
    tfrecord_format.write(tmp_path, layout, Selection([EpisodePart(episode, "")], {}), False, {"id": "Camera"})
    description = json.loads((tmp_path / "description.json").read_text())
    kinds = {"float": tf.float32, "int64": tf.int64, "bytes": tf.string}
    wanted = {
        name: tf.io.FixedLenFeature([] if feature["list"] == "bytes" else feature["shape"], kinds[feature["list"]])
        for name, feature in description["features"].items()
    }
    files = [str(tmp_path / name) for name in description["files"]]
    records = [tf.io.parse_single_example(record, wanted) for record in tf.data.TFRecordDataset(files)]
    assert description["transitions"] == len(records) == 4
    for step, record in enumerate(records):
        for prefix, at in (("observation", step), ("next_observation", step + 1)):
            image = tf.reshape(tf.io.decode_raw(record[f"{prefix}/image"], tf.uint8), space["image"].shape)
            assert np.array_equal(image, episode["observation/image"][at])
            assert np.array_equal(record[f"{prefix}/speed"], episode["observation/speed"][at])
        assert np.array_equal(record["action_mask"], episode["mask"][step])
        assert np.array_equal(record["next_action_mask"], episode["mask"][step + 1])
        for name in ("action", "reward", "terminated", "gradient_steps"):
            assert record[name] == episode[name][step]
        assert (record["episode"], record["step"]) == (0, step)
        assert bool(record["truncated"]) == (step == 3)


def test_transitions_in_another_order_are_pieces_of_one_step(tmp_path: Path) -> None:
    layout, (episode,) = episodes(BOX, spaces.Discrete(3), [4], masked=False)
    tfrecord_format.write(tmp_path, layout, Selection([EpisodePart(episode, "")], {}), False, {})
    path = tmp_path / "data-00000.tfrecord"
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in reversed(records):
            writer.write(record)
    dataset = datasets.find(tmp_path)
    assert dataset is not None
    found = list(dataset.read(layout))
    assert [len(frames) for frames in found] == [2] * 4
    assert [frames["reward"][0] for frames in found] == episode["reward"][-2::-1].tolist()
    with pytest.raises(UsageError, match=r"data-00000\.tfrecord is damaged.*export it anew"):
        dataset.verify(layout)


@given(st.integers(1, 6))
def test_frames_of_an_episode_are_first_mid_and_last(steps: int) -> None:
    layout, (episode,) = episodes(BOX, spaces.Discrete(2), [steps], masked=False)
    assert episode["step_type"].tolist() == [FIRST, *[MID] * (steps - 1), LAST]
    assert episode["next_step_type"].tolist() == [*[MID] * (steps - 1), LAST, FIRST]
    assert layout.dtype == episode.dtype


GOOD = Columns(
    {"": np.zeros((3, 2), np.float32)}, None, np.array([0, 1]), np.zeros(2), np.zeros(2, np.bool_), np.zeros(2)
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": np.zeros(0, np.int64)}, "no step"),
        ({"action": np.array([0, 2])}, "an action is not from 0 to 1"),
        ({"action": np.array([0, -1])}, "an action is not from 0 to 1"),
        ({"reward": np.array([0.0, np.nan])}, "a reward is not finite"),
        ({"reward": np.zeros(3)}, "its reward has the shape"),
        ({"observation": {"": np.zeros((2, 2), np.float32)}}, "its observation has the shape"),
        ({"observation": {"": np.full((3, 2), np.inf, np.float32)}}, "an observation is not finite"),
        ({"terminated": np.zeros(1)}, "its terminated has the shape"),
    ],
)
def test_what_cannot_be_an_episode_is_refused(change: dict[str, Any], words: str) -> None:
    layout = FrameLayout(specs_of(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2), False))
    datasets.frames(layout, GOOD)
    with pytest.raises(ValueError, match=words):
        datasets.frames(layout, GOOD._replace(**change))


def test_categories_beyond_their_space_are_refused() -> None:
    layout = FrameLayout(specs_of(spaces.Discrete(3), spaces.Discrete(2), False))
    with pytest.raises(ValueError, match="not within the bounds"):
        datasets.frames(layout, GOOD._replace(observation={"": np.array([0, 3, 1])}))


def test_a_description_of_something_else_is_refused_in_a_line(tmp_path: Path) -> None:
    assert datasets.find(tmp_path) is None
    (tmp_path / "description.json").write_text("{}")
    with pytest.raises(UsageError, match=r"description\.json is not the description of a dataset"):
        datasets.find(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "metadata.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be read by Minari"):
        datasets.find(other)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").write_text("")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"cannot be written: .*No space left"):
        write_whole(tmp_path / "out", fail)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_ours_to_write_to_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    refuse_taken(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        with pytest.raises(UsageError, match=f"{tmp_path} is not yours to write to"):
            refuse_taken(out)


def test_episodes_that_are_cut_are_left_out_and_counted() -> None:
    frames = np.concatenate(episodes(BOX, spaces.Discrete(2), [2, 3], masked=False)[1])
    lane = Lane(frames, np.array([True] * 5 + [False] * 2))
    whole, every = datasets.select([lane], True), datasets.select([lane], False)
    assert (whole.steps, whole.left_out) == (2, {STILL_GOING: (1, 2)})
    assert (every.steps, every.left_out) == (4, {})
