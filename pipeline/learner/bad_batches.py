"""Batches that no update could be made of, written aside for a look. No TensorFlow.

A file holds one `BadBatch` as typed msgpack: `read(path)` gives its arrays by name, to be looked at in NumPy:

    from pipeline.learner import bad_batches
    batch = bad_batches.read(run_dir / "bad_batches" / "000000001207.msgpack")
    batch["reward"].max()
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from numpy.typing import NDArray

from agents.struct_types import prepared
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import write_atomically
from pipeline.messages.contents import Array

if TYPE_CHECKING:
    from pipeline.replay.sampling import Sample

_KEPT = 5


class BadBatch(msgspec.Struct, frozen=True):
    """The batch of one gradient step."""

    gradient_steps: int
    """The number of the step that it was drawn for."""
    arrays: dict[str, Array]
    """By name: the leaves of the `Trajectory` [B, T, ...], such as `reward` and `observation`, whose parts have paths
    as names, the mask last; `weights_gradient_steps` int32 [B], versions of the weights that acted; and
    `relative_probability` float32 [B], how many times as likely as by uniform drawing each window was."""


def write(folder: Path, gradient_steps: int, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Writes a batch and removes all but the newest five.

    Args:
      folder: made if it is missing.
      gradient_steps: of the step that the batch was drawn for; names the file.
      arrays: see `BadBatch`.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"{gradient_steps:012d}.msgpack"
    batch = BadBatch(gradient_steps, {name: Array.of(array) for name, array in arrays.items()})
    write_atomically(path, msgspec.msgpack.encode(batch))
    for older in sorted(folder.glob("[0-9]*.msgpack"))[:-_KEPT]:
        older.unlink()
    return path


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, by the names that `BadBatch` says, read-only.

    Raises:
      UsageError: it holds no bad batch.
    """
    try:
        batch = msgspec.msgpack.decode(path.read_bytes(), type=prepared(BadBatch))
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} holds no bad batch: {error}") from None
    return {name: array.numpy() for name, array in batch.arrays.items()}


def arrays_of(sample: "Sample", position: int) -> dict[str, NDArray[Any]]:
    """The batch of one gradient step of a call, from 0, as `BadBatch` has it."""
    named = {
        **_named(sample.trajectory._asdict()),
        "weights_gradient_steps": sample.gradient_steps,
        "relative_probability": sample.relative_probability,
    }
    return {name: leaf[position].numpy() for name, leaf in named.items()}


def _named(nest: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nest of dicts and tuples by their paths, such as `observation/0`."""
    if not isinstance(nest, dict | tuple):
        return {prefix: nest}
    parts = nest.items() if isinstance(nest, dict) else enumerate(nest)
    named: dict[str, Any] = {}
    for key, part in parts:
        named |= _named(part, f"{prefix}/{key}" if prefix else str(key))
    return named
