"""A run as plain data: its config, status, result, curves and checkpoints, read from its directory.

It needs NumPy and TensorBoard alone, so that programs with another environment than ours can read runs, too. No
TensorFlow, no Reverb, no msgspec.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline import UsageError
from pipeline.comparison import curves
from pipeline.comparison.curves import MEAN_RETURN, Curve
from pipeline.experiment.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.experiment.sections import Experiment

Over = Literal["steps", "seconds"]


class CheckpointInfo(NamedTuple):
    """One checkpoint of a run."""

    path: Path
    environment_steps: int
    gradient_steps: int
    mean_return: float | None
    """Of the newest evaluation at that time; None before the first."""
    written_at: str
    """UTC, in ISO 8601."""


class Run:
    """A run, finished or going on: what is in its directory now.

    All properties and methods read the files when they are asked, so one `Run` follows a run that goes on. They return
    Python's own types, `Path` and NumPy arrays.

    Args:
      path: the run's directory, `run_dir` of `pipeline.train`. What takes a path takes a `Run`, too.

    Raises:
      UsageError: there is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise UsageError(f"path is that of a run's directory, not {path!r}")
        self._directory = RunDirectory(Path(path).resolve())
        if not self._directory.config.is_file():
            raise UsageError(f"{path} holds no run: there is no config.toml")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path:
        """The run's directory, absolute."""
        return self._directory.path

    @property
    def config(self) -> dict[str, Any]:
        """All settings of the run, as dicts within a dict: `run.config["agent"]["n_step"]`."""
        return tomllib.loads(self._directory.config.read_text())

    def experiment(self, *, trust: bool = True) -> "Experiment":
        """The settings as `pipeline.load` returns them, to train with them again. Imports what that needs.

        Args:
          trust: whether code that the config names is imported, such as a kind of agent of one's own.

        Raises:
          UsageError: it cannot be read without code that is not trusted.
        """
        from pipeline.security import strangers

        with strangers.reading(self.path, trust):
            return self._directory.experiment()

    @property
    def is_running(self) -> bool:
        """Whether a process on this machine runs it now."""
        return self._directory.is_in_use

    @property
    def status(self) -> dict[str, Any] | None:
        """What the run did last, `status.json`: the fields of `pipeline.Status`. None before its first words."""
        return _read(self._directory.status)

    @property
    def summary(self) -> dict[str, Any] | None:
        """How the run ended, `summary.json`: the fields of `pipeline.Summary`. None of one that has not ended."""
        return _read(self._directory.summary)

    @property
    def tags(self) -> list[str]:
        """Names of the curves that the run has values of, sorted."""
        return sorted(curves.tags(self._directory))

    def curve(self, tag: str = MEAN_RETURN, *, over: Over = "steps") -> Curve:
        """One curve: arrays `x` and `y`, float64 [points].

        What a resume took back is left out.

        Args:
          tag: as TensorBoard shows it.
          over: what x is: "steps" (environment steps; of a run without collectors gradient steps), or "seconds" of
            training, those before a resume included.

        Raises:
          UsageError: the run has no value of this tag, or does not say how long it had trained.
        """
        found = curves.read(self._directory, _tag(tag), _is_seconds(over))
        if found is None:
            raise UsageError(self._no_values(tag, curves.tags(self._directory)))
        return found

    def curves(self, *tags: str, over: Over = "steps") -> dict[str, Curve]:
        """Several curves by tag, or all that there are; each file is read once. See `curve`.

        Raises:
          UsageError: the run has no value of one of the tags, or does not say how long it had trained.
        """
        found = curves.read_all(self._directory, _is_seconds(over))
        for tag in tags:
            if _tag(tag) not in found:
                raise UsageError(self._no_values(tag, found))
        return {tag: found[tag] for tag in tags or found}

    def frame(self, *tags: str, over: Over = "steps") -> "pd.DataFrame":
        """`curves` as a pandas DataFrame: one column a tag, and x as its index; NaN where a tag has no value.

        Raises:
          UsageError: see `curves`; or pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UsageError("frame needs pandas, which is not installed: `curves` has the same as arrays") from None
        columns = {}
        for tag, curve in self.curves(*tags, over=over).items():
            column = pd.Series(curve.y, index=curve.x)
            columns[tag] = column[~column.index.duplicated(keep="last")]  # seconds may repeat
        return pd.DataFrame(columns).sort_index().rename_axis(over)

    @property
    def checkpoints(self) -> list[CheckpointInfo]:
        """The checkpoints that are complete, the oldest first; `pipeline.train(..., resume=True)` takes the newest."""
        folder = self._directory.checkpoints
        found = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink() and path.suffix != ".part":
                manifest = (_read(path / "manifest.json") or {}).get("manifest")
                if manifest is not None:  # else it is being removed, or of an older version
                    found.append(_checkpoint(path, manifest))
        return found

    def _no_values(self, tag: str, known: Iterable[str]) -> str:
        near = difflib.get_close_matches(tag, known, n=1, cutoff=0.0)
        return f"{self.path} has no value of {tag!r} yet" + (f"; the nearest tag is {near[0]!r}" if near else "")


def _checkpoint(path: Path, manifest: dict[str, Any]) -> CheckpointInfo:
    counters = manifest["counters"]
    return CheckpointInfo(
        path,
        counters.get("environment_steps", 0),
        counters.get("gradient_steps", 0),
        manifest.get("mean_return"),
        manifest["written_at"],
    )


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, which is replaced as a whole; None while there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return content


def _tag(tag: str) -> str:
    if not isinstance(tag, str):
        raise UsageError(f"tag is text, such as {MEAN_RETURN!r}, not {tag!r}")
    return tag


def _is_seconds(over: str) -> bool:
    if over not in ("steps", "seconds"):
        raise UsageError(f"over is 'steps' or 'seconds', not {over!r}")
    return over == "seconds"
