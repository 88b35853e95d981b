"""The run directory: paths of what a run leaves on disk, and a lock that keeps other runs out."""

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import UsageError

if TYPE_CHECKING:  # `pipeline.Run` reads a run where nothing but NumPy and TensorBoard is installed
    from pipeline.experiment.sections import Experiment


def refuse_no_folder(folder: Path, flag: str) -> None:
    """Refuses a place where no folder can be: below a file, or a URL, of which a path keeps one slash."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{flag}={folder} cannot be: {path} is a file")
        if path.name.endswith(":") and not path.exists():
            raise UsageError(
                f"{flag} is a URL ({path.name}//...), not a folder: checkpoint.mirror brings checkpoints there"
            )


class RunDirectory:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.specs = path / "specs.json"
        self.summary = path / "summary.json"
        self.status = path / "status.json"
        self.evaluations = path / "evaluations.jsonl"
        self.stop_request = path / "stop.json"
        self.checkpoints = path / "checkpoints"
        self.policies = path / "policies"
        self.bad_batches = path / "bad_batches"
        self.tensorboard = path / "tensorboard"
        self.logs = path / "logs"
        self.recorders = path / "recorders"
        self._lock: int | None = None

    def experiment(self) -> "Experiment":
        """The experiment of the run.

        Raises:
          UsageError: there is no run here.
        """
        from pipeline.experiment import config

        if not self.config.is_file():
            raise UsageError(f"{self.path} holds no run: there is no config.toml")
        return config.parse(self.config.read_text(), source=str(self.config))

    def check(self, experiment: "Experiment", resume: bool) -> "Experiment":
        """Refuses what cannot be run here, before anything is written.

        Returns:
          The experiment to run; of a run that is resumed, with the shape of the items that it has stored.

        Raises:
          UsageError: the directory holds another run, or cannot be resumed with this experiment.
        """
        refuse_no_folder(self.path, "--run_dir")
        if not self.config.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise UsageError(f"{self.path} is not empty and holds no run: choose another --run_dir")
            return experiment
        if not resume:
            raise UsageError(f"{self.path} holds a run already: continue it with --resume, or choose another --run_dir")
        from pipeline.experiment.resume import resumed

        return resumed(self.experiment(), experiment, self.path)

    def lock(self, holder: str = "run", flag: str = "--run_dir") -> None:
        """Keeps others out of the directory until this process ends; `holder` and `flag` are for messages.

        Raises:
          UsageError: a run is in it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            words = f"{self.path} is in use by a {holder}: wait for its end, or choose another {flag}"
            if not isinstance(error, BlockingIOError):
                words = f"{flag}={self.path} cannot be written: {error.strerror}"
            raise UsageError(words) from None

    @property
    def is_in_use(self) -> bool:
        """Whether a run is in it now."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def unlock(self) -> None:
        """Lets other runs in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def shard(self, index: int) -> Path:
        """The directory of one of the replay's servers in processes of their own."""
        return self.path / f"replay-{index}"

    def recorder(self, role: str, incarnation: int) -> Path:
        """The record of one process of a role, such as "collector-0"."""
        return self.recorders / f"{role}.{incarnation}"

    def incarnations(self, role: str) -> int:
        """How often a role has been started in this run."""
        numbers = (int(path.suffix[1:]) for path in self.recorders.glob(f"{role}.*") if path.suffix[1:].isdigit())
        return max(numbers, default=-1) + 1

    def create(self, experiment: "Experiment") -> None:
        """Writes the resolved config; every process reads it from here."""
        from pipeline.experiment import config

        self.logs.mkdir(parents=True, exist_ok=True)
        self.recorders.mkdir(exist_ok=True)
        self.stop_request.unlink(missing_ok=True)
        write_atomically(self.config, config.dump(experiment).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file; a reader sees the old content or the new.

    Raises:
      OSError: it could not be written; the old content stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by indented JSON."""
    import msgspec

    write_atomically(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
