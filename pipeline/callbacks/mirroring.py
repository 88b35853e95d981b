"""Keeps what a run writes in its mirror, too: a thread beside learning.

The thread watches the run directory: it takes the newest checkpoint once it is complete, policies, the config and the
results. It is in the process that began the run, outside of the learner's, or in that of a role started by hand.
"""

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agents.struct_types import prepared
from pipeline.callbacks.mirror_fetching import CONFIG, POLICIES, RESULTS, prepare
from pipeline.experiment.run_directory import RunDirectory, write_json
from pipeline.experiment.sections import Experiment
from pipeline.records.checkpoint_writer import link_or_copy, paths
from pipeline.records.object_store import FIELD, Mirrored, Store, newness, reason_of
from pipeline.records.results import Summary

log = logging.getLogger("mirror")

_POLL_SECONDS = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Between two attempts: 1, 2, 4 ... s."""
_STANDSTILL_SECONDS = 120.0
"""Without a byte that moves, after which a run that has ended waits for its mirror no longer."""
_STAGED = ".mirror"


@contextlib.contextmanager
def beside(
    experiment: Experiment,
    run: RunDirectory,
    shards: int = 0,
    under: str = "",
    beat: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Mirrors a run while the context is open, and at its end what is left.

    Args:
      experiment: as `prepare` has returned it.
      run: its directory, or that of a server of its replay which was started by hand.
      shards: see `prepare`.
      under: see `Store.checkpoints`.
      beat: called again and again while the end is waited for.
    """
    mirror = Mirror(experiment, run, shards, under)
    try:
        yield
    finally:
        mirror.close(beat)


def of_role(
    experiment: Experiment, role: str, index: int, run_dir: str | None, resume: bool, beat: Callable[[], None]
) -> tuple[Experiment, contextlib.AbstractContextManager[None]]:
    """`prepare` and `beside` for a role that was started by hand; of roles without a directory to mirror, nothing.

    Args:
      experiment: with `checkpoint.mirror`.
      role: such as "learner".
      index: of the role.
      run_dir: its own.
      resume: whether it goes on.
      beat: see `beside`.

    Raises:
      UsageError: see `prepare`.
    """
    if not run_dir or not (role == "replay" or (role == "learner" and not index)):
        return experiment, contextlib.nullcontext()
    run, under = RunDirectory(Path(run_dir).resolve()), f"replay-{index}" if role == "replay" else ""
    experiment = prepare(experiment, run, resume, 0, under)  # each server has its own directory, on its own host
    return experiment, beside(experiment, run, 0, under, beat)


class Mirror:
    """A thread that brings what a run writes to its mirror.

    It takes the newest checkpoint, and then the best one's: those that were written and replaced meanwhile are left out
    and counted. What fails is tried again, later each time, with what is newest then.

    Args:
      experiment: with `checkpoint.mirror`.
      run: see `beside`.
      shards: see `prepare`.
      under: see `Store.checkpoints`.
    """

    def __init__(self, experiment: Experiment, run: RunDirectory, shards: int = 0, under: str = "") -> None:
        self._experiment, self._run, self._own = experiment, run, under
        self._store = Store(experiment.checkpoint.mirror)
        self._folders = {under: run.checkpoints}
        self._folders |= {f"replay-{index}": run.shard(index) / run.checkpoints.name for index in range(shards)}
        self._unseen = list(self._folders)
        self._newest: dict[str, str] = {}  # by folder, what is there as a whole
        self._tidied: dict[str, tuple[set[str], str]] = {}  # by folder, what it held when old ones were removed there
        self._sent: dict[str, tuple[int, int]] = {}  # by file, its state when it was sent
        self._done: tuple[str, str, set[str]] = ("", "", set())  # files of an attempt that was cut off
        self._state = Mirrored()
        self._noted: Mirrored | None = None
        self._attempts, self._pause, self._ending = 0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def close(self, beat: Callable[[], None] = lambda: None) -> None:
        """Waits until all is there, or nothing moves any more, and says in the run's summary how far the mirror is."""
        self._ending.set()
        self._store.moved_at, began, is_said = time.monotonic(), time.monotonic(), False
        while self._thread.is_alive() and time.monotonic() - self._store.moved_at < _STANDSTILL_SECONDS:
            beat()
            self._thread.join(0.2)
            if not is_said and time.monotonic() - began > 2.0:
                is_said = True
                print(f"{FIELD}: bringing the last checkpoint to {self._store.url}", file=sys.stderr, flush=True)
        message = self._obstacle()
        if message:
            log.error("%s", message)
            print(f"warning: {message}", file=sys.stderr, flush=True)
        if not self._own:
            self._conclude(message)

    def _obstacle(self) -> str:
        """Why the newest checkpoint is not there; empty if it is."""
        behind = [under for under, folder in self._folders.items() if self._missing(under, folder)]
        if not behind:
            return ""
        have = self._newest.get(behind[0])
        why = self._state.warning or f"{FIELD}: nothing has moved for {_STANDSTILL_SECONDS:.0f} s"
        what = f"the newest one there is {have}" if have else "none of this start is there"
        return f"{why}; the last checkpoint is in {self._run.path} alone, and {what}"

    def _conclude(self, message: str) -> None:
        """Completes the summary, which the learner has written without knowing of this."""
        shutil.rmtree(self._run.path / _STAGED, ignore_errors=True)
        try:
            summary: Summary = msgspec.json.decode(self._run.summary.read_bytes(), type=prepared(Summary))
            steps = self._state.gradient_steps
            words = "; ".join(filter(None, (summary.message, message)))
            changed = msgspec.structs.replace(summary, mirrored_gradient_steps=steps, message=words)
            if changed != summary:
                write_json(self._run.summary, changed)
            if not self._thread.is_alive() and not message:
                self._store.put(self._run.summary, "summary.json")
        except FileNotFoundError:  # the run has no result
            return
        except Exception as error:  # of a disk, or of what reaches the mirror
            log.error("%s: the summary could not be completed: %s", FIELD, reason_of(error))

    def _work(self) -> None:
        while True:
            is_last = self._ending.is_set()
            is_done = self._tend(is_last)
            if is_last and is_done:
                return
            wait = _POLL_SECONDS if is_done else self._pause
            if not self._ending.wait(wait) or is_done:
                continue
            time.sleep(min(wait, 5.0))  # at the end, too, a store that throttles gets some time

    def _tend(self, is_last: bool) -> bool:
        """Brings there what is new; returns whether that worked."""
        what = ""
        try:
            self._look()
            missing = any(self._missing(*each) for each in self._folders.items())
            often = (CONFIG,) if self._own else (CONFIG, *POLICIES)
            for what in (*often, *(RESULTS if not self._own and (missing or is_last) else ())):
                self._send(what)
            for under, folder in self._folders.items():
                while name := self._missing(under, folder):
                    what = f"checkpoint {name}"
                    self._send_checkpoint(under, folder, name)
                what = "the best checkpoint, or the removal of old ones,"
                self._tidy(under, folder)
            self._attempts = 0
            self._note(msgspec.structs.replace(self._state, warning=self._behind()))
        except Exception as error:  # whatever the package that reaches it raises: a learner goes on without
            self._attempts += 1
            self._pause = min(_LONGEST_WAIT, 2.0 * self._pause if self._attempts > 1 else _FIRST_WAIT)
            warning = (
                f"{FIELD}: {what} could not be brought to {self._store.url} ({self._attempts} attempts): "
                f"{reason_of(error)}; the next one is in {self._pause:.0f} s"
            )
            log.warning("%s", warning)
            self._note(msgspec.structs.replace(self._state, warning=warning, failed=self._state.failed + 1))
        return not self._attempts

    def _look(self) -> None:
        """Sees what is there already, of a run that goes on."""
        while self._unseen:
            there = self._store.checkpoints(self._unseen[-1])
            under = self._unseen.pop()
            if (here := self._missing(under, self._folders[under])) in there:
                self._newest[under] = here
                if under == self._own:
                    self._state = msgspec.structs.replace(self._state, gradient_steps=newness(here)[1])

    def _behind(self) -> str:
        if not self._state.left_out:
            return ""
        return (
            f"{FIELD} falls behind: {self._state.left_out} checkpoints were left out so far, as one takes "
            f"{self._state.seconds:.0f} s: raise checkpoint.every_seconds, which is "
            f"{self._experiment.checkpoint.every_seconds:g}"
        )

    def _missing(self, under: str, folder: Path) -> str:
        """The newest checkpoint that is complete here and not there; empty if there is none."""
        newest = next(iter(paths(folder)), None)
        return newest.name if newest is not None and newest.name != self._newest.get(under) else ""

    def _send(self, name: str) -> None:
        path = self._run.path / name
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            state = found.st_mtime_ns, found.st_size
            if self._sent.get(name) != state:
                self._store.put(path, f"{self._own}/{name}".lstrip("/"))
                self._sent[name] = state

    def _send_checkpoint(self, under: str, folder: Path, name: str) -> None:
        began, last = time.monotonic(), self._newest.get(under)
        if (size := self._bring(under, folder, name)) is None:
            return  # it has been replaced by a newer one
        self._newest[under] = name
        if under == self._own:
            left_out = newness(name)[0] - newness(last)[0] - 1 if last else 0
            seconds = time.monotonic() - began
            state = msgspec.structs.replace(self._state, gradient_steps=newness(name)[1], seconds=seconds, size=size)
            self._state = msgspec.structs.replace(state, left_out=state.left_out + left_out)
            log.info("checkpoint %s: %.1f MiB brought to %s in %.2f s", name, size / 2**20, self._store.url, seconds)

    def _bring(self, under: str, folder: Path, name: str) -> int | None:
        """Brings a checkpoint there; its bytes, or None if it is here no more."""
        staged = self._run.path / _STAGED / (under or "run") / name
        if not staged.is_dir():  # the run may remove its own meanwhile
            shutil.rmtree(staged.parent, ignore_errors=True)
            try:
                shutil.copytree(folder / name, staged, copy_function=link_or_copy)
            except (FileNotFoundError, shutil.Error):
                shutil.rmtree(staged.parent, ignore_errors=True)
                if (folder / name).exists():
                    raise
                return None
        if self._done[:2] != (under, name):
            self._done = under, name, set()
        size = self._store.upload(staged, under, name, self._done[2])
        shutil.rmtree(staged.parent, ignore_errors=True)
        return size

    def _tidy(self, under: str, folder: Path) -> None:
        """Has the best one's checkpoint there, too, and removes there what has been removed here."""
        here, best = {path.name for path in paths(folder)}, ""
        with contextlib.suppress(OSError):
            best = (folder / "best").readlink().name
        if under in self._newest and self._tidied.get(under) != (here, best):
            there = self._store.checkpoints(under)
            if best in here and best not in there and self._bring(under, folder, best) is not None:
                there.append(best)
                if under == self._own and self._state.left_out:
                    self._state = msgspec.structs.replace(self._state, left_out=self._state.left_out - 1)
            if best in here and best in there:
                self._store.point_at_best(best, under)
            kept = (here & set(there)) | {self._newest[under]}
            self._store.prune(under, kept, self._experiment.checkpoint.keep)
            self._tidied[under] = here, best

    def _note(self, state: Mirrored) -> None:
        self._state = state
        if state != self._noted and self._run.config.exists():  # else the directory is none of a run's yet
            self._noted = state
            with contextlib.suppress(OSError):  # a full disk costs no mirror
                write_json(self._run.path / "mirror.json", state)
