"""Datasets as TFRecord files of `tf.train.Example`, with a description beside them.

Observations and everything else are features by name. A record is one transition, or one episode, whose features have
its steps one after the other. Unsigned bytes, as of images, are one string of bytes; other numbers are lists.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents import ArraySpec, Specs
from agents.struct_types import prepared
from pipeline.datasets.datasets import Columns, Dataset, Selection, frames
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_json
from pipeline.records.checkpoint import BadCheckpoint, verify_files
from pipeline.records.checkpoint_writer import FileRecord, file_records
from pipeline.replay.frames import FrameLayout

DESCRIPTION = "description.json"
_FORMAT = "reverb-dqn experience 1"
_FILE_BYTES = 128 * 2**20
_BATCH = 1024


class Feature(msgspec.Struct, frozen=True):
    """One feature of each record."""

    list: Literal["float", "int64", "bytes"]
    """Of `tf.train.Feature`; bytes hold one string, to be read by `tf.io.decode_raw`."""
    dtype: str
    """Of the array."""
    shape: tuple[int, ...]
    """Of one step."""
    steps: Literal["1", "T", "T + 1"]
    """That a record of T steps has of it."""


class Description(msgspec.Struct, frozen=True):
    """What is in a folder."""

    format: str
    records: Literal["transitions", "episodes"]
    files: dict[str, FileRecord]
    """Size and checksum of each, by name; records go on from one to the next."""
    transitions: int
    episodes: int
    """Or pieces of some, of transitions."""
    left_out: dict[str, tuple[int, int]]
    """Episodes, and their transitions, by why they are not whole."""
    environment: dict[str, Any]
    """Section of the run's config."""
    num_actions: int
    masked: bool
    observation: dict[str, ArraySpec]
    """Leaves by name: shape, dtype and largest values; a bare array has the name ""."""
    features: dict[str, Feature]
    action_sizes: tuple[int, ...] = ()
    """Of the dimensions of an action; empty where it is one number."""

    @property
    def specs(self) -> Specs:
        """Of the environment."""
        bare = set(self.observation) == {""}
        observation: Any = self.observation[""] if bare else self.observation
        return Specs(observation, self.num_actions, self.masked, self.action_sizes)


def features(specs: Specs, records: Literal["transitions", "episodes"]) -> dict[str, Feature]:
    """What every record has, by name."""
    all_but_last, with_last = ("1", "1") if records == "transitions" else ("T", "T + 1")
    found: dict[str, Feature] = {}
    observed = {"observation": with_last} | ({"next_observation": "1"} if records == "transitions" else {})
    for prefix, steps in observed.items():
        for name, spec in specs.leaves().items():
            kind = {"float32": "float", "int32": "int64", "uint8": "bytes"}[spec.dtype]
            found[_named(prefix, name)] = Feature(kind, spec.dtype, spec.shape, steps)  # type: ignore[arg-type]
        if specs.masked:
            mask = prefix.replace("observation", "action_mask")
            found[mask] = Feature("int64", "bool", (specs.num_actions,), steps)  # type: ignore[arg-type]
    for name, kind, dtype in (
        ("action", "int64", "int32"),
        ("reward", "float", "float32"),
        ("terminated", "int64", "bool"),
        ("truncated", "int64", "bool"),
        ("gradient_steps", "int64", "int32"),
        *((("episode", "int64", "int64"), ("step", "int64", "int64")) if records == "transitions" else ()),
    ):
        shape = specs.action_shape if name == "action" else ()
        found[name] = Feature(kind, dtype, shape, all_but_last)  # type: ignore[arg-type]
    return found


def _named(prefix: str, leaf: str) -> str:
    return f"{prefix}/{leaf}" if leaf else prefix


def write(
    folder: Path, layout: FrameLayout, selection: Selection, whole_episodes: bool, environment: dict[str, Any]
) -> None:
    """Writes a dataset into an empty folder.

    Args:
      folder: to write into.
      layout: of the frames.
      selection: what to write.
      whole_episodes: an episode a record, rather than a transition.
      environment: for the description.
    """
    records: Literal["transitions", "episodes"] = "episodes" if whole_episodes else "transitions"
    described = features(layout.specs, records)
    make = _episode if whole_episodes else _transitions
    examples = (
        _example(described, values)
        for number, part in enumerate(selection.taken)
        for values in make(layout, part.frames, part.cut == "" and part.truncated, number)
    )
    _write_files(folder, examples)
    description = Description(
        format=_FORMAT,
        records=records,
        files=file_records(folder),
        transitions=selection.steps,
        episodes=len(selection.taken),
        left_out=selection.left_out,
        environment=environment,
        num_actions=layout.specs.num_actions,
        masked=layout.specs.masked,
        observation=layout.specs.leaves(),
        features=described,
        action_sizes=layout.specs.action_sizes,
    )
    write_json(folder / DESCRIPTION, description)


def _write_files(folder: Path, examples: Iterator[bytes]) -> None:
    import tensorflow as tf  # after the command line has been checked

    number, example = 0, next(examples, None)
    while example is not None:
        written = 0
        with tf.io.TFRecordWriter(str(folder / f"data-{number:05d}.tfrecord")) as writer:
            while example is not None and written < _FILE_BYTES:
                writer.write(example)
                written += len(example)
                example = next(examples, None)
        number += 1


def _episode(layout: FrameLayout, episode: NDArray[np.void], truncated: bool, _: int) -> Iterator[dict[str, Any]]:
    steps = episode[:-1]
    cut_off = np.zeros(len(steps), np.bool_)
    cut_off[-1] = truncated
    yield {
        **_observed(layout, episode, "observation"),
        **{name: steps[name] for name in ("action", "reward", "terminated", "gradient_steps")},
        "truncated": cut_off,
    }


def _transitions(
    layout: FrameLayout, episode: NDArray[np.void], truncated: bool, number: int
) -> Iterator[dict[str, Any]]:
    for step, (frame, after) in enumerate(itertools.pairwise(episode)):
        yield {
            **_observed(layout, frame, "observation"),
            **_observed(layout, after, "next_observation"),
            **{name: frame[name] for name in ("action", "reward", "terminated", "gradient_steps")},
            "truncated": truncated and step == len(episode) - 2,
            "episode": number,
            "step": step,
        }


def _observed(layout: FrameLayout, of: Any, prefix: str) -> dict[str, Any]:
    values = {_named(prefix, name): of[layout.leaf_field(name)] for name in layout.specs.leaves()}
    if layout.specs.masked:
        values[prefix.replace("observation", "action_mask")] = of["mask"]
    return values


def _example(described: dict[str, Feature], values: dict[str, Any]) -> bytes:
    import tensorflow as tf  # after the command line has been checked

    def feature(name: str, kind: str) -> Any:
        array = np.asarray(values[name])
        if kind == "bytes":
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[array.tobytes()]))
        if kind == "float":
            return tf.train.Feature(float_list=tf.train.FloatList(value=array.ravel()))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=array.ravel().astype(np.int64)))

    by_name = {name: feature(name, described[name].list) for name in described}
    example: bytes = tf.train.Example(features=tf.train.Features(feature=by_name)).SerializeToString()
    return example


def find(folder: Path) -> Dataset | None:
    """The dataset in a folder; None if there is no description.

    Raises:
      UsageError: its description cannot be read, or is of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    try:
        description = msgspec.json.decode(path.read_bytes(), type=prepared(Description))
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is not the description of a dataset: {error}") from None
    if description.format != _FORMAT:
        raise UsageError(f"{path} is of format {description.format!r}, and {_FORMAT!r} is read here")

    def read(layout: FrameLayout) -> Iterator[NDArray[np.void]]:
        return _read(folder, description, layout)

    def verify(_: FrameLayout) -> None:
        try:
            verify_files(folder, description.files)
        except BadCheckpoint as bad:
            raise UsageError(f"{folder}: {bad}: export it anew") from None

    return Dataset(description.specs, description.transitions, read, verify, description.records == "episodes")


def _read(folder: Path, description: Description, layout: FrameLayout) -> Iterator[NDArray[np.void]]:
    import tensorflow as tf  # after the command line has been checked

    pieces = _episodes if description.records == "episodes" else _chains
    steps = 0
    try:
        for columns in pieces(_batches(folder, description), description.features, layout.specs):
            steps += len(columns.action)
            yield frames(layout, columns)
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} cannot be learned from: {str(error).splitlines()[0]}") from None
    if steps != description.transitions:
        raise UsageError(
            f"{folder} has {steps:,} transitions and its description says {description.transitions:,}: export it anew"
        )


class _Part(NamedTuple):
    """One feature of a batch of records."""

    values: NDArray[Any]
    """Of all records, one after the other."""
    ends: NDArray[Any]
    """[records + 1]: where those of each begin, and the last end."""

    def of(self, first: int, last: int, feature: Feature) -> NDArray[Any]:
        """The array of some records, [steps, ...]."""
        values = self.values[self.ends[first] : self.ends[last]]
        if feature.list == "bytes":
            values = np.frombuffer(b"".join(values.tolist()), np.uint8)
        return values.astype(feature.dtype, copy=False).reshape(-1, *feature.shape)


_Batch = dict[str, _Part]


def _batches(folder: Path, description: Description) -> Iterator[_Batch]:
    import tensorflow as tf

    kinds = {"float": tf.float32, "int64": tf.int64, "bytes": tf.string}
    ragged = {name: tf.io.RaggedFeature(kinds[feature.list]) for name, feature in description.features.items()}
    files = [str(folder / name) for name in sorted(description.files)]
    for batch in tf.data.TFRecordDataset(files).batch(_BATCH) if files else ():
        parsed = tf.io.parse_example(batch, ragged)
        yield {name: _Part(part.flat_values.numpy(), part.row_splits.numpy()) for name, part in parsed.items()}


def _episodes(batches: Iterable[_Batch], of: Mapping[str, Feature], specs: Specs) -> Iterator[Columns]:
    for batch in batches:
        for record in range(len(batch["action"].ends) - 1):
            yield _columns(specs, {name: batch[name].of(record, record + 1, feature) for name, feature in of.items()})


def _chains(batches: Iterable[_Batch], of: Mapping[str, Feature], specs: Specs) -> Iterator[Columns]:
    """Transitions that follow each other in one episode and in the files, together."""
    rest: dict[str, NDArray[Any]] = {}
    for batch in batches:
        columns = {name: batch[name].of(0, len(batch[name].ends) - 1, feature) for name, feature in of.items()}
        if rest:
            columns = {name: np.concatenate([rest[name], column]) for name, column in columns.items()}
        same = columns["episode"][1:] == columns["episode"][:-1]
        breaks = 1 + np.flatnonzero(~(same & (columns["step"][1:] == columns["step"][:-1] + 1)))
        for first, last in itertools.pairwise([0, *breaks.tolist()]):
            yield _joined(specs, {name: column[first:last] for name, column in columns.items()})
        rest = {name: column[breaks[-1] if len(breaks) else 0 :] for name, column in columns.items()}
    if rest:
        yield _joined(specs, rest)


def _joined(specs: Specs, columns: dict[str, NDArray[Any]]) -> Columns:
    """Successive transitions, with what the last of them led to behind what each began with."""
    after = {name.removeprefix("next_"): column[-1:] for name, column in columns.items() if name.startswith("next_")}
    return _columns(
        specs, {name: np.concatenate([column, after.get(name, column[:0])]) for name, column in columns.items()}
    )


def _columns(specs: Specs, columns: Mapping[str, NDArray[Any]]) -> Columns:
    return Columns(
        {name: columns[_named("observation", name)] for name in specs.leaves()},
        columns["action_mask"] if specs.masked else None,
        columns["action"],
        columns["reward"],
        columns["terminated"],
        columns["gradient_steps"],
    )
