"""Checkpoints and other files of a run in an object store or another folder: what `checkpoint.mirror` names.

fsspec reaches it: "s3://bucket/prefix" through s3fs, a path as it is, and what other packages register. A checkpoint
there has the same files as on disk; its manifest comes last, so that one which was cut off is never taken for whole.
Imported by what has a mirror, and by those who look into one. No TensorFlow.
"""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pipeline.experiment.config import UsageError
from pipeline.records.checkpoint import Checkpoint
from pipeline.records.checkpoint_writer import MANIFEST, NAME, order_of

FIELD = "checkpoint.mirror"
_CHECKPOINTS, _BEST, _PART, _PROBE = "checkpoints", "best", ".part", ".probe"
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 120, "retries": {"max_attempts": 1}}},
    "file": {"auto_mkdir": True},
}
"""s3fs tries each call five times by itself."""
_UPLOAD: dict[str, dict[str, Any]] = {"s3": {"chunksize": 5 * 2**20, "max_concurrency": 2}}
"""Parts that a slow link brings there before `read_timeout`."""


class Mirrored(msgspec.Struct, frozen=True):
    """`mirror.json` of a run: how far its mirror is."""

    gradient_steps: int | None = None
    """Of the newest checkpoint that is there as a whole."""
    seconds: float = 0.0
    """That its upload took."""
    size: int = 0
    """Its bytes."""
    failed: int = 0
    """Uploads that failed, each attempt counted."""
    left_out: int = 0
    """Checkpoints that a newer one came before."""
    warning: str = ""
    """What is wrong now; empty while nothing is."""


class Store:
    """A place for the files of one run, at which names are paths with slashes.

    Args:
      url: what `checkpoint.mirror` says.

    Raises:
      UsageError: no package that is installed reaches it, or the URL holds a password.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "@" in urlsplit(url).netloc:
            raise UsageError(f"{FIELD} holds a user or a password, which would be kept in the run directory: {_WHERE}")
        try:
            import fsspec
            from fsspec.callbacks import Callback

            scheme = urlsplit(url).scheme or "file"
            options, self._upload = _OPTIONS.get(scheme, {}), _UPLOAD.get(scheme, {})
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except ImportError as error:
            from pipeline.runtime.installation import how_to_install

            raise UsageError(f"{FIELD}={url!r}: {error}: install it by {how_to_install('mirror')}") from None
        except ValueError as error:
            raise UsageError(f"{FIELD}={url!r}: {error}") from None
        self._is_local = "file" in self._files.protocol
        self._root = self._root.rstrip("/")
        self.moved_at = time.monotonic()
        """When bytes moved last."""
        moved = self._moved

        class Moving(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                moved()

        self._moving = Moving()

    def check(self) -> None:
        """Writes a file there and removes it again.

        Raises:
          UsageError: that does not work; says why.
        """
        try:
            self.write(_PROBE, b"")
            self.remove(_PROBE)
        except Exception as error:  # whatever the package that reaches it raises
            raise UsageError(f"{FIELD}={self.url!r} cannot be written: {reason_of(error)}") from None

    def checkpoints(self, under: str = "") -> list[str]:
        """Names of the checkpoints that have a manifest, the newest first.

        Args:
          under: whose: empty of the run's, "replay-0" of a server of its replay.
        """
        return [name for name, files in self._found(under).items() if MANIFEST in files]

    def best(self, under: str = "") -> str:
        """The name of the checkpoint that is the best one's; empty if none is known."""
        content = self.read(_join(under, _CHECKPOINTS, _BEST))
        name = (content or b"").decode(errors="replace")
        return name if NAME.fullmatch(name) else ""

    def upload(self, folder: Path, under: str, name: str, done: set[str]) -> int:
        """Brings a checkpoint there, its manifest last.

        Args:
          folder: its files; nobody changes them.
          under: see `checkpoints`.
          name: of the checkpoint.
          done: paths of the files that are there already, by an attempt that was cut off; those that come are added.

        Returns:
          Bytes of all its files.
        """
        place = _join(under, _CHECKPOINTS, name)
        if not done:
            self.remove(f"{place}/{MANIFEST}")  # of a checkpoint of the same name that somebody has replaced
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        for path in [*files, folder / MANIFEST]:
            within = path.relative_to(folder).as_posix()
            if within not in done:
                self.put(path, f"{place}/{within}")
                done.add(within)
        return sum(path.stat().st_size for path in files)

    def point_at_best(self, name: str, under: str = "") -> None:
        """Notes which checkpoint is the best one's."""
        self.write(_join(under, _CHECKPOINTS, _BEST), name.encode())

    def prune(self, under: str, kept: set[str], most: int) -> None:
        """Removes checkpoints that are not needed any more, and those that were cut off.

        Args:
          under: see `checkpoints`.
          kept: names that stay; the newest of them is whole.
          most: so many of the newest whole ones stay, too, and the best.
        """
        found = self._found(under)
        whole = [name for name, files in found.items() if MANIFEST in files]
        kept = kept | set(whole[:most]) | {self.best(under)}
        for name in found:
            if name not in kept:
                place = _join(under, _CHECKPOINTS, name)
                self.remove(f"{place}/{MANIFEST}")  # first: what is left is none
                self._files.rm(f"{self._root}/{place}", recursive=True)

    def fetch(self, name: str, under: str, folder: Path) -> Checkpoint:
        """Brings a checkpoint here, and makes it visible once all its files are as they were written.

        Args:
          name: of the checkpoint.
          under: see `checkpoints`.
          folder: of the run's checkpoints.

        Raises:
          BadCheckpoint: it is not whole, or damaged; nothing of it is left here.
        """
        part, place = folder / f"{name}{_PART}", _join(under, _CHECKPOINTS, name)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for within in self._found(under).get(name, ()):
                (part / within).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{self._root}/{place}/{within}", str(part / within), callback=self._moving)
            Checkpoint(part).verify()
            part.rename(folder / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return Checkpoint(folder / name)

    def put(self, path: Path, name: str) -> None:
        """Brings a file there; a reader sees the old one or the new one."""
        target = f"{self._root}/{name}"
        if self._is_local:  # objects appear as a whole, files do not
            self._files.put_file(str(path), target + _PART, callback=self._moving)
            self._files.mv(target + _PART, target)
        else:
            self._files.put_file(str(path), target, callback=self._moving, **self._upload)
        self._moved()

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file."""
        self._files.pipe_file(f"{self._root}/{name}", content)
        self._moved()

    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def _found(self, under: str) -> dict[str, list[str]]:
        """The files of every checkpoint, whole or not, by its name: the newest first."""
        root = f"{self._root}/{_join(under, _CHECKPOINTS)}"
        try:
            paths = self._files.find(root)
        except FileNotFoundError:
            paths = []
        found: dict[str, list[str]] = {}
        for path in paths:
            name, _, within = path.removeprefix(f"{root}/").partition("/")
            if NAME.fullmatch(name) and stays_within(within) and not within.endswith(_PART):
                found.setdefault(name, []).append(within)
        return {name: found[name] for name in sorted(found, key=newness, reverse=True)}

    def _moved(self) -> None:
        self.moved_at = time.monotonic()


_WHERE = "they come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or a profile"


def newness(name: str) -> tuple[int, int]:
    """`order_of` of a name."""
    return order_of(Path(name))


def stays_within(name: str) -> bool:
    """Whether an object's name, which may be anything, is a relative path that leads to no other folder."""
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split()) or repr(error)
    return words if isinstance(error, OSError) and error.args else f"{type(error).__name__}: {words}"


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))
