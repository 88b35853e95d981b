"""Curves of runs, read from their TensorBoard files. No TensorFlow here.

TensorBoard's own protocol buffers read them; it has these without TensorFlow, too.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import UsageError
from pipeline.experiment.run_directory import RunDirectory

MEAN_RETURN = "evaluation/mean_return"
_CLOCK = "speed/train_seconds"
FORMER_TAGS = {
    "exploration/epsilon": "collector/epsilon",
    "speed/evaluation_seconds": "evaluation/seconds",
    "system/blocked_seconds": "collector/blocked_seconds",
    "system/bytes_sent_per_transition": "collector/bytes_sent_per_transition",
    "system/checkpoint_mebibytes": "checkpoint/mebibytes",
    "system/checkpoint_pause_seconds": "checkpoint/pause_seconds",
    "system/checkpoint_seconds": "checkpoint/seconds",
    "system/environment_steps": "collector/environment_steps",
    "system/episodes": "collector/episodes",
    "system/faulty_episodes": "collector/faulty_episodes",
    "system/mebibytes_received": "collector/mebibytes_received",
    "system/mebibytes_sent": "collector/mebibytes_sent",
    "system/weights_age_gradient_steps": "collector/weights_age_gradient_steps",
    "system/weights_age_seconds": "collector/weights_age_seconds",
}
"""By the name of a tag, what it was called up to version 0.1; either finds the other."""
_NEW_NAMES = {former: tag for tag, former in FORMER_TAGS.items()}
_FIRST_ROLES = ("evaluator", "learner")
"""Folders of runs up to version 0.1, one for each role, in which a tag is looked for before the others."""
_HEADER = struct.Struct("<QI")
_LENGTH_BYTES = 8
_FOOTER_BYTES = 4


class Point(NamedTuple):
    """One value of a tag."""

    time: float
    """Wall-clock seconds at which it was written."""
    step: int
    """The run's progress: environment steps, or offline gradient steps."""
    value: float


class Curve(NamedTuple):
    """The values of a tag over a run: each holds from its `x` until the next."""

    x: NDArray[np.float64]
    """Environment steps (offline gradient steps), ascending; or seconds of training, never descending. [points]"""
    y: NDArray[np.float64]
    """[points]"""


def read(run: RunDirectory, tag: str, over_seconds: bool = False) -> Curve | None:
    """A tag's curve. Of runs up to version 0.1, the first role's that has it: evaluator, learner, then others by name.

    What a resumed run took back is left out: values beyond the checkpoint that it went on from, and those at or beyond
    the step of one that was written later.

    Args:
      run: finished or running.
      tag: such as `evaluation/mean_return`.
      over_seconds: of training, those before a resume included, instead of the run's progress.

    Returns:
      None of a run that has no value of it.

    Raises:
      UsageError: the run does not say how long it had trained.
    """
    points = _points(run, tag)
    if not points:
        return None
    points = last_written(points, _resumptions(run))
    return _curve(points, _clock(run) if over_seconds else None)


def read_all(run: RunDirectory, over_seconds: bool = False) -> dict[str, Curve]:
    """The curves of all tags that a run has values of, by tag; see `read`."""
    found, resumptions = _points_by_tag(run), _resumptions(run)
    kept = {tag: last_written(points, resumptions) for tag, points in found.items()}
    clock = _clock(run) if over_seconds and found else None
    return {tag: _curve(points, clock) for tag, points in sorted(kept.items())}


class Newest:
    """Reads the values of one tag as a run writes them, each once.

    Args:
      run: that may not have begun.
      tag: such as `evaluation/mean_return`.
    """

    def __init__(self, run: RunDirectory, tag: str) -> None:
        self._run, self._tag = run, tag
        self._read: dict[Path, int] = {}

    def read(self) -> list[Point]:
        """The values since the last call, in the order of time."""
        found = []
        for path in (path for folder in _folders(self._run) for path in _files(folder)):
            start = self._read.get(path, 0)
            if path.stat().st_size <= start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                records = list(_records(file.read()))
            self._read[path] = start + sum(map(_size, records))
            found += [_point(event, value) for event, value in _values(_decoded(records)) if _name(value) == self._tag]
        return sorted(found, key=lambda point: point.time)


def tags(run: RunDirectory) -> set[str]:
    """Tags that a run has scalar values of."""
    values = (value for folder in _folders(run) for path in _files(folder) for _, value in _scalars(path))
    return {_name(value) for value in values}


def last_written(points: Sequence[Point], resumptions: Sequence[tuple[float, int]]) -> list[Point]:
    """The points that no resume has replaced, by ascending step.

    Args:
      points: in any order.
      resumptions: wall-clock seconds at which the run was begun or resumed, and the step that it went on from then.
    """
    kept: list[Point] = []
    waiting = sorted(resumptions, reverse=True)

    def resume(until: float) -> None:
        while waiting and waiting[-1][0] <= until:
            _, step = waiting.pop()
            while kept and kept[-1].step > step:
                kept.pop()

    for point in sorted(points, key=lambda point: point.time):
        resume(point.time)
        while kept and kept[-1].step >= point.step:
            kept.pop()
        kept.append(point)
    resume(float("inf"))
    return kept


def train_seconds(times: NDArray[np.float64], clock: Sequence[Point]) -> NDArray[np.float64]:
    """Seconds of training at wall-clock times, by the nearest entry that says how long the run had trained.

    Args:
      times: ascending. [points]
      clock: entries whose value is seconds of training, ascending in time; at least one.
    """
    at = np.array([entry.time for entry in clock])
    after = np.clip(np.searchsorted(at, times), 0, len(at) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(times - at[before] < at[after] - times, before, after)
    passed = np.array([entry.value for entry in clock])[nearest] + times - at[nearest]
    return np.maximum.accumulate(np.maximum(passed, 0.0))


def _clock(run: RunDirectory) -> list[Point]:
    """How long the run had trained, at wall-clock times."""
    clock = _points(run, _CLOCK)
    if not clock:
        raise UsageError(f"{run.path} says nothing of its seconds of training ({_CLOCK}): use --x=environment_steps")
    return clock


def _curve(points: Sequence[Point], clock: Sequence[Point] | None) -> Curve:
    """A curve over the run's progress, or over seconds of training where there is a clock."""
    y = np.array([point.value for point in points], np.float64)
    if clock is None:
        return Curve(np.array([point.step for point in points], np.float64), y)
    return Curve(train_seconds(np.array([point.time for point in points]), clock), y)


def _folders(run: RunDirectory) -> list[Path]:
    """Where a run's values are: the folder itself, and those of roles that runs up to version 0.1 have left in it.

    What several collectors have each for itself, in a folder of its own, has other tags.
    """
    if not run.tensorboard.is_dir():
        return []
    names = [path.name for path in run.tensorboard.iterdir() if path.is_dir()]
    rest = sorted(set(names) - set(_FIRST_ROLES))
    return [run.tensorboard, *(run.tensorboard / name for name in (*_FIRST_ROLES, *rest) if name in names)]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def _points(run: RunDirectory, tag: str) -> list[Point]:
    """Every value of a tag, in the order of time."""
    tag = _NEW_NAMES.get(tag, tag)
    return _points_by_tag(run, tag).get(tag, [])


def _points_by_tag(run: RunDirectory, only: str = "") -> dict[str, list[Point]]:
    """Every value of each tag, or of one alone, in the order of time.

    A run that was begun by version 0.1 and gone on with later has some in a role's folder and the others beside it.
    """
    found: dict[str, list[Point]] = {}
    of_roles: dict[str, list[Point]] = {}
    for folder in _folders(run):
        here: dict[str, list[Point]] = {}
        for event, value in (entry for path in _files(folder) for entry in _scalars(path)):
            if not only or _name(value) == only:
                here.setdefault(_name(value), []).append(_point(event, value))
        if folder == run.tensorboard:
            found = here
        else:
            of_roles = here | of_roles  # the first role that has a tag gives it
    tags = {**of_roles, **found}
    return {tag: sorted([*found.get(tag, []), *of_roles.get(tag, [])], key=lambda point: point.time) for tag in tags}


def _name(value: Any) -> str:
    """A value's tag, by its present name."""
    return _NEW_NAMES.get(value.tag, value.tag)


def _point(event: Any, value: Any) -> Point:
    from tensorboard.util.tensor_util import make_ndarray

    return Point(event.wall_time, event.step, float(make_ndarray(value.tensor)))


def _resumptions(run: RunDirectory) -> list[tuple[float, int]]:
    """Time and step of the first words of each file of the learner's process: it writes some before it learns."""
    files = [path for folder in (run.tensorboard, run.tensorboard / "learner") for path in _files(folder)]
    firsts = (
        next((event for event in _decoded(_records(path.read_bytes())) if event.summary.value), None) for path in files
    )
    return [(first.wall_time, first.step) for first in firsts if first is not None]


def _scalars(path: Path) -> Iterator[tuple[Any, Any]]:
    """Events and their scalar values, up to the first that is not whole: a run may write it, or was killed doing so."""
    yield from _values(_decoded(_records(path.read_bytes())))


def _values(events: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Events and their scalar values; histograms and texts are not among them."""
    for event in events:
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                yield event, value


def _decoded(records: Iterable[bytes]) -> Iterator[Any]:
    """The events of records, up to the first one that is none."""
    from google.protobuf.message import (
        DecodeError,
    )  # imported late: it takes half a second, and a wrong command line should fail at once
    from tensorboard.compat.proto.event_pb2 import Event

    for record in records:
        try:
            yield Event.FromString(record)
        except DecodeError:
            return


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a file, which have their length and its checksum before them and one of their own behind.

    The latter is not verified: TensorBoard's code without TensorFlow takes a second for 5 MB, and pictures are large.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    at = 0
    while at + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, at)
        start = at + _HEADER.size
        if masked_crc32c(data[at : at + _LENGTH_BYTES]) != checksum or start + length + _FOOTER_BYTES > len(data):
            return
        yield data[start : start + length]
        at = start + length + _FOOTER_BYTES


def _size(record: bytes) -> int:
    """Bytes that a record takes in its file."""
    return _HEADER.size + len(record) + _FOOTER_BYTES
